"""Every data set plug-in keeps the contract; TotalSegmentator's layout is read as published."""

from __future__ import annotations

import hashlib
import json

import pytest

from ctfm import plugins, resources, splits
from ctfm.datasets import Case
from ctfm.errors import UserError
from tests.makers import write_case, write_totalsegmentator

PAPER_MSD = [(84, 21, 26), (40, 10, 13), (180, 45, 56), (193, 49, 61)]


@pytest.mark.parametrize("name", plugins.names("datasets"))
def test_contract(name, tmp_path):
    plugin = plugins.get("datasets", name)
    assert {"version", "url", "checksum", "bytes", "licence"} <= set(plugin.SOURCE) and plugin.MARKER
    kind, _, digest = (plugin.SOURCE["checksum"] or "md5:").partition(":")
    assert len(digest) in (0, 2 * hashlib.new(kind).digest_size)  # None where the source is not open
    assert plugin.LABELS and all(0 < i < 256 for i in plugin.LABELS.values())
    assert len(set(plugin.LABELS.values())) == len(plugin.LABELS)
    assert set(plugin.GROUPS) == set(plugin.LABELS)
    with pytest.raises(UserError, match=plugin.SOURCE["url"]):
        plugin.check(tmp_path / "nowhere")
    with pytest.raises(UserError, match=str(tmp_path)):
        plugin.check(tmp_path)


@pytest.mark.parametrize("path", sorted(resources.path("splits").glob("*.csv")), ids=lambda p: p.stem)
def test_split_lists(path):
    assert any(path.stem.startswith(f"{kind}_") for kind in plugins.names("datasets"))
    assert {row["split"] for row in splits.read(path, "split").values()} == set(splits.SPLITS)


@pytest.mark.parametrize("path", sorted(resources.path("exclude").glob("*.csv")), ids=lambda p: p.stem)
def test_lists_of_cases_to_leave_out(path):
    assert any(path.stem.startswith(f"{kind}_") for kind in plugins.names("datasets"))
    assert all(row["reason"] for row in splits.read(path, "reason").values())


MSD = [name for name in plugins.names("datasets") if name.startswith("msd_")]


def decathlon(root, labels, training=("a_1", "a_2"), testing=(), **changes):
    """Write a data set in the Decathlon's layout, of empty files."""
    entry = lambda name: {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}  # noqa: E731
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in (*training, *testing):
            (root / folder / f"{name}.nii.gz").touch()
    numbers = {"0": "background"} | {str(i): name.title() for name, i in labels.items()}
    about = {"labels": numbers, "training": [entry(n) for n in training], "test": ["./imagesTs/a_9.nii.gz"]}
    about |= {"testing": [entry(n) for n in testing]} if testing else {}
    (root / "dataset.json").write_text(json.dumps(about | changes))


@pytest.mark.parametrize("name", MSD)
def test_decathlon_layout(name, tmp_path):
    plugin = plugins.get("datasets", name)
    assert plugin.GROUPS[max(plugin.LABELS, key=plugin.LABELS.__getitem__)] == "tumour"
    decathlon(tmp_path, plugin.LABELS)
    (tmp_path / "imagesTr/._a_1.nii.gz").touch()  # as macOS leaves them in the published archives
    plugin.check(tmp_path)
    found = list(plugin.cases(tmp_path))
    assert [(c.case, c.patient, c.split) for c in found] == [("a_1", "a_1", "train"), ("a_2", "a_2", "train")]
    assert found[0].image == tmp_path / "imagesTr/a_1.nii.gz" and found[0].labels == tmp_path / "labelsTr/a_1.nii.gz"


def test_decathlon_lists_in_the_manner_of_monai_have_splits(tmp_path):
    plugin = plugins.get("datasets", "msd_task03_liver")
    decathlon(tmp_path, plugin.LABELS, testing=("a_3",))
    about = json.loads((tmp_path / "dataset.json").read_text())
    about["training"][1]["fold"] = 0
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    plugin.check(tmp_path)
    assert [(c.case, c.split) for c in plugin.cases(tmp_path)] == [("a_1", "train"), ("a_2", "val"), ("a_3", "test")]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: (r / "labelsTr/a_2.nii.gz").unlink(), "1 files are missing: labelsTr/a_2.nii.gz; fetch"),
        (lambda r: (r / "imagesTr/b_7.nii.gz").touch(), "1 files are not on its list: imagesTr/b_7.nii.gz; fetch"),
        (lambda r: decathlon(r, {"cancer": 1, "liver": 2}), "its labels are .* not .*name the folder of this task"),
        (lambda r: decathlon(r, {"liver": 1, "cancer": 2}, training=()), "needs 'labels' and 'training'"),
        (lambda r: decathlon(r, {"liver": 1, "cancer": 2}, training=("../../x",)), "lies outside of the folder"),
        (lambda r: (r / "dataset.json").write_text("{"), "not valid JSON"),
    ],
)
def test_a_decathlon_list_that_is_not_of_its_files_is_refused(spoil, words, tmp_path):
    plugin, root = plugins.get("datasets", "msd_task03_liver"), tmp_path / "task"
    decathlon(root, plugin.LABELS)
    spoil(root)
    with pytest.raises(UserError, match=words):
        plugin.check(root)


@pytest.mark.parametrize(("name", "counts"), zip(MSD, PAPER_MSD, strict=True))
def test_the_papers_split_of_the_decathlon(name, counts, shared_data):
    table = splits.read(splits.path("splits", name, "paper"), "split")
    found = [row["split"] for row in table.values()]
    assert tuple(found.count(s) for s in ("train", "val", "test")) == counts
    shipped = resources.path("splits", f"{name}_paper.csv").read_text()
    assert shipped == (shared_data / f"splits/{name}_paper.csv").read_text()


@pytest.fixture
def totalsegmentator():
    return plugins.get("datasets", "totalsegmentator")


def test_totalsegmentator_has_the_117_structures_of_version_2(totalsegmentator):
    assert sorted(totalsegmentator.LABELS.values()) == list(range(1, 118))
    assert (totalsegmentator.LABELS["spleen"], totalsegmentator.LABELS["costal_cartilages"]) == (1, 117)
    counts = {g: list(totalsegmentator.GROUPS.values()).count(g) for g in set(totalsegmentator.GROUPS.values())}
    assert counts == {"organs": 24, "vertebrae": 26, "cardiac": 18, "muscles": 23, "ribs": 26}


def test_totalsegmentator_paper_split(totalsegmentator):
    table = splits.read(splits.path("splits", "totalsegmentator", "paper"), "split")
    found = [row["split"] for row in table.values()]
    assert [found.count(s) for s in ("train", "val", "test")] == [928, 52, 248]


def test_the_shipped_paper_split_is_the_published_one(shared_data):
    shipped = splits.path("splits", "totalsegmentator", "paper")
    assert shipped.read_text() == (shared_data / "splits/totalsegmentator_paper.csv").read_text()


@pytest.mark.parametrize("separator", [";", ","])
def test_totalsegmentator_layout(totalsegmentator, tmp_path, separator):
    write_totalsegmentator(tmp_path, {"s0001": "train", "s0000": "test"}, separator)
    write_case(tmp_path / "s0003", merged={"liver": 5}, names=("liver",))
    with (tmp_path / "meta.csv").open("a") as stream:
        stream.write(separator.join(("s0003", "61", "val")) + "\n" + separator.join(("s0004", "62", "val")) + "\n")
    totalsegmentator.check(tmp_path)
    cases = list(totalsegmentator.cases(tmp_path))
    assert all(isinstance(case, Case) for case in cases)
    assert [(c.case, c.patient, c.split) for c in cases] == [
        ("s0001", "s0001", "train"),
        ("s0000", "s0000", "test"),
        ("s0003", "s0003", "val"),
        ("s0004", "s0004", "val"),
    ]
    assert [(c.age, c.sex) for c in cases] == [(60, ""), (60, ""), (61, ""), (62, "")]
    assert cases[0].image == tmp_path / "s0001/ct.nii.gz"
    assert set(cases[0].labels) == {"liver", "spleen", "aorta"}
    assert cases[2].labels == tmp_path / "s0003/label.nii.gz"
    assert cases[3].labels == {}
    assert {c.study for c in cases} == {""}
    (tmp_path / "meta.csv").write_text("image_id;split;study_type\ns0000;train;ct thorax\n")
    assert [c.study for c in totalsegmentator.cases(tmp_path)] == ["ct thorax"]
    write_case(tmp_path / "s0000", merged={"liver": 5}, names=("liver",))
    assert set(next(totalsegmentator.cases(tmp_path)).labels) == {"liver", "spleen", "aorta"}  # masks before a map


def test_totalsegmentator_wants_its_columns(totalsegmentator, tmp_path):
    (tmp_path / "meta.csv").write_text("image_id;age\ns0000;60\n")
    with pytest.raises(UserError, match=r"lacks the column.*split"):
        totalsegmentator.check(tmp_path)
