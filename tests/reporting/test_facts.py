"""Facts as the page prints them."""

from __future__ import annotations

import math

import pytest

from ctfm.errors import UserError
from ctfm.figures._results import Results
from ctfm.reporting import facts
from tests import synthetic


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (3, "3"),
        (148394, "148,394"),
        (0.12345, "0.123"),
        (2000.0, "2,000"),
    ],
)
def test_numbers(value, text):
    assert facts.number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(1.23, "1.2 s"), (75, "1 min 15 s"), (7260, "2 h 01 min")])
def test_durations(seconds, text):
    assert facts.duration(seconds).replace(facts.NARROW, " ") == text


def test_benchmarks_add_up_over_tries(tmp_path):
    synthetic.everything(tmp_path)
    assert facts.benchmarks(tmp_path).rows == [["pretrain/ctfm", facts.duration(85.5), "2.00"]]


def test_seeds_are_found_wherever_they_stand(tmp_path):
    synthetic.everything(tmp_path)
    rows = {row[0]: row for row in facts.provenances(facts.runs(tmp_path)).rows}
    assert rows["encoders/ctfm"][3] == "7"
    assert rows["volumes/phantom"][3] == "–"


def test_versions_that_differ_stand_together(tmp_path):
    runs = {"a": {"packages": {"numpy": "1"}}, "b": {"packages": {"numpy": "2"}}}
    assert ["numpy", "1, 2"] in facts.environment(runs).rows


def test_a_damaged_history_is_named(tmp_path):
    path = tmp_path / "encoders/ctfm/metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(UserError, match=r"metrics\.csv.*ctfm pretrain"):
        assert Results(tmp_path).histories
