"""Ours beside the paper's."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from ctfm import tables
from ctfm.reporting import outcomes
from ctfm.reporting.facts import NARROW
from tests import synthetic


def test_estimates_stand_with_their_interval():
    row = SimpleNamespace(estimate=0.5, low=0.4, high=0.6)
    assert outcomes.bounded(row).replace(NARROW, " ") == "0.5000 (0.4000 to 0.6000)"
    none = outcomes.bounded(SimpleNamespace(estimate=0.5, low=math.nan, high=math.nan))
    assert none.replace(NARROW, " ") == "0.5000 (no interval)"
    assert outcomes.p_value(1e-9) == "< 0.0001"
    assert outcomes.p_value(math.nan) == "–"


def test_other_data_have_no_published_value_and_say_why(tmp_path):
    (task,) = outcomes.tasks(synthetic.run(tmp_path))
    assert not task["comparable"]
    assert "'phantoms' with 12 test patients" in task["not_comparable"][0]
    shots = [row[1] for row in task["main"].rows]
    assert shots == ["5", "5", "all", "all"]
    assert {row[6] for row in task["main"].rows} == {"–"}


def test_paired_differences_are_told_over_patients_and_over_seeds(tmp_path):
    (task,) = outcomes.tasks(synthetic.run(tmp_path, encoders=("ctfm", "random", "suprem")))
    gains = [[cell.replace(NARROW, " ") for cell in row] for row in task["gains"].rows]
    assert [row[:2] for row in gains[:2]] == [["ctfm − random", "5"], ["ctfm − random", "all"]]
    assert {row[0] for row in gains} == {"ctfm − random", "ctfm − suprem", "suprem − random"}
    assert gains[0][2].startswith("+0.")
    assert "each: +0." in gains[0][4]
    assert gains[0][7] == "100.0 % (0 ties)"
    assert task["verdicts"][0].startswith("ctfm against random, by number of training cases: better")


def test_does_pretraining_help_is_answered_at_every_number_of_training_cases(tmp_path):
    """With the paper's numbers and a share of the cases: difference, both intervals, adjusted p, each seed."""
    shots = ("5", "10", "20", "50", "100", "0.5", "all")
    root = synthetic.run(tmp_path, shots=shots[::-1], patients=6, labels={"liver": "organs"})
    (task,) = outcomes.tasks(root)
    assert [row[1] for row in task["gains"].rows] == list(shots)
    table = tables.read("summary", root / "evaluate/wholebody/summary.parquet")
    pairs = table[(table.metric == "dice") & (table.group == "all") & (table.reference == "random")].set_index("shots")
    for row in task["gains"].rows:
        values = pairs.loc[row[1]]
        cells = [cell.replace(NARROW, " ") for cell in row]
        assert cells[2] == f"{values.estimate:+.4f} ({values.low:+.4f} to {values.high:+.4f})"
        assert cells[4].startswith(f"{values.seed_low:+.4f} to {values.seed_high:+.4f}; each: ")
        assert cells[4].count(",") == 1 and cells[6] == outcomes.p_value(values.p_holm)
    assert all(f" {number}" in task["verdicts"][0] for number in shots)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"low": 0.1, "high": 0.2, "seed_low": 0.1, "seed_high": 0.3}, "better with all"),
        ({"low": -0.2, "high": -0.1, "seed_low": -0.3, "seed_high": -0.1}, "worse with all"),
        ({"low": 0.1, "high": 0.2, "seed_low": -0.1, "seed_high": 0.3}, "better for other patients, not surely"),
        ({"low": 0.1, "high": 0.2, "seed_low": np.nan, "seed_high": np.nan}, "better for other patients, not surely"),
        ({"low": -0.2, "high": -0.1, "seed_low": -0.1, "seed_high": 0.3}, "worse for other patients, not surely"),
        ({"low": -0.2, "high": 0.1, "seed_low": 0.1, "seed_high": 0.3}, "no difference shown with all"),
        ({"low": np.nan, "high": np.nan, "seed_low": 0.1, "seed_high": 0.3}, "no interval, so no answer with all"),
    ],
)
def test_a_verdict_needs_patients_and_seeds(tmp_path, values, words):
    root = synthetic.run(tmp_path, encoders=("random", "ctfm"), shots=("all",), seeds=(0,))
    (path,) = root.glob("evaluate/*/summary.parquet")
    tables.write(tables.read("summary", path).assign(**values), "summary", path)
    (task,) = outcomes.tasks(root)
    assert f"training cases: {words}" in task["verdicts"][0]
    assert task["gains"].rows[0][4] == "one seed"


def test_without_a_reference_nothing_is_compared(tmp_path):
    (task,) = outcomes.tasks(synthetic.run(tmp_path, encoders=("ctfm",), seeds=(0,)))
    assert not task["compared"]
    assert task["gains"].rows == []
    assert task["verdicts"] == []


def test_no_summary_gives_no_task(tmp_path):
    assert outcomes.tasks(tmp_path) == []


def test_tumours_are_told_alone_beside_the_papers_tumours(tmp_path):
    synthetic.tumours(tmp_path, "lung", dataset="msd_task06_lung", n=13)
    (task,) = outcomes.tasks(tmp_path)
    assert [line[0] for line in task["main"].rows] == ["ctfm", "random"]
    assert {line[6] for line in task["main"].rows} == {"0.6090", "0.5320"}  # the paper's Dice of the tumour
    assert {line[1] for line in task["groups"].rows} == {"all"}
    assert {line[0] for line in task["others"].rows} >= {"asd", "missed", "false positive ml"}
    assert any("cases without prediction dropped" in reason for reason in task["not_comparable"])


def test_tasks_of_kinds_that_this_page_does_not_know_are_told_all_the_same(tmp_path):
    fixed = {"task": "anything", "dataset": "phantoms", "encoder": "ctfm", "reference": "", "shots": "all"}
    fixed |= {"method": "ours", "seeds": 1, "seed_estimates": []}
    rows = [
        {**fixed, "group": "heart", "metric": "centroid_distance_cm", "estimate": 3.5, "low": 3.0, "high": 4.0, "n": 9},
        {**fixed, "group": "heart", "metric": "inside", "estimate": 0.5, "n": None},
        {**fixed, "group": "spine", "metric": "inside", "estimate": 0.25, "n": None},
    ]
    tables.write(tables.of("summary", rows), "summary", tmp_path / "evaluate/anything/summary.parquet")
    (task,) = outcomes.tasks(tmp_path)
    assert task["metric"] == "Centroid distance cm" and not task["macro"] and task["n"] == 9
    assert task["main"].rows[0][3].replace(NARROW, " ") == "3.5000 (3.0000 to 4.0000)"
    assert [line[:2] for line in task["others"].rows] == [["inside", "heart"], ["inside", "spine"]]
