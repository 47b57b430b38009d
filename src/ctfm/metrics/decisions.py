"""From a probability per case to the summary of a task: how well ill and healthy are told apart.

The table ``metrics`` of such a task holds three rows of each case: its ``probability`` of being ill, its ``target`` (1:
ill) and the ``threshold`` that validation cases gave this run; NaN where there were none, and 0.5 is used. Methods:

- ``ours``: the AUC with DeLong's interval; F1, sensitivity, specificity and accuracy at the run's own threshold,
  calibration error and Brier score with bootstrap intervals; differences to reference encoders on the same patients.
- ``published definition``: AUC, and F1 at 0.5, with the interval that the paper gives: that of a proportion of n.
- ``quoted``: what the paper printed for the same data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ctfm import published
from ctfm.config import Evaluate
from ctfm.metrics import classify, intervals, summary
from ctfm.metrics.intervals import Interval, Plan

PROBABILITY, TARGET, THRESHOLD = "probability", "target", "threshold"
AUC, F1 = "auc", "f1"
RATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    F1: classify.f1,
    "sensitivity": classify.sensitivity,
    "specificity": classify.specificity,
    "accuracy": classify.accuracy,
}
NO_THRESHOLD = 0.5
WALD = "the interval of a proportion of n scans, which this is not"


class Arm(NamedTuple):
    """What one encoder says of all patients.

    Attributes:
        seeds: of its trainings.
        target: (n,) 0 or 1.
        probability: (seeds, n).
        threshold: (seeds,), NaN where validation gave none.
    """

    seeds: list[int]
    target: np.ndarray
    probability: np.ndarray
    threshold: np.ndarray

    @property
    def decided(self) -> np.ndarray:
        """The thresholds that are used, (seeds,)."""
        return np.where(np.isnan(self.threshold), NO_THRESHOLD, self.threshold)

    @property
    def counts(self) -> np.ndarray:
        """What comes of the decisions, (n, seeds * 4); see ``classify.counts``."""
        return classify.counts(self.target, self.probability, self.decided)

    def paired(self, other: Arm) -> tuple[Arm, Arm]:
        """Return both with the seeds that both have; with all of them where there is none in common."""
        both = [seed for seed in self.seeds if seed in other.seeds]
        return (self._only(both), other._only(both)) if both else (self, other)

    def _only(self, seeds: list[int]) -> Arm:
        places = [self.seeds.index(seed) for seed in seeds]
        return Arm(seeds, self.target, self.probability[places], self.threshold[places])

    def single(self) -> Iterator[Arm]:
        """Yield one arm for each seed."""
        return (self._only([seed]) for seed in self.seeds)


def summarise(table: pd.DataFrame, settings: Evaluate, cases: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of the table ``summary``; arguments as in ``summary.summarise``."""
    first, cases = table.iloc[0], cases or table.case_id.nunique()
    paper = published.values(first.dataset, cases)
    parts = [part for _, part in table.groupby("shots", sort=True)]
    rows = [summary.with_paper(row, paper) for part in parts for row in _setting(part, settings)]
    quoted = summary.quoted(first.task, first.dataset, cases, {row["metric"] for row in rows})
    return summary.adjusted(rows) + quoted


def arms(table: pd.DataFrame) -> dict[str, Arm]:
    """Return what each encoder says, by its name; patients are cases in the order of their names.

    Args:
        table: rows of ``metrics`` of one data set and number of shots.
    """
    wide = table.pivot_table(index=["encoder", "seed", "case_id"], columns="metric", values="value", dropna=False)
    wide = wide.reindex(columns=[PROBABILITY, TARGET, THRESHOLD]).dropna(subset=[PROBABILITY]).sort_index()
    found = {}
    for encoder, own in wide.groupby(level="encoder"):
        seeds = sorted(set(own.index.get_level_values("seed")))
        numbers = own.to_numpy(float).reshape(len(seeds), -1, 3)
        found[str(encoder)] = Arm(seeds, numbers[0, :, 1], numbers[:, :, 0], numbers[:, 0, 2])
    return found


def _setting(part: pd.DataFrame, settings: Evaluate) -> Iterator[dict[str, Any]]:
    """Yield the rows of one number of shots."""
    plan = Plan(settings.bootstrap, settings.confidence, settings.seed, settings.interval)
    first, known, found = part.iloc[0], summary.references(part, settings), arms(part)
    for encoder, arm in found.items():
        here = {"task": first.task, "dataset": first.dataset, "shots": first.shots, "encoder": encoder}
        here["seeds"] = len(arm.seeds)
        for metric, interval in _measured(arm, plan):
            alone = [_value(metric, one) for one in arm.single()]
            yield {**here, **summary.result("all", interval, note=_note(metric, arm)), **_own(metric, alone, plan)}
        yield from _as_published(here, arm, plan)
        for place, name in enumerate(known):
            if encoder not in known[: place + 1]:  # a pair of references is compared once
                yield from _against({**here, "reference": name}, *arm.paired(found[name]), plan)


def _measured(arm: Arm, plan: Plan) -> Iterator[tuple[str, Interval]]:
    yield AUC, classify.auc(arm.target, arm.probability, plan.confidence)
    for metric, rate in RATES.items():
        yield metric, intervals.of_means(arm.counts, rate, plan)
    bins = classify.deviations(arm.target, arm.probability)
    yield "calibration_error", intervals.of_means(bins, classify.calibration_error, plan)
    yield "brier", classify.brier(arm.target, arm.probability, plan)


def _value(metric: str, arm: Arm) -> float:
    """Return a measure alone, without an interval."""
    if metric in RATES:
        return float(RATES[metric](arm.counts.mean(0)))
    if metric == AUC:
        return classify.auc(arm.target, arm.probability).estimate
    if metric == "brier":
        return float(np.square(arm.probability - arm.target).mean())
    return float(classify.calibration_error(classify.deviations(arm.target, arm.probability).mean(0)))


def _own(metric: str, estimates: list[float], plan: Plan) -> dict[str, Any]:
    return {"metric": metric, **summary.spread(estimates, plan)}


def _note(metric: str, arm: Arm) -> str:
    if metric == AUC:
        return "DeLong's interval"
    if metric not in RATES:
        return f"{classify.BINS} bins of equal width" if metric == "calibration_error" else ""
    where = ", ".join(f"{value:.3g}" for value in arm.decided)
    missing = "; no validation cases gave another" if np.isnan(arm.threshold).any() else ", chosen on validation cases"
    return f"at {where}{missing}"


def _as_published(here: dict[str, Any], arm: Arm, plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield F1 at 0.5 and AUC as means over seeds, each with the interval of a proportion."""
    half = np.full(len(arm.seeds), NO_THRESHOLD)
    score = float(classify.f1(classify.counts(arm.target, arm.probability, half).mean(0)))
    for metric, value, where in ((F1, score, "at 0.5; "), (AUC, _value(AUC, arm), "")):
        interval = classify.wald(value, arm.target.size, plan.confidence)
        yield {**here, **summary.result("all", interval, summary.PUBLISHED, where + WALD), "metric": metric}


def _against(here: dict[str, Any], arm: Arm, other: Arm, plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield the differences to a reference on the same patients: DeLong's for the AUC, bootstrap for the rates."""
    pairs = list(zip(arm.single(), other.single(), strict=False)) if arm.seeds == other.seeds else []
    difference, p_value = classify.auc_difference(arm.target, arm.probability, other.probability, plan.confidence)
    alone = [_value(AUC, mine) - _value(AUC, theirs) for mine, theirs in pairs]
    row = summary.result("all", difference, note="paired; interval and p by DeLong")
    yield {**row, **here, **_own(AUC, alone, plan), "p_value": p_value}
    both, cut = np.concatenate([arm.counts, other.counts], axis=1), arm.counts.shape[1]
    for metric, rate in RATES.items():

        def less(means: np.ndarray, rate: Callable[[np.ndarray], np.ndarray] = rate) -> np.ndarray:
            return rate(means[..., :cut]) - rate(means[..., cut:])

        alone = [_value(metric, mine) - _value(metric, theirs) for mine, theirs in pairs]
        row = summary.result("all", intervals.of_means(both, less, plan), note="paired; each at its own threshold")
        yield {**row, **here, **_own(metric, alone, plan)}
