"""Every data set plug-in keeps the contract; TotalSegmentator's layout is read as published."""

from __future__ import annotations

import hashlib
import json

import pytest

from ctfm import config, plugins, resources, splits
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


@pytest.fixture
def sinoct():
    return plugins.get("datasets", "sinoct")


@pytest.fixture
def cq500():
    return plugins.get("datasets", "cq500")


def test_sinoct_split_is_the_shipped_one_and_the_published_test_set(sinoct, shared_data):
    made = sinoct.published_split(f"series_{n}" for n in range(9779))
    shipped = splits.read(splits.path("splits", "sinoct", "paper"), "split")
    assert {name: row["split"] for name, row in shipped.items()} == made
    assert [list(made.values()).count(s) for s in ("train", "val", "test")] == [7823, 978, 978]
    with (shared_data / "published/SinoCT_combined_predictions.csv").open() as stream:
        published = {line.split(",")[0] for line in stream} - {"patient_id"}
    assert {name for name, split in made.items() if split == "test"} == published


def test_sinoct_layout(sinoct, tmp_path):
    lines = [f'series_{n},"{"0,1" if n % 2 else "1, 0"}"' for n in range(10)]
    (tmp_path / "labels.csv").write_text("patient_id,label\n" + "\n".join([*lines, 'series_10,"1,1"', "series_11,"]))
    for name in ("series_3/nrrd/scan.nrrd", "series_4/study/CT/1.dcm", "series_4/study/CT/2.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    cases = {case.case: case for case in sinoct.cases(tmp_path)}
    assert list(cases) == list(sinoct.published_split(cases))  # the order of the shuffle: low-data runs take the first
    assert [cases[f"series_{n}"].labels for n in (2, 3, 10, 11)] == [(), ("abnormal",), None, None]
    assert cases["series_3"].image == tmp_path / "series_3/nrrd/scan.nrrd"
    assert cases["series_4"].image == tmp_path / "series_4/study/CT"
    assert not cases["series_5"].image.exists()
    assert [sum(case.split == s for case in cases.values()) for s in ("train", "val", "test")] == [9, 1, 2]
    (tmp_path / "labels.csv").write_text("patient,label\nseries_1,0\n")
    with pytest.raises(UserError, match=r"lacks the column.*patient_id"):
        sinoct.check(tmp_path)


SERIES = ("CT PRE CONTRAST THIN", "CT PRE CONTRAST 5MM STD", "CT POST CONTRAST", "CT 4cc sec 150cc D3D on", "CT Bone")


def test_cq500_layout(cq500, tmp_path):
    reads = ["CQ500-CT-3,B1,0,0", "CQ500-CT-12,B1,0,1", "CQ500-CT-120,B2,0,0", "CQ500-CT-7,B1,,1", "other,B1,0,0"]
    (tmp_path / "reads.csv").write_text("\n".join(["name,Category,R1:ICH,R3:Fracture", *reads]))
    for series in SERIES:
        place = tmp_path / "qct02/CQ500CT12 CQ500CT12/Unknown Study" / series
        place.mkdir(parents=True)
        (place / "CT000000.dcm").write_bytes(b"x")
    (tmp_path / "CQ500CT3 CQ500CT3/CT Plain").mkdir(parents=True)
    (tmp_path / "CQ500CT3 CQ500CT3/CT Plain/scan.nrrd").write_bytes(b"x")
    cq500.check(tmp_path)
    cases = {case.case: case for case in cq500.cases(tmp_path)}
    assert {name: case.labels for name, case in cases.items()} == {
        "CQ500-CT-3": (),
        "CQ500-CT-12": ("abnormal",),
        "CQ500-CT-120": (),
        "CQ500-CT-7": None,
        "other": (),
    }
    assert cases["CQ500-CT-12"].image.name == "CT PRE CONTRAST 5MM STD"
    assert cases["CQ500-CT-3"].image.name == "scan.nrrd"
    assert not cases["CQ500-CT-120"].image.exists() and not cases["other"].image.exists()
    (tmp_path / "reads.csv").write_text("name,Category\nCQ500-CT-1,B1\n")
    with pytest.raises(UserError, match="such as 'R1:ICH'"):
        cq500.check(tmp_path)


def test_cq500_accounts_for_491_scans_by_name_and_reason(cq500, tmp_path):
    names = [f"CQ500-CT-{n}" for n in range(491)]
    (tmp_path / "reads.csv").write_text("\n".join(["name,R1:ICH", *(f"{name},0" for name in names)]))
    settings = config.Dataset(kind="cq500", root=str(tmp_path), exclude="paper")
    rows = [row for _, row in splits.assign(list(cq500.cases(tmp_path)), settings)]
    left_out = {row["case"]: row for row in rows if row["status"] == "excluded"}
    assert len(rows) == 491 and len(rows) - len(left_out) == 489
    assert set(left_out) == {"CQ500-CT-120", "CQ500-CT-336"}
    assert all(row["reason"] == "excluded_by_list" and "489 predictions" in row["detail"] for row in left_out.values())


@pytest.mark.parametrize(("name", "marker"), [("sinoct", "labels.csv"), ("cq500", "reads.csv")])
@pytest.mark.parametrize(("content", "message"), [(b"\xff\xfe\x00a", "not a CSV table"), (b"name\n", "no rows")])
def test_damaged_tables_are_named(name, marker, content, message, tmp_path):
    (tmp_path / marker).write_bytes(content)
    with pytest.raises(UserError, match=f"{marker}: .*{message}"):
        plugins.get("datasets", name).check(tmp_path)
