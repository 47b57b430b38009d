from __future__ import annotations

from pathlib import Path

import pytest

from ctfm import cases, tables
from ctfm.errors import UserError
from ctfm.tasks import CaseFile


@pytest.fixture
def path(tmp_path):
    rows = [
        ("s2", "p2", "train", "ok"),
        ("s1", "p1", "train", "ok"),
        ("s3", "p3", "test", "ok"),
        ("s4", "p4", "", "excluded"),
    ]
    table = [
        {"case": c, "patient": p, "split": s, "status": status, "image": f"{c}.b2nd", "label": f"{c}_label.b2nd"}
        for c, p, s, status in rows
    ]
    tables.write(tables.of("cases", table), "cases", tmp_path / "cases.parquet")
    return tmp_path / "cases.parquet"


def test_cases_of_a_split_are_sorted_and_usable(path):
    table = cases.usable(path)
    assert list(table["case"]) == ["s1", "s2", "s3"]
    found = cases.of_split(table, path.parent, "train")
    assert found[0] == CaseFile("s1", "p1", path.parent / "s1.b2nd", path.parent / "s1_label.b2nd")
    assert [c.case for c in found] == ["s1", "s2"]
    assert cases.of_split(table, path.parent, "val") == []


def test_the_hash_is_of_usable_cases_and_splits_in_any_order(path):
    table = cases.usable(path)
    assert cases.split_hash(table) == cases.split_hash(table[::-1]) == cases.split_hash(tables.read("cases", path))
    assert cases.split_hash(table) != cases.split_hash(table.assign(split="train"))


def test_a_shared_patient_is_refused():
    here, there = (CaseFile(name, "p7", Path(), Path()) for name in ("a", "b"))
    with pytest.raises(UserError, match="patient 'p7' is in two places"):
        cases.check_apart([here], [there], "two places")
    cases.check_apart([here], [], "two places")


def test_a_table_without_usable_cases_is_refused(path):
    table = tables.read("cases", path).assign(status="excluded")
    tables.write(table, "cases", path)
    with pytest.raises(UserError, match="no usable case"):
        cases.usable(path)


def test_few_shots_are_drawn_by_seed_or_are_the_first_of_the_data_set(tmp_path):
    names = ["s9", "s3", "s7", "s1", "s5", "s2"]  # as meta.csv may have them: not by name
    rows = [
        {"case": n, "patient": n, "split": "test" if n == "s3" else "train", "status": "ok", "image": n, "label": n}
        for n in names
    ]
    tables.write(tables.of("cases", rows), "cases", tmp_path / "cases.parquet")
    table = cases.usable(tmp_path / "cases.parquet")

    def drawn(shots, rule, seed=0):
        return [case.case for case in cases.training(table, tmp_path, shots, seed, rule)]

    assert drawn(3, "file_order") == drawn(0.6, "file_order", seed=1) == ["s9", "s7", "s1"]
    assert drawn("all", "random") == sorted(set(names) - {"s3"})
    assert len({tuple(drawn(2, "random", seed)) for seed in range(8)}) > 2
    with pytest.raises(UserError, match="6 cases are asked for and there are 5"):
        drawn(6, "file_order")
