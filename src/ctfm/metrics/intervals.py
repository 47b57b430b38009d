"""Intervals and tests over patients: what can be said about an encoder, and about two on the same patients.

Values are arrays of shape (patients, labels). NaN means that a value isn't defined, such as the Dice of a
label that a scan doesn't show; infinite values are refused, since dropping them would reward missed
structures (as the paper's surface distances did). The statistic is the macro mean over a group of labels:
the mean over patients for each label, then the mean over labels.

Resampling is over patients, never over labels, since the labels of one patient vary together. A resample is
a row of counts (how often each patient was drawn), so that all resamples of all labels are one matrix
product. All encoders share the same resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

Groups = Mapping[str, Sequence[int]]  # name of a group of labels: its columns


class Plan(NamedTuple):
    """How intervals are made: number of resamples, coverage, and the seed of the resamples."""

    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 0


class Interval(NamedTuple):
    """An estimate, its confidence interval, and the number of patients behind it."""

    estimate: float
    low: float
    high: float
    n: int


class Comparison(NamedTuple):
    """An encoder against a reference on the same patients; ``ties`` counts labels with equal means."""

    difference: Interval
    win_rate: Interval
    p_value: float
    ties: int


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
    return _ratio(weights @ np.nan_to_num(values), weights @ np.isfinite(values).astype(float))


def macro_mean(means: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis (labels), NaN left out; NaN where nothing is left."""
    return _ratio(np.nansum(means, axis=-1), np.isfinite(means).sum(axis=-1))


def bootstrap(values: np.ndarray, groups: Groups, plan: Plan) -> dict[str, Interval]:
    """Return the macro mean of each group of labels with its percentile bootstrap interval.

    With fewer than two patients in a group its interval is NaN, since nothing can be said about others.

    Args:
        values: (patients, labels).
        groups: the columns of each group.
        plan: resamples, coverage, seed.

    Raises:
        ValueError: the values are not two-dimensional, or some are infinite.
    """
    values = _known(_checked(values))
    means = label_means(values)
    drawn = _drawn(values, plan)
    return {
        name: _interval(macro_mean(means[..., c]), macro_mean(drawn[..., c]), values[:, c], plan)
        for name, c in _columns(groups)
    }


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
        plan: resamples, coverage, seed.
        lower_is_better: such as for distances.

    Raises:
        ValueError: the shapes differ, or some values are infinite.
    """
    a, b = _pair(values, reference)
    here = label_means(a) - label_means(b)
    drawn = _drawn(a, plan) - _drawn(b, plan)
    sign = -1.0 if lower_is_better else 1.0
    return {
        name: Comparison(
            _interval(macro_mean(here[c]), macro_mean(drawn[:, c]), a[:, c], plan),
            _interval(win_rate(sign * here[c]), win_rate(sign * drawn[:, c]), a[:, c], plan),
            wilcoxon(a[:, c], b[:, c]),
            int((here[c] == 0).sum()),
        )
        for name, c in _columns(groups)
    }


def win_rate(differences: np.ndarray) -> np.ndarray:
    """Return the share of positive values over the last axis (labels), NaN left out."""
    return _ratio((differences > 0).sum(axis=-1), np.isfinite(differences).sum(axis=-1))


def wilcoxon(values: np.ndarray, reference: np.ndarray) -> float:
    """Return the two-sided p value of the Wilcoxon signed-rank test over patients.

    A patient's score is the mean of the patient's label values. Equal scores everywhere give 1, no patient
    at all gives NaN.

    Raises:
        ValueError: the shapes differ, or some values are infinite.
    """
    a, b = _pair(values, reference)
    difference = macro_mean(a) - macro_mean(b)
    if difference.size == 0:
        return np.nan
    return float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0


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


def _drawn(values: np.ndarray, plan: Plan) -> np.ndarray:
    if len(values) < 2:
        return np.full((1, values.shape[1]), np.nan)
    return label_means(values, resample_counts(len(values), plan.resamples, plan.seed))


def _interval(estimate: np.ndarray, drawn: np.ndarray, values: np.ndarray, plan: Plan) -> Interval:
    n, drawn = _patients(values), drawn[np.isfinite(drawn)]
    if n < 2 or drawn.size == 0:
        return Interval(float(estimate), np.nan, np.nan, n)
    low, high = np.percentile(drawn, [50 * (1 - plan.confidence), 50 * (1 + plan.confidence)])
    return Interval(float(estimate), float(low), float(high), n)


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


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Divide; NaN where the count is zero."""
    shape = np.shape(total)
    return np.divide(total, count, out=np.full(shape, np.nan), where=np.asarray(count) > 0)
