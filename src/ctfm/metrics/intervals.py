"""Intervals and tests over patients: what can be said about an encoder, and about two on the same patients.

Values are arrays of shape (patients, labels). NaN means that a value isn't defined, such as the Dice of a
label that a scan doesn't show; infinite values are refused, since dropping them would reward missed
structures (as the paper's surface distances did). The statistic is the macro mean over a group of labels:
the mean over patients for each label, then the mean over labels.

Resampling is over patients, never over labels, since the labels of one patient vary together. A resample is
a row of counts (how often each patient was drawn), so that all resamples of all labels are one matrix
product. All encoders share the same resamples.

Intervals are BCa by default (bias-corrected and accelerated; Efron 1987, doi:10.1080/01621459.1987.10478410).
Dice is skewed, for a few patients fail: on such values of 20 patients a percentile interval of 95 % lies above
the truth as often as 5 %, where 2.5 % is meant; BCa is nearer on both sides, and costs a jackknife. Win rates
are steps, which have no acceleration: theirs are always percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from ctfm.metrics import signed_rank

Groups = Mapping[str, Sequence[int]]  # name of a group of labels: its columns


class Plan(NamedTuple):
    """How intervals are made: number of resamples, coverage, the seed of the resamples, ``bca`` or ``percentile``."""

    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 0
    method: str = "bca"


class Interval(NamedTuple):
    """An estimate, its confidence interval, and the number of patients behind it."""

    estimate: float
    low: float
    high: float
    n: int


class Comparison(NamedTuple):
    """An encoder against a reference on the same patients.

    ``ties`` counts labels with equal means, ``labels`` those of which both have a value.
    """

    difference: Interval
    win_rate: Interval
    p_value: float
    ties: int
    labels: int


class _Means(NamedTuple):
    """Means of each label: over all patients, in each resample, and with each patient left out (the jackknife)."""

    all: np.ndarray  # (labels,)
    drawn: np.ndarray  # (resamples, labels)
    without: np.ndarray  # (patients, labels)


@lru_cache(maxsize=2)
def resample_counts(patients: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each patient is drawn in each resample, shape (resamples, patients); read-only."""
    draws = np.random.default_rng(seed).integers(patients, size=(resamples, patients))
    flat = draws + np.arange(resamples)[:, None] * patients
    counts = np.bincount(flat.ravel(), minlength=resamples * patients).reshape(resamples, patients).astype(float)
    counts.flags.writeable = False
    return counts


def label_means(values: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Return the mean over patients for each label, NaN left out.

    Args:
        values: (patients, labels).
        counts: (resamples, patients) of ``resample_counts``; ``None``: every patient once.

    Returns:
        (resamples, labels), or (labels,) without counts; NaN where no drawn patient has the label.
    """
    weights = np.ones(len(values)) if counts is None else counts
    return ratio(weights @ np.nan_to_num(values), weights @ np.isfinite(values).astype(float))


def macro_mean(means: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis (labels), NaN left out; NaN where nothing is left."""
    return ratio(np.nansum(means, axis=-1), np.isfinite(means).sum(axis=-1))


def bootstrap(values: np.ndarray, groups: Groups, plan: Plan) -> dict[str, Interval]:
    """Return the macro mean of each group of labels with its bootstrap interval.

    With fewer than two patients in a group its interval is NaN, since nothing can be said about others.

    Args:
        values: (patients, labels).
        groups: the columns of each group.
        plan: resamples, coverage, seed, method.

    Raises:
        ValueError: the values are not two-dimensional, or some are infinite.
    """
    values = _known(_checked(values))
    means = _means(values, plan)
    return {name: _interval(macro_mean, means, values, c, plan) for name, c in _columns(groups)}


def of_means(values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], plan: Plan) -> Interval:
    """Return a statistic of the means of columns (patients, columns) with its bootstrap interval."""
    values = _known(_checked(values))
    return _interval(statistic, _means(values, plan), values, np.arange(values.shape[1]), plan)


def compare(
    values: np.ndarray, reference: np.ndarray, groups: Groups, plan: Plan, *, lower_is_better: bool = False
) -> dict[str, Comparison]:
    """Return difference, win rate and p value of each group of labels, paired by patient.

    A value counts only where both encoders have one. The difference is that of the macro means. The win rate
    is the share of labels whose mean is strictly better (paper, Fig. 2d; a tie is no win). The p value is
    that of the two-sided Wilcoxon signed-rank test over patients (see ``wilcoxon``).

    Args:
        values: (patients, labels).
        reference: the same patients and labels under the other encoder.
        groups: the columns of each group.
        plan: resamples, coverage, seed, method.
        lower_is_better: such as for distances.

    Raises:
        ValueError: the shapes differ, or some values are infinite.
    """
    a, b = _pair(values, reference)
    here = _Means(*(mine - theirs for mine, theirs in zip(_means(a, plan), _means(b, plan), strict=True)))
    sign = -1.0 if lower_is_better else 1.0
    better = _Means(*(sign * part for part in here))
    return {
        name: Comparison(
            _interval(macro_mean, here, a, c, plan),
            _interval(win_rate, better, a, c, plan._replace(method="percentile")),
            wilcoxon(a[:, c], b[:, c]),
            int((here.all[c] == 0).sum()),
            int(np.isfinite(here.all[c]).sum()),
        )
        for name, c in _columns(groups)
    }


def differences(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the paired difference of the means of each label, shape (labels,); arguments as in ``compare``."""
    a, b = _pair(values, reference)
    return label_means(a) - label_means(b)


def win_rate(differences: np.ndarray) -> np.ndarray:
    """Return the share of positive values over the last axis (labels), NaN left out."""
    return ratio((differences > 0).sum(axis=-1), np.isfinite(differences).sum(axis=-1))


def wilcoxon(values: np.ndarray, reference: np.ndarray) -> float:
    """Return the two-sided p value of the Wilcoxon signed-rank test over patients.

    A patient's score is the mean of the patient's label values. Equal scores everywhere give 1, fewer than two
    patients give NaN, since there is nothing to test.

    Raises:
        ValueError: the shapes differ, or some values are infinite.
    """
    a, b = _pair(values, reference)
    difference = macro_mean(a) - macro_mean(b)
    if difference.size < 2:
        return np.nan
    return signed_rank.p_value(difference)


def over_seeds(estimates: Sequence[float] | np.ndarray, confidence: float) -> Interval:
    """Return the mean over training seeds with Student's t interval; ``n`` is the number of seeds.

    It tells how far another training run would lie, for these same patients. The bootstrap tells how far other
    patients would lie, for these same runs. Neither holds the other.
    """
    values = np.asarray(estimates, dtype=float)
    values = values[np.isfinite(values)]
    if values.size < 2:
        return Interval(float(values[0]) if values.size else np.nan, np.nan, np.nan, values.size)
    half = stats.t.ppf(0.5 + confidence / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half), values.size)


def pooled_normal(values: np.ndarray, groups: Groups, plan: Plan) -> dict[str, Interval]:
    """Return macro means with the interval that the paper seems to have used; for comparison only.

    Half-width: normal quantile times the standard error over all (case, label) values at once. The widths
    published for TotalSegmentator fit this. It understates the uncertainty, since it takes the labels of one
    scan for independent. Arguments and errors as in ``bootstrap``, with cases in place of patients.
    """
    values = _known(_checked(values))
    means = label_means(values)
    found = {}
    for name, columns in _columns(groups):
        pooled = values[:, columns][np.isfinite(values[:, columns])]
        estimate = float(macro_mean(means[columns]))
        quantile = stats.norm.ppf(0.5 + plan.confidence / 2)
        half = float(quantile * pooled.std(ddof=1) / np.sqrt(pooled.size)) if pooled.size > 1 else np.nan
        found[name] = Interval(estimate, estimate - half, estimate + half, _patients(values[:, columns]))
    return found


def _means(values: np.ndarray, plan: Plan) -> _Means:
    n, labels = values.shape
    if n < 2:
        nothing = np.full((1, labels), np.nan)
        return _Means(label_means(values), nothing, nothing)
    known = np.isfinite(values).astype(float)
    filled = np.nan_to_num(values)
    without = ratio(filled.sum(axis=0) - filled, known.sum(axis=0) - known)
    return _Means(label_means(values), label_means(values, resample_counts(n, plan.resamples, plan.seed)), without)


def _interval(
    statistic: Callable[[np.ndarray], np.ndarray], means: _Means, values: np.ndarray, columns: np.ndarray, plan: Plan
) -> Interval:
    """Return a statistic of some labels with its interval: means of labels in, one number out."""
    estimate, drawn, without = (statistic(part[..., columns]) for part in means)
    return from_resamples(estimate, drawn, without, _patients(values[:, columns]), plan)


def from_resamples(estimate: np.ndarray, drawn: np.ndarray, without: np.ndarray, n: int, plan: Plan) -> Interval:
    """Return an estimate with its interval, from resamples and, for BCa, from all but one patient; NaN is left out."""
    drawn = drawn[np.isfinite(drawn)]
    if n < 2 or drawn.size == 0:
        return Interval(float(estimate), np.nan, np.nan, n)
    tails = np.array([(1 - plan.confidence) / 2, (1 + plan.confidence) / 2])
    if plan.method == "bca":
        tails = _bca_tails(tails, estimate, drawn, without[np.isfinite(without)])
    low, high = np.quantile(drawn, tails)
    return Interval(float(estimate), float(low), float(high), n)


def _bca_tails(tails: np.ndarray, estimate: np.ndarray, drawn: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Move the quantiles by bias and acceleration; left as they are where neither is defined (no spread at all)."""
    below = ((drawn < estimate).mean() + (drawn <= estimate).mean()) / 2
    influence = without.mean() - without if without.size else np.zeros(1)
    spread = float((influence**2).sum())
    if not 0 < below < 1 or spread == 0:
        return tails
    acceleration = float((influence**3).sum()) / (6 * spread**1.5)
    shifted = stats.norm.ppf(below) + stats.norm.ppf(tails)
    return stats.norm.cdf(stats.norm.ppf(below) + shifted / (1 - acceleration * shifted))


def _columns(groups: Groups) -> list[tuple[str, np.ndarray]]:
    return [(name, np.asarray(columns, dtype=int)) for name, columns in groups.items()]


def _checked(values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 2:
        raise ValueError(f"values must be (patients, labels), not of shape {array.shape}")
    if np.isinf(array).any():
        raise ValueError("an infinite value has no mean; the metric must give a finite penalty instead")
    return array


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values).any(axis=1)]


def _patients(values: np.ndarray) -> int:
    return int(np.isfinite(values).any(axis=1).sum())


def _pair(values: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _checked(values), _checked(reference)
    if a.shape != b.shape:
        raise ValueError(f"a paired comparison needs the same patients and labels: {a.shape} and {b.shape}")
    both = np.isfinite(a) & np.isfinite(b)
    kept = both.any(axis=1)
    return np.where(both, a, np.nan)[kept], np.where(both, b, np.nan)[kept]


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Divide; NaN where the count is zero."""
    shape = np.shape(total)
    return np.divide(total, count, out=np.full(shape, np.nan), where=np.asarray(count) > 0)
