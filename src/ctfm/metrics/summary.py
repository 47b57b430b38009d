"""From values per case to the summary of a task: estimates, intervals, paired differences, published values.

Rows of the table ``metrics`` become rows of the table ``summary``. A patient's value for a label is the mean
over the patient's cases and over the training seeds; intervals are over patients (``metrics.intervals``). How
far the seeds lie apart stands in columns of its own. Methods:

- ``ours``: estimates, paired differences to a reference encoder, win rates over labels.
- ``published definition``: the same mean with the interval that the paper seems to have used; for comparison. Of
  tumours, Dice and ``asd`` over the cases that have a value: a missed tumour has no ``asd``, and its note says so.
- ``quoted``: what the paper printed for the same data, and rivals that it or others reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ctfm import published
from ctfm.config import Evaluate
from ctfm.metrics import intervals, multiplicity
from ctfm.metrics.intervals import Interval, Plan
from ctfm.metrics.overlap import ABSENT, EXTRA, MISSED

OURS, PUBLISHED, QUOTED = "ours", "published definition", "quoted"
WIN_RATE = "_win_rate"  # a metric's name with this behind it: share of labels won against the reference
SHARES = 10**6  # more than any data set has cases
LABEL = "label:"  # a group's name with this before it: one label alone
TUMOUR = "tumour"  # a group of labels: the paper measured it alone
PUBLISHED_METRICS = ("dice", "asd")
LOWER_IS_BETTER = ("hd95", "asd", "assd", "distance", "false_positive", "missed", "error", "brier", "mse")
NO_TEST = {"reference": "", "p_value": np.nan, "p_holm": np.nan}
NO_SEEDS: dict[str, Any] = {"seed_estimates": [], "seed_low": np.nan, "seed_high": np.nan}


class Cube(NamedTuple):
    """The values of one encoder: (seeds, patients or cases, labels), NaN where there is none."""

    seeds: list[int]
    values: np.ndarray

    def mean(self) -> np.ndarray:
        """Return the mean over seeds, (patients or cases, labels)."""
        return intervals.macro_mean(np.moveaxis(self.values, 0, -1))


def by_size(shots: str) -> float:
    """Return what numbers of training cases are sorted by: counts, then shares of the cases, then ``all``.

    How many cases a share is, no table of results tells.
    """
    if shots == "all":
        return np.inf
    number = float(shots)
    return SHARES + number if number < 1 else number


def lower_is_better(metric: str) -> bool:
    """Return whether small values of a metric are good, by its name."""
    return any(word in metric for word in LOWER_IS_BETTER)


def summarise(table: pd.DataFrame, settings: Evaluate, cases: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of the table ``summary``.

    For each encoder, number of shots, metric and group of labels (``all``, each group, and ``label:<name>``):
    the estimate with its interval; against each reference encoder also the paired difference, its p value and
    the win rate over labels; and for Dice the paper's own definition and interval in rows of its own. Published
    values stand beside ours only where the data are the same.

    Args:
        table: rows of ``metrics`` of one task, one data set and one split.
        settings: resamples, coverage, seed and reference encoders.
        cases: number of test cases; ``None``: as many as the table names.
    """
    first, cases = table.iloc[0], cases or table.case_id.nunique()
    paper = published.values(first.dataset, cases)
    parts = [part for _, part in table.groupby(["shots", "metric"], sort=True)]
    rows = [with_paper(row, paper) for part in parts for row in _setting(part, settings)]
    return adjusted(rows) + quoted(
        first.task, first.dataset, cases, {m + end for m in set(table.metric) for end in ("", WIN_RATE)}
    )


def references(table: pd.DataFrame, settings: Evaluate) -> list[str]:
    """Return the reference encoders of the settings that the table has, in their order."""
    return [name for name in settings.references if name in set(table.encoder)]


def _setting(part: pd.DataFrame, settings: Evaluate) -> Iterator[dict[str, Any]]:
    """Yield the rows of one number of shots and one metric."""
    plan = Plan(settings.bootstrap, settings.confidence, settings.seed, settings.interval)
    labels, patients = sorted(set(part.label)), sorted(set(part.patient))
    groups = _groups(part, labels)
    first, known = part.iloc[0], references(part, settings)
    fixed = {"task": first.task, "dataset": first.dataset, "shots": first.shots, "metric": first.metric}
    cubes = {name: _cube(own, "patient", patients, labels) for name, own in part.groupby("encoder", sort=True)}
    for encoder, cube in cubes.items():
        here = {**fixed, "encoder": encoder, "seeds": len(cube.seeds)}
        of_seeds = [intervals.label_means(values) for values in cube.values]
        own = part[part.encoder == encoder]
        for group, found in _some(intervals.bootstrap(cube.mean(), groups, plan)):
            note = _missed(own, [labels[column] for column in groups[group]])
            yield {**here, **result(group, found, note=note), **_seeds(of_seeds, groups[group], plan)}
        for place, name in enumerate(known):
            if encoder not in known[: place + 1]:  # a pair of references is compared once
                yield from _against({**here, "reference": name}, cube, cubes[name], groups, plan)
        if first.metric in PUBLISHED_METRICS:
            yield from _as_published(here, own, labels, groups, plan)


def _groups(part: pd.DataFrame, labels: list[str]) -> dict[str, list[int]]:
    """Return the columns of ``all``, of each group, and of each label alone."""
    named = {str(group): sorted(set(own.label)) for group, own in part.groupby("group", sort=True) if group}
    alone = {LABEL + label: [label] for label in labels if label != "all"}
    members = {**named, "all": labels, **alone}
    return {group: [labels.index(label) for label in chosen] for group, chosen in members.items()}


def _cube(rows: pd.DataFrame, unit: str, units: list[str], labels: list[str]) -> Cube:
    """Return the means over the cases of each unit (patient or case)."""
    seeds = sorted(set(rows.seed))
    index = pd.MultiIndex.from_product([seeds, units])
    wide = rows.groupby(["seed", unit, "label"])["value"].mean().unstack("label")
    values = wide.reindex(index=index, columns=labels).to_numpy(dtype=float)
    return Cube(seeds, values.reshape(len(seeds), len(units), len(labels)))


def _some(found: dict[str, Interval]) -> Iterator[tuple[str, Interval]]:
    return ((group, interval) for group, interval in found.items() if interval.n)


def result(group: str, found: Interval, method: str = OURS, note: str = "") -> dict[str, Any]:
    """Return the part of a row that an interval gives; no test and no seeds yet."""
    return {**NO_TEST, **NO_SEEDS, "group": group, "method": method, "note": note, **found._asdict()}


def _seeds(of_seeds: list[np.ndarray], columns: list[int], plan: Plan) -> dict[str, Any]:
    return spread([float(intervals.macro_mean(means[columns])) for means in of_seeds], plan)


def spread(estimates: list[float], plan: Plan) -> dict[str, Any]:
    """Return how far the training seeds lie apart: the interval over patients does not hold it."""
    found = intervals.over_seeds(estimates, plan.confidence)
    return {"seed_estimates": estimates, "seed_low": found.low, "seed_high": found.high}


def _against(
    here: dict[str, Any], cube: Cube, other: Cube, groups: intervals.Groups, plan: Plan
) -> Iterator[dict[str, Any]]:
    """Yield differences and win rates against a reference; seeds are paired too, where both have them."""
    smaller = lower_is_better(here["metric"])
    found = intervals.compare(cube.mean(), other.mean(), groups, plan, lower_is_better=smaller)
    both = [(cube.seeds.index(seed), other.seeds.index(seed)) for seed in cube.seeds if seed in other.seeds]
    of_seeds = [intervals.differences(cube.values[i], other.values[j]) for i, j in both]
    for group, pair in found.items():
        if not pair.difference.n:
            continue
        columns = list(groups[group])
        note = "paired over patients and labels where both have a value; p by Wilcoxon over patients"
        row = {**result(group, pair.difference, note=note), **_seeds(of_seeds, columns, plan), **here}
        yield {**row, "p_value": pair.p_value}
        if len(columns) > 1:
            note = f"{pair.ties} ties among {pair.labels} labels; percentile interval"
            yield {**result(group, pair.win_rate, note=note), **here, "metric": here["metric"] + WIN_RATE}


def _as_published(
    here: dict[str, Any], own: pd.DataFrame, labels: list[str], groups: intervals.Groups, plan: Plan
) -> Iterator[dict[str, Any]]:
    cases = _cube(own, "case_id", sorted(set(own.case_id)), labels).mean()
    named = {group: columns for group, columns in groups.items() if not group.startswith(LABEL)}
    if TUMOUR in groups:
        note = "mean over the cases that have a value; percentile bootstrap over cases"
        intervals_of = intervals.bootstrap(cases, {TUMOUR: groups[TUMOUR]}, plan._replace(method="percentile"))
    elif here["metric"] == "dice":
        note = "labels absent from a scan dropped; normal interval over all (case, label) values"
        intervals_of = intervals.pooled_normal(cases, named, plan)
    else:
        return
    for group, found in _some(intervals_of):
        missed = _missed(own, [labels[column] for column in groups[group]])
        yield {**here, **result(group, found, PUBLISHED, "; ".join(part for part in (note, missed) if part))}


def _missed(own: pd.DataFrame, labels: list[str]) -> str:
    """Say how often a label that is there was not predicted, and whether such a case counts."""
    if not own.note.fillna("").str.startswith(MISSED).any():
        return ""
    rows = own[own.label.isin(labels)]
    rows = rows[~rows.note.fillna("").isin((EXTRA, ABSENT))]
    missed = rows[rows.note.fillna("").str.startswith(MISSED)]
    left_out = ", which are left out of the mean" if missed.value.isna().any() else ""
    return f"{MISSED} in {len(missed)} of {len(rows)} values{left_out}" if len(missed) else ""


def adjusted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adjust the p values of each family by Holm's method.

    A family is what a reader looks through at once: all tests of one metric at one level (all labels together,
    groups, single labels), over encoders and numbers of training cases.
    """
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if np.isfinite(row["p_value"]):
            families.setdefault((row["metric"], _level(row["group"])), []).append(row)
    for family in families.values():
        holm = multiplicity.holm([row["p_value"] for row in family])
        for row, p in zip(family, holm, strict=True):
            row |= {"p_holm": float(p), "note": f"{row['note']}; p_holm over {len(family)} tests"}
    return rows


def _level(group: str) -> str:
    return group if group == "all" else LABEL if group.startswith(LABEL) else "groups"


def with_paper(row: dict[str, Any], paper: dict[tuple[str, ...], float]) -> dict[str, Any]:
    """Add the paper's value for the same setting, or say why none may stand there."""
    if not paper:
        note = "; ".join(part for part in (row["note"], published.OTHER_DATA) if part)
        return {**row, "paper": np.nan, "note": note}
    key = (published.arm(row["encoder"]), published.arm(row["reference"]), row["shots"], row["group"], row["metric"])
    return {**row, "paper": paper.get(key, np.nan)}


def quoted(task: str, dataset: str, cases: int, metrics: set[str]) -> list[dict[str, Any]]:
    """Return what was published for the same data, and the rivals, with source and caveat."""
    found = []
    for row in published.quoted(dataset, cases, metrics).itertuples():
        interval = Interval(row.value, row.low, row.high, row.n)
        here = {"task": task, "dataset": row.dataset, "encoder": row.encoder, "reference": row.reference}
        here |= {"shots": row.shots, "metric": row.metric, "seeds": None, "paper": row.value}
        note = f"{row.source}: {row.caveat}" if row.caveat else row.source
        found.append({**result(row.group, interval, QUOTED, note), **here})
    return found
