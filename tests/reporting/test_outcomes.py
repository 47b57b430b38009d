"""Ours beside the paper's."""

from __future__ import annotations

import math
from types import SimpleNamespace

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
    assert task["main"].rows[0][8].startswith("+0.")
    assert task["main"].rows[0][9].replace(NARROW, " ") == "100.0 % (0 ties)"
    assert task["main"].rows[1][8] == "–"


def test_same_data_have_the_published_value_and_its_caveats(tmp_path):
    root = synthetic.run(tmp_path, dataset="totalsegmentator", patients=248, shots=("all",), seeds=(0,))
    (task,) = outcomes.tasks(root)
    assert task["comparable"]
    assert [row[6] for row in task["main"].rows] == ["0.8981", "0.8959"]
    assert any("pooled" in reason for reason in task["not_comparable"])
    rivals = {row[0]: row[4] for row in task["quoted"].rows}
    assert rivals["vista3d"] == "yes"
    assert rivals["nnunet_totalsegmentator"] == "no"


def test_no_summary_gives_no_task(tmp_path):
    assert outcomes.tasks(tmp_path) == []
