"""Every data set plug-in keeps the contract; TotalSegmentator's layout is read as published."""

from __future__ import annotations

import hashlib

import pytest

from ctfm import plugins, resources, splits
from ctfm.datasets import Case
from ctfm.errors import UserError
from tests.makers import write_case, write_totalsegmentator


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
