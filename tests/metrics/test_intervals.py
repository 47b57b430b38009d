"""Intervals against scipy, hand-worked cases and the published tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctfm.metrics import intervals
from ctfm.metrics.intervals import Plan

NAN = np.nan
PLAN = Plan(resamples=4000, confidence=0.95, seed=1)


def whole(labels: int) -> dict[str, range]:
    return {"all": range(labels)}


def test_macro_mean_is_over_patients_first_then_labels():
    values = np.array([[1.0, 0.2], [0.0, NAN], [0.5, NAN]])
    found = intervals.bootstrap(values, whole(2), PLAN)["all"]
    assert found.estimate == pytest.approx((0.5 + 0.2) / 2)
    assert found.n == 3


def test_resamples_give_the_mean_of_the_drawn_patients():
    values = np.array([[0.0, 1.0], [1.0, NAN], [4.0, 3.0]])
    counts = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    means = intervals.label_means(values, counts)
    np.testing.assert_allclose(means, [[1 / 3, 1.0], [1.0, NAN]])
    np.testing.assert_allclose(intervals.macro_mean(means), [2 / 3, 1.0])


def test_counts_sum_to_the_patients_and_repeat():
    counts = intervals.resample_counts(7, 50, 3)
    assert counts.shape == (50, 7)
    assert (counts.sum(axis=1) == 7).all()
    intervals.resample_counts.cache_clear()
    np.testing.assert_array_equal(counts, intervals.resample_counts(7, 50, 3))
    assert (counts != intervals.resample_counts(7, 50, 4)).any()


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_equals_scipy_on_the_same_resamples(method):
    """scipy draws from a seeded generator as we do, so not even the Monte-Carlo error may differ."""
    values = np.random.default_rng(0).beta(9, 1, size=(40, 4))
    found = intervals.bootstrap(values, whole(4), Plan(3000, 0.9, 5, method))["all"]
    says = stats.bootstrap(
        (values.mean(axis=1),),
        np.mean,
        n_resamples=3000,
        confidence_level=0.9,
        method=method,
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert found.low == pytest.approx(says.low, abs=1e-12)
    assert found.high == pytest.approx(says.high, abs=1e-12)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_missing_labels_agree_with_scipy_on_a_statistic_written_apart(method):
    """A macro mean over labels that patients lack is a ratio of sums: neither scipy nor we know its closed form."""
    rng = np.random.default_rng(4)
    values = rng.beta(6, 1, size=(30, 3))
    values[rng.random(values.shape) < 0.4] = NAN

    def macro(index, axis):
        return np.nanmean(np.nanmean(values[index.astype(int)], axis=1), axis=-1) if index.ndim > 1 else one(index)

    def one(index):
        return np.nanmean(np.nanmean(values[index.astype(int)], axis=0))

    patients = np.flatnonzero(np.isfinite(values).any(axis=1))
    found = intervals.bootstrap(values, whole(3), Plan(2000, 0.95, 2, method))["all"]
    says = stats.bootstrap(
        (patients,), macro, n_resamples=2000, method=method, rng=np.random.default_rng(2)
    ).confidence_interval
    assert found.low == pytest.approx(says.low, abs=1e-12)
    assert found.high == pytest.approx(says.high, abs=1e-12)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_paired_interval_agrees_with_scipy_and_is_narrower_than_unpaired(method):
    rng = np.random.default_rng(2)
    patient = rng.normal(0.8, 0.1, size=(50, 1))
    a = patient + rng.normal(0.01, 0.01, size=(50, 3))
    b = patient + rng.normal(0.0, 0.01, size=(50, 3))
    found = intervals.compare(a, b, whole(3), Plan(20_000, 0.95, 0, method))["all"]
    says = stats.bootstrap(
        (a.mean(axis=1), b.mean(axis=1)),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        paired=True,
        n_resamples=20_000,
        method=method,
        rng=1,
    ).confidence_interval
    assert found.difference.low == pytest.approx(says.low, abs=2e-4)
    assert found.difference.high == pytest.approx(says.high, abs=2e-4)
    single = intervals.bootstrap(a, whole(3), PLAN)["all"]
    assert found.difference.high - found.difference.low < (single.high - single.low) / 5
    assert found.p_value == pytest.approx(stats.wilcoxon(a.mean(axis=1), b.mean(axis=1)).pvalue)


def test_bca_moves_towards_the_long_tail_and_is_percentile_without_skew():
    skewed = 1 - np.random.default_rng(3).exponential(0.1, size=(20, 1))
    bca, percentile = (
        intervals.bootstrap(skewed, whole(1), Plan(5000, method=m))["all"] for m in ("bca", "percentile")
    )
    assert bca.low < percentile.low
    assert bca.high < percentile.high
    even = np.concatenate([np.linspace(-1, 1, 41)])[:, None]
    bca, percentile = (
        intervals.bootstrap(even, whole(1), Plan(20_000, method=m))["all"] for m in ("bca", "percentile")
    )
    assert bca == pytest.approx(percentile, abs=0.01)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_equal_values_have_an_interval_without_width(method):
    values = np.full((6, 2), 0.25)
    found = intervals.bootstrap(values, whole(2), Plan(500, method=method))["all"]
    assert found == pytest.approx((0.25, 0.25, 0.25, 6))
    pair = intervals.compare(values, values, whole(2), Plan(500, method=method))["all"]
    assert pair.difference == pytest.approx((0, 0, 0, 6))
    assert (pair.p_value, pair.ties, pair.win_rate.estimate) == (1.0, 2, 0.0)


def test_wilcoxon_by_hand():
    """Five patients, all better, no two by as much: both of the 2^5 signings at the ends, 2 / 32."""
    better = np.array([[0.1], [0.2], [0.3], [0.4], [0.5]])
    assert intervals.wilcoxon(better, np.zeros((5, 1))) == pytest.approx(2 / 32)
    ties = np.array([[0.0], [0.1], [0.1], [-0.1], [0.3], [0.3]])
    assert intervals.wilcoxon(ties, 0 * ties) == pytest.approx(stats.wilcoxon(ties[:, 0]).pvalue)


def test_seeds_have_a_t_interval_of_their_own():
    found = intervals.over_seeds([0.5, 0.6, 0.7], 0.95)
    assert found.estimate == pytest.approx(0.6)
    assert found.high - found.estimate == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-6)
    assert found.n == 3
    for few in ([], [0.5], [NAN, 0.5]):
        assert np.isnan(intervals.over_seeds(few, 0.95).low)
    assert np.isnan(intervals.over_seeds([], 0.95).estimate)


def test_many_patients_give_the_closed_form():
    values = np.random.default_rng(8).normal(size=(2000, 1))
    found = intervals.bootstrap(values, whole(1), PLAN)["all"]
    half = 1.959964 * values.std() / np.sqrt(2000)
    assert found.high - found.estimate == pytest.approx(half, rel=0.05)
    assert found.estimate - found.low == pytest.approx(half, rel=0.05)


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(200):
        found = intervals.bootstrap(rng.normal(size=(40, 1)), whole(1), Plan(500, 0.9, trial))["all"]
        hits += found.low <= 0 <= found.high
    assert 0.82 <= hits / 200 <= 0.96


def test_groups_share_one_resampling_and_equal_separate_calls():
    values = np.random.default_rng(3).random((20, 5))
    values[:, 4] = NAN
    both = intervals.bootstrap(values, {"left": [0, 1], "right": [2, 3], "none": [4]}, PLAN)
    assert both["left"] == pytest.approx(intervals.bootstrap(values[:, :2], whole(2), PLAN)["all"])
    assert np.isnan(both["none"].estimate)
    assert both["none"].n == 0


def test_pairing_uses_only_what_both_have():
    a = np.array([[0.5, NAN], [0.7, 0.9], [NAN, 0.1]])
    b = np.array([[0.4, 0.1], [0.6, NAN], [0.9, 0.3]])
    found = intervals.compare(a, b, whole(2), PLAN)["all"]
    assert found.difference.estimate == pytest.approx((0.1 - 0.2) / 2)
    assert found.difference.n == 3
    assert found.win_rate.estimate == 0.5


def test_ties_are_no_wins_and_distances_win_when_smaller():
    a, b = np.array([[1.0, 2.0, 3.0]] * 4), np.array([[1.0, 3.0, 4.0]] * 4)
    more = intervals.compare(a, b, whole(3), PLAN)["all"]
    assert more.win_rate.estimate == 0.0
    assert (more.ties, more.labels) == (1, 3)
    less = intervals.compare(a, b, whole(3), PLAN, lower_is_better=True)["all"]
    assert less.win_rate.estimate == pytest.approx(2 / 3)
    assert less.difference.estimate == pytest.approx(-2 / 3)


@pytest.mark.parametrize("patients", [0, 1])
def test_too_few_patients_give_no_interval(patients):
    values = np.full((patients, 2), 0.5)
    found = intervals.bootstrap(values, whole(2), PLAN)["all"]
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    assert found.n == patients
    pair = intervals.compare(values, values, whole(2), PLAN)["all"]
    assert np.isnan(pair.difference.low)
    assert np.isnan(pair.p_value)


def test_equal_encoders_have_p_one_and_too_few_patients_have_none():
    values = np.random.default_rng(0).random((5, 2))
    assert intervals.wilcoxon(values, values) == 1.0
    assert np.isnan(intervals.wilcoxon(np.full((3, 2), NAN), values[:3]))


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="infinite"):
        intervals.bootstrap(np.array([[np.inf]]), whole(1), PLAN)
    with pytest.raises(ValueError, match="shape"):
        intervals.bootstrap(np.zeros((2, 3, 4)), whole(4), PLAN)
    with pytest.raises(ValueError, match="same patients"):
        intervals.compare(np.zeros((2, 3)), np.zeros((3, 3)), whole(3), PLAN)


def test_pooled_normal_interval_by_hand():
    values = np.array([[0.2, 0.4], [0.6, NAN], [0.4, 0.8]])
    found = intervals.pooled_normal(values, whole(2), PLAN)["all"]
    pooled = np.array([0.2, 0.6, 0.4, 0.4, 0.8])
    half = 1.959964 * np.std(pooled, ddof=1) / np.sqrt(5)
    assert found.estimate == pytest.approx((0.4 + 0.6) / 2)
    assert found.high - found.estimate == pytest.approx(half, rel=1e-6)


def test_pooled_normal_interval_has_the_published_width():
    """248 scans, about 17,000 present pairs, SD 0.15: the half-width printed in the paper is 0.00225."""
    rng = np.random.default_rng(0)
    values = np.clip(rng.normal(0.9, 0.15, size=(248, 117)), -9, 9)
    values[rng.random(values.shape) < 1 - 17_000 / (248 * 117)] = NAN
    found = intervals.pooled_normal(values, whole(117), PLAN)["all"]
    assert (found.high - found.low) / 2 == pytest.approx(0.00225, rel=0.05)


def test_published_tables_give_the_published_numbers(shared_data):
    """The tables hold one mean per structure, which is one row (one "patient") of 117 labels here."""
    arms = {}
    for name in ("ct_fm", "baseline", "suprem"):
        scores = pd.read_csv(shared_data / "published" / f"{name}_organ_scores.csv").set_index("Organ")["Dice Score"]
        arms[name] = scores.sort_index().to_numpy()[None]
    macro = {name: intervals.bootstrap(v, whole(117), PLAN)["all"].estimate for name, v in arms.items()}
    assert {name: round(v, 4) for name, v in macro.items()} == {"ct_fm": 0.8981, "baseline": 0.8959, "suprem": 0.8695}
    wins = [
        round(100 * intervals.compare(arms["ct_fm"], arms[r], whole(117), PLAN)["all"].win_rate.estimate, 1)
        for r in ("baseline", "suprem")
    ]
    assert wins == [73.5, 91.5]
