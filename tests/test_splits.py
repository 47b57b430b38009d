from __future__ import annotations

from pathlib import Path

import pytest

from ctfm import splits
from ctfm.config import Dataset
from ctfm.datasets import Case
from ctfm.errors import UserError

SETTINGS = {"kind": "totalsegmentator", "root": "data"}


def cases(*splits_of: str, patients: str = "") -> list[Case]:
    """Return cases c0, c1, ... in these official splits; ``patients`` are letters, one for each."""
    names = patients or [f"c{i}" for i in range(len(splits_of))]
    return [
        Case(f"c{i}", names[i], split, Path(), {}, "ct thorax" if i % 2 else "ct head")
        for i, split in enumerate(splits_of)
    ]


def assigned(found: list[Case], **options: object) -> dict[str, tuple[str, str]]:
    rows = splits.assign(found, Dataset(**SETTINGS, **options))
    assert [row["case"] for _, row in rows] == [case.case for case in found]  # the data set's order
    return {row["case"]: (row["split"], row.get("reason", "")) for _, row in rows}


def written(folder: Path, text: str) -> str:
    (folder / "list.csv").write_text(text)
    return str(folder / "list.csv")


def test_the_official_split_is_kept_and_cases_without_one_are_told():
    found = assigned(cases("train", "", "test", "val"))
    assert found == {"c0": ("train", ""), "c1": ("", "not_in_split"), "c2": ("test", ""), "c3": ("val", "")}


def test_a_list_may_say_whose_a_case_is(tmp_path):
    mine = written(tmp_path, "case,split,patient\nc0,train,p\nc1,train,p\nc2,test,q\n")
    rows = splits.assign(cases("", "", ""), Dataset(**SETTINGS, split=mine))
    assert [(case.patient, row["patient"], row["split"]) for case, row in rows] == [
        ("p", "p", "train"),
        ("p", "p", "train"),
        ("q", "q", "test"),
    ]
    mine = written(tmp_path, "case,split,patient\nc0,train,p\nc1,val,p\n")
    with pytest.raises(UserError, match=r"patient 'p' is in two splits, 'train' and 'val' \(case 'c1'\)"):
        assigned(cases("", ""), split=mine)


def test_a_patient_in_two_official_splits_is_refused_unless_left_out(tmp_path):
    twins = cases("train", "test", "test", patients="ppq")
    with pytest.raises(UserError, match="patient 'p' is in two splits"):
        assigned(twins)
    out = written(tmp_path, "case,reason\nc0,the same patient as c1\nc9,not here\n")
    assert assigned(twins, exclude=out) == {"c0": ("", "excluded_by_list"), "c1": ("test", ""), "c2": ("test", "")}


def test_cases_left_out_keep_their_reason_and_unknown_ones_are_told(tmp_path, caplog):
    out = written(tmp_path, "case,reason\nc0,metal everywhere\nc9,not here\n")
    rows = splits.assign(cases("train", "test"), Dataset(**SETTINGS, exclude=out))
    assert rows[0][1]["detail"] == "metal everywhere" and rows[0][1]["status"] == "excluded"
    assert "1 cases are not in the data set: c9" in caplog.text


def test_kinds_of_examination_can_be_chosen():
    found = assigned(cases("train", "train", "val", "test"), study_types=("ct thorax",))
    assert assigned(cases("train", "train", "val", "test"), study_types=("*thor*",)) == found
    assert found == {"c0": ("", "study_type"), "c1": ("train", ""), "c2": ("", "study_type"), "c3": ("test", "")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case,split\nc0,training\n", "split 'training' of case 'c0' must be one of train, val, test"),
        ("case,split\nc0,train\nc0,test\n", "case 'c0' is listed twice"),
        ("name,split\nc0,train\n", r"lacks the column\(s\) case"),
        ("", r"lacks the column\(s\) case, split"),
        ("case,split\nc7,train\nc8,train\nc0,train\n", "2 of its 3 cases are not in data: c7, c8; complete"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        assigned(cases("train", "test"), split=written(tmp_path, text))


def test_lists_are_found_by_name_or_path(tmp_path):
    assert splits.path("splits", "totalsegmentator", "paper").name == "totalsegmentator_paper.csv"
    with pytest.raises(UserError, match=r"no list 'papers' of totalsegmentator; did you mean 'paper'"):
        splits.path("splits", "totalsegmentator", "papers")
    with pytest.raises(UserError, match=r"nowhere\.csv: no such file"):
        splits.path("splits", "totalsegmentator", str(tmp_path / "nowhere.csv"))


def test_a_case_that_the_data_set_has_twice_is_refused():
    with pytest.raises(UserError, match="data: case 'c0' is listed twice"):
        assigned([*cases("train", "test"), *cases("val")])


def test_a_shipped_list_must_name_every_case_of_the_data(tmp_path, monkeypatch):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/totalsegmentator_short.csv").write_text("case,split\nc0,train\nc1,test\n")
    monkeypatch.setattr("ctfm.resources.FOLDER", tmp_path)
    assert assigned(cases("", ""), split="short") == {"c0": ("train", ""), "c1": ("test", "")}
    with pytest.raises(UserError, match="is another one; 1 cases are there that it does not list: c2; give a list of"):
        assigned(cases("", "", ""), split="short")
    with pytest.raises(UserError, match="1 of its 2 cases are not in data: c1; complete"):
        assigned(cases(""), split="short")
