from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctfm.errors import UserError
from ctfm.metrics import overlap
from ctfm.metrics.choice import choose


def scores(rows):
    return {"m": overlap.macro(rows, "dice"), "n": 0.0}


def table(**values):
    """Rows of one label: {checkpoint: (seeds, patients) or (seeds,) values}; the epoch is in the name."""
    rows = []
    for name, found in values.items():
        for seed, row in enumerate(found):
            for patient, value in enumerate(np.atleast_1d(row)):
                case = {"case_id": f"c{patient}", "patient": f"p{patient}", "label": "a", "metric": "dice"}
                rows.append({"checkpoint": name, "epoch": int(name[1:]), "seed": seed, "value": float(value), **case})
    return pd.DataFrame(rows)


def test_equals_go_to_the_earliest_and_means_are_over_seeds():
    chosen = choose(table(e9=(0.5, 0.7), e3=(0.6, 0.6 - 1e-7), e10=(0.9, 0.1)), scores, "m")
    assert (chosen["checkpoint"], chosen["epoch"]) == ("e3", 3)
    assert chosen["why"] == "highest mean m over 2 seed(s) of 3 checkpoints; the earliest of 2 equal ones"
    assert "1e-06" in chosen["rule"] and "earliest" in chosen["rule"] and "too high" in chosen["caution"]
    assert choose(table(e1=(0.1,), e2=(float("nan"),), e3=(0.2,)), scores, "m")["checkpoint"] == "e3"


def test_the_interval_is_that_of_a_mean_for_one_label():
    values = np.random.default_rng(0).uniform(0.3, 0.9, (2, 7))
    chosen = choose(table(e1=values, e2=values - 0.2), scores, "m")
    means = values.mean(0)
    low, high = stats.t.interval(0.95, 6, means.mean(), stats.sem(means))
    assert chosen["value"] == pytest.approx(means.mean())
    assert chosen["interval"] == pytest.approx([low, high])
    assert chosen["seed_values"] == pytest.approx({"0": values[0].mean(), "1": values[1].mean()})
    assert chosen["seed_sd"] == pytest.approx(values.mean(1).std(ddof=1))
    assert chosen["as_good"] == [] and chosen["same_without_one"] == "7 of 7 patients"
    json.dumps(chosen, allow_nan=False)


def test_checkpoints_that_it_cannot_be_told_apart_from_are_named_by_paired_differences():
    base = np.linspace(0.2, 0.9, 8)  # patients differ far more than checkpoints
    flip = 0.02 * np.array([1, -1] * 4)
    chosen = choose(table(e1=[base - 0.03], e2=[base + flip - 0.001], e3=[base]), scores, "m")
    assert chosen["checkpoint"] == "e3" and chosen["as_good"] == ["e2"]
    assert int(chosen["same_without_one"].split()[0]) < 8
    reference = stats.ttest_rel(base, base + flip - 0.001)
    assert reference.pvalue > 0.05 > stats.ttest_rel(base, base - 0.03).pvalue


def test_one_patient_and_one_seed_give_no_interval():
    chosen = choose(table(e1=(0.5,), e2=(0.4,)), scores, "m")
    assert chosen["interval"] is None and chosen["seed_sd"] is None and chosen["as_good"] == ["e2"]


def test_what_was_not_measured_is_told():
    with pytest.raises(UserError, match="'mm' was not measured; did you mean 'm'"):
        choose(table(e1=(0.5,)), scores, "mm")
    with pytest.raises(UserError, match="no checkpoint has a score"):
        choose(table(e1=(float("nan"),)), scores, "m")
