"""Grouping, units and directions of the summary; the stage's test goes through the files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ctfm.config import Evaluate
from ctfm.metrics import summary
from tests import synthetic


def test_direction_is_known_from_the_name():
    assert summary.lower_is_better("hd95_mm")
    assert summary.lower_is_better("false_positive_ml")
    assert not summary.lower_is_better("dice")
    assert not summary.lower_is_better("surface_dice_3mm")


def test_distances_win_when_smaller():
    a, b = synthetic.metrics("ctfm"), synthetic.metrics("random")
    table = pd.concat([a, b]).assign(metric="hd95_mm")
    rows = pd.DataFrame(summary.summarise(table, Evaluate(bootstrap=100)))
    wins = rows[(rows.metric == "hd95_mm_win_rate") & (rows.group == "all")]
    assert wins.estimate.tolist() == [0.0]
    assert set(rows.method) == {"ours"}


def test_pooled_metrics_of_the_group_all_have_one_row():
    part = synthetic.metrics("ctfm").assign(metric="micro_dice", label="all", group="all")
    rows = summary.summarise(part.drop_duplicates("case_id"), Evaluate(bootstrap=100))
    assert [row["group"] for row in rows] == ["all"]


def test_a_metric_without_any_value_has_no_row():
    part = synthetic.metrics("ctfm").assign(value=np.nan)
    assert summary.summarise(part, Evaluate(bootstrap=100)) == []


def test_each_number_of_shots_has_its_own_difference():
    table = pd.concat([synthetic.metrics(e, s) for e in ("ctfm", "random") for s in ("5", "all")])
    rows = pd.DataFrame(summary.summarise(table, Evaluate(bootstrap=100)))
    pairs = rows[(rows.reference == "random") & (rows.group == "all") & (rows.metric == "dice")].set_index("shots")
    for shots in ("5", "all"):
        own = rows[(rows.reference == "") & (rows.group == "all") & (rows.shots == shots) & (rows.method == "ours")]
        difference = own.set_index("encoder").estimate
        assert pairs.loc[shots].estimate == pytest.approx(difference["ctfm"] - difference["random"])
