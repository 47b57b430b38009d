"""Measures of a yes-or-no prediction, with intervals over patients.

Targets are (n,) of 0 and 1; probabilities are (n,), or (seeds, n) for several trainings on the same patients: a
measure is then the mean over the seeds, and its interval is still one over patients.

The interval of the AUC is DeLong's (DeLong et al. 1988, doi:10.2307/2531595), by midranks (Sun and Xu 2014,
doi:10.1109/LSP.2014.2337313). All other measures are functions of means over patients, so that their bootstrap is
that of ``intervals``. ``wald`` is what the paper prints: it holds for a proportion of n scans,
which neither F1 nor AUC is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from ctfm.metrics import intervals
from ctfm.metrics.intervals import Interval, Plan

BINS = 10  # of the calibration error, equally wide


class Placements(NamedTuple):
    """How each patient lies among those of the other class, 0.5 for a tie; their means are the AUC.

    Attributes:
        ill: (m,) share of healthy patients below each ill one.
        healthy: (n,) share of ill patients above each healthy one.
    """

    ill: np.ndarray
    healthy: np.ndarray

    def interval(self, confidence: float) -> Interval:
        """Return the mean with DeLong's interval; without one where a class has fewer than two patients."""
        n, estimate = self.ill.size + self.healthy.size, float(self.ill.mean()) if self.ill.size else np.nan
        half = float(stats.norm.ppf(0.5 + confidence / 2) * self.error())
        return Interval(estimate, estimate - half, estimate + half, n)

    def error(self) -> float:
        """Return the standard error; NaN where a class has fewer than two patients."""
        if min(self.ill.size, self.healthy.size) < 2:
            return np.nan
        return float(np.sqrt(sum(part.var(ddof=1) / part.size for part in self)))

    def p_value(self) -> float:
        """Return the two-sided p value of a mean of zero, for differences; 1 where nothing differs."""
        error, mean = self.error(), float(self.ill.mean()) if self.ill.size else np.nan
        return 1.0 if error == mean == 0 else float(2 * stats.norm.sf(abs(mean) / error)) if error else 0.0


def placements(target: np.ndarray, probability: np.ndarray) -> Placements:
    """Return the placements, averaged over seeds; both classes must be there, or the AUC is not defined (NaN)."""
    ill, p = _classes(target), np.atleast_2d(probability)
    m, n = int(ill.sum()), int((~ill).sum())
    if not m or not n:
        return Placements(np.full(m, np.nan), np.full(n, np.nan))
    ranks, own, other = (stats.rankdata(part, axis=1) for part in (p, p[:, ill], p[:, ~ill]))
    return Placements(((ranks[:, ill] - own) / n).mean(0), (1 - (ranks[:, ~ill] - other) / m).mean(0))


def auc(target: np.ndarray, probability: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the area under the ROC curve with DeLong's interval, kept within [0, 1]."""
    found = placements(target, probability).interval(confidence)
    return found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0)) if np.isfinite(found.low) else found


def auc_difference(
    target: np.ndarray, probability: np.ndarray, reference: np.ndarray, confidence: float = 0.95
) -> tuple[Interval, float]:
    """Return the difference of two AUC on the same patients with DeLong's paired interval, and its p value."""
    here, other = placements(target, probability), placements(target, reference)
    both = Placements(*(mine - theirs for mine, theirs in zip(here, other, strict=True)))
    return both.interval(confidence), both.p_value()


def wald(value: float, n: int, confidence: float = 0.95) -> Interval:
    """Return a value with the interval of a proportion of ``n``, as the paper gives for F1 and AUC."""
    half = stats.norm.ppf(0.5 + confidence / 2) * np.sqrt(value * (1 - value) / n)
    return Interval(value, float(value - half), float(value + half), n)


def best_threshold(target: np.ndarray, probability: np.ndarray) -> float:
    """Return the threshold with the highest F1: half-way between two probabilities; of equal ones that nearest to 0.5.

    Without any ill patient there is no F1, and the threshold is 0.5.
    """
    ill, p = _classes(target), np.asarray(probability, float)
    if not ill.any():
        return 0.5
    known = np.unique(p)
    options = np.concatenate([known[:1] / 2, (known[1:] + known[:-1]) / 2])
    said = p >= options[:, None]
    scores = np.round(2 * (said & ill).sum(1) / (said.sum(1) + ill.sum()), 12)
    equal = options[scores == scores.max()]
    return float(equal[np.abs(equal - 0.5).argmin()])


def counts(target: np.ndarray, probability: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Return (n, seeds * 4) columns of 0 and 1: true and false positives, true and false negatives of each seed."""
    ill = _classes(target)
    said = np.atleast_2d(probability) >= np.reshape(threshold, (-1, 1))
    columns = np.stack([said & ill, said & ~ill, ~said & ~ill, ~said & ill], axis=-1)  # (seeds, n, 4)
    return np.moveaxis(columns, 0, 1).reshape(len(ill), -1).astype(float)


def f1(means: np.ndarray) -> np.ndarray:
    """Return the F1 of means of ``counts`` (…, seeds * 4), averaged over seeds; 0 where nothing is found."""
    tp, fp, _, fn = _four(means)
    return _ratio(2 * tp, 2 * tp + fp + fn).mean(-1)


def sensitivity(means: np.ndarray) -> np.ndarray:
    """Return the share of ill patients that are found; arguments as in ``f1``."""
    tp, _, _, fn = _four(means)
    return _ratio(tp, tp + fn).mean(-1)


def specificity(means: np.ndarray) -> np.ndarray:
    """Return the share of healthy patients that are let go; arguments as in ``f1``."""
    _, fp, tn, _ = _four(means)
    return _ratio(tn, tn + fp).mean(-1)


def accuracy(means: np.ndarray) -> np.ndarray:
    """Return the share of right answers; arguments as in ``f1``."""
    tp, _, tn, _ = _four(means)
    return (tp + tn).mean(-1)


def deviations(target: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return (n, seeds * BINS) columns: probability less target, in the bin of the probability."""
    p = np.atleast_2d(probability)
    bins = np.clip((p * BINS).astype(int), 0, BINS - 1)
    columns = np.where(bins[..., None] == np.arange(BINS), (p - target)[..., None], 0.0)
    return np.moveaxis(columns, 0, 1).reshape(p.shape[1], -1)


def calibration_error(means: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of means of ``deviations``, averaged over seeds.

    It can't be below zero, so chance alone makes it larger, the more so the fewer patients there are.
    """
    return np.abs(means.reshape(*means.shape[:-1], -1, BINS)).sum(-1).mean(-1)


def brier(target: np.ndarray, probability: np.ndarray, plan: Plan) -> Interval:
    """Return the Brier score, the mean squared deviation of the probabilities, with its bootstrap interval."""
    squares = np.square(np.atleast_2d(probability) - target).mean(0)
    return intervals.of_means(squares[:, None], lambda means: means[..., 0], plan)


def _classes(target: np.ndarray) -> np.ndarray:
    array = np.asarray(target)
    if not np.isin(array, (0, 1)).all():
        raise ValueError("a target is 0 or 1")
    return array.astype(bool)


def _four(means: np.ndarray) -> list[np.ndarray]:
    parts = means.reshape(*means.shape[:-1], -1, 4)
    return [parts[..., i] for i in range(4)]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(np.asarray(part, float)), where=whole > 0)
