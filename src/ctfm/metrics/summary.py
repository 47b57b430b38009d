"""From values per case to the summary of a task: estimates, intervals, paired differences, published values.

Rows of the table ``metrics`` become rows of the table ``summary``. A patient's value for a label is the mean
over the patient's cases and over the training seeds; intervals are over patients (``metrics.intervals``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ctfm import published
from ctfm.config import Evaluate
from ctfm.metrics import intervals
from ctfm.metrics.intervals import Interval, Plan

OURS, PUBLISHED = "ours", "published definition"
WIN_RATE = "_win_rate"  # a metric's name with this behind it: share of labels won against the reference
PUBLISHED_METRICS = ("dice",)
LOWER_IS_BETTER = ("hd95", "asd", "assd", "distance", "false_positive", "missed", "error")


def lower_is_better(metric: str) -> bool:
    """Return whether small values of a metric are good, by its name."""
    return any(word in metric for word in LOWER_IS_BETTER)


def summarise(table: pd.DataFrame, settings: Evaluate) -> list[dict[str, Any]]:
    """Return the rows of the table ``summary``.

    For each encoder, number of shots, metric and group of labels (``all``, each group, and ``label:<name>``):
    the estimate with its bootstrap interval; against the reference encoder also the paired difference, its p
    value and the win rate over labels; and for Dice the paper's own definition and interval in rows of its
    own. The paper's value stands beside ours only where the data are the same.

    Args:
        table: rows of ``metrics`` of one task, one data set and one split.
        settings: resamples, coverage, seed and reference encoder.
    """
    paper = published.values(str(table.dataset.iloc[0]), table.case_id.nunique())
    parts = [part for _, part in table.groupby(["shots", "metric"], sort=True)]
    return [_with_paper(row, paper) for part in parts for row in _setting(part, settings)]


def _setting(part: pd.DataFrame, settings: Evaluate) -> Iterator[dict[str, Any]]:
    """Yield the rows of one number of shots and one metric."""
    plan = Plan(settings.bootstrap, settings.confidence, settings.seed)
    labels, patients = sorted(set(part.label)), sorted(set(part.patient))
    groups = _groups(part, labels)
    first = part.iloc[0]
    fixed = {"task": first.task, "dataset": first.dataset, "shots": first.shots, "metric": first.metric}
    cubes = {name: _cube(own, "patient", patients, labels) for name, own in part.groupby("encoder", sort=True)}
    for encoder, cube in cubes.items():
        here = {**fixed, "encoder": encoder, "seeds": len(cube)}
        values = _over_seeds(cube)
        for group, found in _some(intervals.bootstrap(values, groups, plan)):
            yield {**here, **_result(group, found), "method": OURS, "note": _seed_note(cube[:, :, groups[group]])}
        if settings.reference and settings.reference in cubes and encoder != settings.reference:
            yield from _against(here, values, _over_seeds(cubes[settings.reference]), groups, settings.reference, plan)
        if first.metric in PUBLISHED_METRICS:
            yield from _as_published(here, part[part.encoder == encoder], labels, groups, plan)


def _groups(part: pd.DataFrame, labels: list[str]) -> dict[str, list[int]]:
    """Return the columns of ``all``, of each group, and of each label alone."""
    named = {str(group): sorted(set(own.label)) for group, own in part.groupby("group", sort=True) if group}
    alone = {f"label:{label}": [label] for label in labels if label != "all"}
    members = {**named, "all": labels, **alone}
    return {group: [labels.index(label) for label in chosen] for group, chosen in members.items()}


def _cube(rows: pd.DataFrame, unit: str, units: list[str], labels: list[str]) -> np.ndarray:
    """Return (seeds, units, labels): means over the cases of a unit; NaN where it lacks the label."""
    seeds = sorted(set(rows.seed))
    index = pd.MultiIndex.from_product([seeds, units])
    wide = rows.groupby(["seed", unit, "label"])["value"].mean().unstack("label")
    return wide.reindex(index=index, columns=labels).to_numpy(dtype=float).reshape(len(seeds), len(units), len(labels))


def _over_seeds(cube: np.ndarray) -> np.ndarray:
    return intervals.macro_mean(np.moveaxis(cube, 0, -1))


def _some(found: dict[str, Interval]) -> Iterator[tuple[str, Interval]]:
    return ((group, interval) for group, interval in found.items() if interval.n)


def _result(group: str, found: Interval) -> dict[str, Any]:
    return {"group": group, "reference": "", "p_value": np.nan, "note": "", **found._asdict()}


def _seed_note(cube: np.ndarray) -> str:
    """Say how far the training seeds lie apart: the interval is over patients and does not hold it."""
    if len(cube) < 2:
        return "one training seed"
    macro = [intervals.macro_mean(intervals.label_means(values)) for values in cube]
    return f"{len(cube)} training seeds, standard deviation {np.nanstd(macro, ddof=1):.4f}"


def _against(
    here: dict[str, Any], values: np.ndarray, reference: np.ndarray, groups: intervals.Groups, name: str, plan: Plan
) -> Iterator[dict[str, Any]]:
    found = intervals.compare(values, reference, groups, plan, lower_is_better=lower_is_better(here["metric"]))
    for group, pair in found.items():
        if not pair.difference.n:
            continue
        row = {**here, **_result(group, pair.difference), "reference": name, "method": OURS, "p_value": pair.p_value}
        yield {**row, "note": "paired over patients and labels where both have a value; p by Wilcoxon, not adjusted"}
        if len(groups[group]) > 1:
            wins = {**row, **pair.win_rate._asdict(), "metric": here["metric"] + WIN_RATE, "p_value": np.nan}
            yield {**wins, "note": f"{pair.ties} ties among {len(groups[group])} labels"}


def _as_published(
    here: dict[str, Any], own: pd.DataFrame, labels: list[str], groups: intervals.Groups, plan: Plan
) -> Iterator[dict[str, Any]]:
    cases = _over_seeds(_cube(own, "case_id", sorted(set(own.case_id)), labels))
    named = {group: columns for group, columns in groups.items() if not group.startswith("label:")}
    for group, found in _some(intervals.pooled_normal(cases, named, plan)):
        note = "labels absent from a scan dropped; normal interval over all (case, label) values"
        yield {**here, **_result(group, found), "method": PUBLISHED, "note": note}


def _with_paper(row: dict[str, Any], paper: dict[tuple[str, ...], float]) -> dict[str, Any]:
    """Add the paper's value for the same setting, or say why none may stand there."""
    if not paper:
        return {**row, "paper": np.nan, "note": f"{row['note']}; {published.OTHER_DATA}"}
    key = (published.arm(row["encoder"]), published.arm(row["reference"]), row["shots"], row["group"], row["metric"])
    return {**row, "paper": paper.get(key, np.nan)}
