"""How well scores rank cases of a class above the others: AUROC and average precision, with intervals over patients.

Scores of different models can't be ranked together: with cross-validation a measure is taken within each fold, and the
mean over folds is the estimate. Folds without both classes are left out. A resample draws patients; a scan counts as
often as its patient was drawn. Several classes: the mean over classes, each against the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ctfm.metrics.intervals import Interval, Plan, from_resamples, ratio, resample_counts

Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
AT_ONCE = 2**22  # weights


def auroc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve: the chance that a positive is scored above a negative, ties a half.

    Args:
        truth: (n,) bool.
        score: (n,).
        weights: (resamples, n), how often each case counts.

    Returns:
        (resamples,); NaN where a class is missing.
    """
    positive, negative = _by_score(truth, score, weights)
    below = np.cumsum(negative, axis=1) - negative / 2
    return ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def average_precision(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the average precision: precision at each score, weighted by the positives that have it.

    Arguments and result as in ``auroc``.
    """
    positive, negative = _by_score(truth, -score, weights)
    found = np.cumsum(positive, axis=1)
    precision = ratio(found, found + np.cumsum(negative, axis=1))
    either = positive.sum(axis=1) * negative.sum(axis=1) > 0
    return np.where(either, ratio(np.nansum(positive * precision, axis=1), positive.sum(axis=1)), np.nan)


def within_folds(
    measure: Measure, label: np.ndarray, scores: np.ndarray, fold: np.ndarray, patient: np.ndarray, plan: Plan
) -> Interval:
    """Return the mean of a measure over folds and classes, with its bootstrap interval.

    Args:
        measure: ``auroc`` or ``average_precision``.
        label: (n,) class of each case, from 0 on.
        scores: (n, classes) of each class; of two classes the second one counts alone.
        fold: (n,) in which fold each case was predicted.
        patient: (n,) whose it is.
        plan: resamples, coverage, seed, method.
    """
    people, owner = np.unique(patient, return_inverse=True)
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])

    def statistic(counts: np.ndarray) -> np.ndarray:
        weights = counts[:, owner]
        every = [
            measure(label[own] == k, scores[own, k], weights[:, own])
            for own in (fold == f for f in np.unique(fold))
            for k in classes
        ]
        stacked = np.stack(every)
        return ratio(np.nansum(stacked, axis=0), np.isfinite(stacked).sum(axis=0))

    def resampled(counts: np.ndarray) -> np.ndarray:
        return np.concatenate([statistic(part) for part in _chunks(counts, len(label))])

    ones = np.ones((1, len(people)))
    if len(people) < 2:
        return Interval(float(statistic(ones)[0]), np.nan, np.nan, len(people))
    drawn = resampled(resample_counts(len(people), plan.resamples, plan.seed))
    without = resampled(1 - np.eye(len(people))) if plan.method == "bca" else np.empty(0)
    return from_resamples(statistic(ones)[0], drawn, without, len(people), plan)


def _by_score(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights (resamples, distinct scores) of positives and negatives by rising score."""
    order = np.argsort(score, kind="stable")
    first = np.flatnonzero(np.diff(score[order], prepend=np.nan) != 0)
    sides = (weights[:, order] * side[order] for side in (truth, ~truth))
    positive, negative = (np.add.reduceat(side, first, axis=1) for side in sides)
    return positive, negative


def _chunks(counts: np.ndarray, cases: int) -> Iterator[np.ndarray]:
    step = max(1, AT_ONCE // cases)
    yield from (counts[start : start + step] for start in range(0, len(counts), step))
