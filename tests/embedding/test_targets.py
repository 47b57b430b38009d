from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ctfm.embedding import targets
from ctfm.errors import UserError


def write(folder, name="labels.csv", **columns):
    pd.DataFrame(columns).to_csv(folder / name, index=False)
    return folder / name


def test_names_lose_their_suffix_and_empty_cells_are_no_label(tmp_path):
    path = write(tmp_path, VolumeName=["a.nii.gz", "dir/b.nrrd", "c", "d"], nodule=[1, 0, None, 1], site=list("xyzx"))
    found = targets.read(path)
    assert found.targets == ["nodule", "site"]
    one = targets.target(found, "nodule", ["c", "b", "other", "a"])
    assert one.rows.tolist() == [1, 3] and one.label.tolist() == [0, 1] and one.classes == ["0", "1"]
    assert targets.target(found, "site", ["d", "c"]).classes == ["x", "y", "z"]
    assert targets.read(path, ["site"]).targets == ["site"]


def test_folds_keep_patients_together_and_classes_apart():
    random = np.random.default_rng(0)
    patient = np.repeat([f"p{i}" for i in range(60)], 2)
    label = np.repeat(random.random(60) < 0.3, 2).astype(int)
    made = list(targets.folds(label, patient, np.full(120, ""), 5, 0))
    assert sorted(np.concatenate([f.test for f in made]).tolist()) == list(range(120))
    for fold in made:
        sides = [set(patient[part]) for part in fold]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert all(set(label[part]) == {0, 1} for part in fold)
        assert sum(map(len, fold)) == 120


@pytest.mark.parametrize("names", [("train", "val", "test"), ("train", "test"), ("train", "val")])
def test_a_given_split_is_kept(names):
    split = np.resize(np.array(names), 30)
    label, patient = np.resize([0, 1, 1, 0], 30), np.arange(30).astype(str)
    (fold,) = targets.folds(label, patient, split, 5, 0)
    assert set(split[fold.test]) == {names[-1]}
    assert set(split[fold.train]) == {"train"}
    assert set(split[fold.choose]) == ({"val"} if len(names) == 3 else {"train"})
    assert len(set(fold.train) & set(fold.choose)) == 0


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"who": ["a", "b"], "x": [0, 1]}, "needs a column of the scans' names"),
        ({"case": ["a.nii", "a.nrrd"], "x": [0, 1]}, "case 'a' is listed twice"),
        ({"case": ["a", "b"], "x": [1, 1]}, "column 'x' has 1 different values"),
        ({"case": [f"c{i}" for i in range(30)], "age": list(range(30))}, "column 'age' has 30 different values"),
        ({"case": ["a", "b"], "x": [0, 1], "split": ["train", "dev"]}, "split 'dev' must be train, val or test"),
        (
            {"case": ["a", "b"], "x": [0, 1], "split": ["train", "test"], "patient": ["p", "p"]},
            "patient 'p' is in two splits",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_told(tmp_path, columns, words):
    with pytest.raises(UserError, match=words):
        targets.read(write(tmp_path, **columns))


def test_an_unknown_target_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="no column 'nodul'; did you mean 'nodule'"):
        targets.read(write(tmp_path, case=["a", "b"], nodule=[0, 1]), ["nodul"])
    (tmp_path / "torn.parquet").write_bytes(b"torn")
    with pytest.raises(UserError, match="not a readable table"):
        targets.read(tmp_path / "torn.parquet")


def test_too_few_patients_of_a_class_are_told():
    with pytest.raises(UserError, match="a class has 3 patients, fewer than the 5 folds"):
        list(targets.folds(np.array([1, 1, 1, *[0] * 20]), np.arange(23).astype(str), np.full(23, ""), 5, 0))
