"""Ablations: what the runs are, score, and differ in."""

from __future__ import annotations

import pytest

from ctfm import tables
from ctfm.reporting import ablations
from ctfm.reporting.facts import NARROW
from tests import synthetic


def scored(root, values):
    scores = [
        {"encoder": name, "checkpoint": "c", "epoch": 1, "step": 1, "shots": 4, "seed": seed}
        | {"metric": metric, "value": value}
        for name, each in values.items()
        for seed, value in enumerate(each)
        for metric in ("macro_dice", "micro_dice")
    ]
    tables.write(tables.of("scores", scores), "scores", root / "probe/x/scores.parquet")


def entry(sampling, crops):
    options = {
        "method": "simclr",
        "method_options": {"sampling": sampling},
        "crops_per_scan": crops,
        "patch": [2, 3, 4],
    }
    return {"spec": {"pretrain": {**options, "epochs": 5}}}


def test_intra_is_compared_with_cross_seed_by_seed(tmp_path):
    scored(tmp_path, {"one": [0.6, 0.8], "two": [0.5, 0.4]})
    found = ablations.ablations(tmp_path, {"encoders/one": entry("intra", 15), "encoders/two": entry("cross", 1)})
    assert found.runs.rows[0][:6] == [
        "one",
        "simclr",
        "intra",
        "15",
        f"2{NARROW}×{NARROW}3{NARROW}×{NARROW}4",
        "5",
    ]
    (pair,) = found.pairs.rows
    assert pair[0] == "one − two" and pair[3] == "crops_per_scan"
    assert float(pair[1].split(NARROW)[0]) == pytest.approx(0.25)


def test_one_run_is_no_ablation(tmp_path):
    synthetic.training(tmp_path)
    assert ablations.ablations(tmp_path, {}).runs.rows == []


def test_one_seed_has_no_interval(tmp_path):
    scored(tmp_path, {"one": [0.6], "two": [0.5]})
    found = ablations.ablations(tmp_path, {})
    assert "no interval" in found.runs.rows[0][6].replace(NARROW, " ") and found.pairs.rows == []
