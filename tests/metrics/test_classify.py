"""Measures of yes-or-no predictions against scikit-learn, the bootstrap, and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn

from ctfm.metrics import classify, intervals
from ctfm.metrics.intervals import Plan

PLAN = Plan(2000, 0.95, 0, "percentile")


def drawn(n=160, shift=1.0, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    target = (rng.random(n) < 0.45).astype(int)
    score = rng.normal(0, 1, n) + shift * target
    p = 1 / (1 + np.exp(-score))
    return target, np.round(p, 1) if ties else p


def pairwise(target, p):
    """DeLong's structural components, by comparing every pair, as in the paper of 1988."""
    wins = (p[target == 1][:, None] > p[target == 0]) + 0.5 * (p[target == 1][:, None] == p[target == 0])
    return wins.mean(1), wins.mean(0)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_scikit_learns_and_its_components_are_the_pairs(ties):
    target, p = drawn(ties=ties)
    assert classify.auc(target, p).estimate == pytest.approx(sklearn.roc_auc_score(target, p), abs=1e-12)
    for mine, theirs in zip(classify.placements(target, p), pairwise(target, p), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_delongs_interval_by_hand():
    """Ill: .9 and .4, healthy: .5, .3 and .1. Placements: 1, 2/3 and 1/2, 1, 1; AUC 5/6."""
    found = classify.auc(np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.4, 0.5, 0.3, 0.1]))
    variance = (1 / 18) / 2 + (1 / 12) / 3
    assert found.estimate == pytest.approx(5 / 6)
    assert found.low == pytest.approx(5 / 6 - 1.959964 * np.sqrt(variance), abs=1e-6)
    assert found.high == 1 and found.n == 5


def test_delongs_error_is_that_of_the_bootstrap():
    target, p = drawn(400)
    rng = np.random.default_rng(1)
    ill, healthy = np.flatnonzero(target), np.flatnonzero(1 - target)
    found = []
    for _ in range(500):
        part = np.concatenate([rng.choice(ill, ill.size), rng.choice(healthy, healthy.size)])
        found.append(sklearn.roc_auc_score(target[part], p[part]))
    assert classify.placements(target, p).error() == pytest.approx(np.std(found), rel=0.12)


def test_the_paired_difference_is_that_of_the_bootstrap_and_narrower_than_unpaired():
    target, p = drawn(400)
    q = np.clip(p + np.random.default_rng(2).normal(0, 0.05, p.size), 0, 1)
    interval, p_value = classify.auc_difference(target, p, q)
    assert interval.estimate == pytest.approx(sklearn.roc_auc_score(target, p) - sklearn.roc_auc_score(target, q))
    half = (interval.high - interval.low) / 2
    assert half < (classify.auc(target, p).high - classify.auc(target, p).low) / 4
    rng, found = np.random.default_rng(3), []
    for _ in range(400):
        part = rng.integers(400, size=400)
        found.append(sklearn.roc_auc_score(target[part], p[part]) - sklearn.roc_auc_score(target[part], q[part]))
    assert half / 1.959964 == pytest.approx(np.std(found), rel=0.12)
    assert 0 < p_value < 1
    same, one = classify.auc_difference(target, p, p)
    assert (same.estimate, one) == (0, 1)


def test_chance_is_covered_as_often_as_asked():
    covered = []
    for seed in range(300):
        target, p = drawn(60, shift=0.0, seed=seed)
        found = classify.auc(target, p)
        covered.append(found.low <= 0.5 <= found.high)
    assert 0.9 < np.mean(covered) < 0.985


def test_seeds_are_averaged_and_patients_stay_the_unit():
    target, p = drawn()
    twice = classify.auc(target, np.stack([p, p]))
    assert twice == classify.auc(target, p)
    other = drawn(seed=5)[1]
    both = classify.auc(target, np.stack([p, other]))
    expected = (sklearn.roc_auc_score(target, p) + sklearn.roc_auc_score(target, other)) / 2
    assert both.estimate == pytest.approx(expected)


@pytest.mark.parametrize("threshold", [0.5, 0.31])
def test_rates_are_scikit_learns(threshold):
    target, p = drawn()
    means = classify.counts(target, p, threshold).mean(0)
    said = (p >= threshold).astype(int)
    assert classify.f1(means) == pytest.approx(sklearn.f1_score(target, said))
    assert classify.sensitivity(means) == pytest.approx(sklearn.recall_score(target, said))
    assert classify.specificity(means) == pytest.approx(sklearn.recall_score(target, said, pos_label=0))
    assert classify.accuracy(means) == pytest.approx(sklearn.accuracy_score(target, said))


def test_the_bootstrap_of_f1_draws_patients():
    target, p = drawn()
    found = intervals.of_means(classify.counts(target, p, 0.5), classify.f1, PLAN)
    drawn_counts = intervals.resample_counts(target.size, PLAN.resamples, PLAN.seed).astype(int)
    said = (p >= 0.5).astype(int)
    scores = [sklearn.f1_score(np.repeat(target, c), np.repeat(said, c)) for c in drawn_counts[:200]]
    assert (found.low, found.high) == pytest.approx(np.quantile(scores, [0.025, 0.975]), abs=0.015)
    assert found.n == 160


def test_the_threshold_is_the_best_of_all_and_nearest_to_a_half():
    target, p = drawn()
    best = classify.best_threshold(target, p)
    scores = [sklearn.f1_score(target, p >= t, zero_division=0) for t in p]
    assert sklearn.f1_score(target, p >= best) == pytest.approx(max(scores))
    assert classify.best_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])) == pytest.approx(0.4)
    assert classify.best_threshold(np.array([1, 1]), np.array([0.3, 0.9])) == pytest.approx(0.15)
    assert classify.best_threshold(np.zeros(3), np.ones(3)) == 0.5


def test_calibration():
    """Ten patients said to be ill by .8, of whom 6 are; ten by .15, of whom 1 is: errors .2 and .05."""
    target = np.array([1] * 6 + [0] * 4 + [1] + [0] * 9)
    p = np.array([0.8] * 10 + [0.15] * 10)
    assert classify.calibration_error(classify.deviations(target, p).mean(0)) == pytest.approx(0.125)
    found = classify.brier(target, p, PLAN)
    assert found.estimate == pytest.approx(sklearn.brier_score_loss(target, p))
    assert found.low < found.estimate < found.high


def test_what_is_not_defined():
    one = classify.auc(np.ones(4), np.linspace(0, 1, 4))
    assert np.isnan([one.estimate, one.low, one.high]).all() and one.n == 4
    lone = classify.auc(np.array([1, 0, 0]), np.array([0.9, 0.1, 0.2]))
    assert lone.estimate == 1 and np.isnan(lone.low)
    assert classify.f1(classify.counts(np.zeros(3), np.zeros(3), 0.5).mean(0)) == 0
    with pytest.raises(ValueError, match="0 or 1"):
        classify.auc(np.array([0, 2]), np.array([0.1, 0.2]))


def test_wald_is_the_interval_of_a_proportion():
    found = classify.wald(0.776, 978)
    assert (round(found.low, 3), round(found.high, 3)) == (0.750, 0.802)
