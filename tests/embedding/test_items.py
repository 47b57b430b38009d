from __future__ import annotations

from pathlib import Path

import pytest

from ctfm.embedding import items
from ctfm.errors import UserError
from tests import makers


def test_scans_are_named_by_their_files_and_labels_by_the_data_set():
    paths = [Path("a/ct.nii.gz"), Path("b/ct.nrrd"), Path("series"), Path("c.b2nd")]
    made = items.of_paths(paths, [Path("x")] * 4, "totalsegmentator")
    assert [item.case for item in made] == ["ct", "ct-2", "series", "c"]
    assert made[0].names[5] == "liver" and made[0].labels == Path("x")
    assert items.of_paths(paths)[1] == items.Item("ct-2", paths[1], None, {})


def test_the_cases_of_a_data_set_with_and_without_labels(tmp_path):
    table = makers.case_table(tmp_path, {"train": 1, "test": 1})
    made = items.of_cases(table, organs=True)
    assert [(i.case, i.image.name, i.labels.name) for i in made][1] == ("s0001", "s0001.b2nd", "s0001_label.b2nd")
    assert made[0].names == {5: "liver", 1: "spleen", 52: "aorta"}
    assert {item.labels for item in items.of_cases(table, organs=False)} == {None}
    (tmp_path / "s0000_label.b2nd").write_bytes(b"torn")
    assert items.of_cases(table, organs=True)[0].names == {}


def test_what_does_not_fit_is_told():
    with pytest.raises(UserError, match="name at least one scan"):
        items.of_paths([])
    with pytest.raises(UserError, match="2 label maps for 1 scans"):
        items.of_paths([Path("a")], [Path("b"), Path("c")])
    with pytest.raises(UserError, match="did you mean 'totalsegmentator'"):
        items.of_paths([Path("a")], [Path("b")], "totalsegmentor")
