"""From the distances of semantic search to its summary: near what, how often, and nearer than whom.

Rows are those of ``ctfm.metrics.centroid``. A target's value for an organ is the mean over the scans that ask, so
intervals and tests are over targets (``ctfm.metrics.summary``); how far single query scans lie apart, the note of an
organ tells. Training seeds, of which each draws query scans of its own, have their columns. Methods:

- ``ours``: mean distance, share of matches ``inside``, and the share ``within_<k>cm``; differences to reference
  encoders on the same targets; the bounds (floor, chance, middle). Of each organ also the median and the quartiles
  (``…_median``, ``…_q25``, ``…_q75``), and ``closer``: the share of targets where it is strictly nearer than the
  reference.
- ``published definition``, of each organ: mean over all (query, target) pairs, their population standard deviation
  (``…_sd``; ddof 0), and ``inside_published``; none has an interval.
- ``quoted``: what the paper printed for the same data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ctfm import published
from ctfm.config import Evaluate
from ctfm.metrics import intervals, summary
from ctfm.metrics.centroid import CHANCE, CUT, DISTANCE, FLOOR, INSIDE, INSIDE_PUBLISHED, MIDDLE, query_of
from ctfm.metrics.intervals import Interval, Plan
from ctfm.metrics.summary import LABEL, OURS, PUBLISHED

COMPARED = (DISTANCE, INSIDE)  # the measures that tell encoders apart
SD, CLOSER = f"{DISTANCE}_sd", "closer"
WITHIN_CM = (5, 6, 8, 10)
QUANTILES = {"q25": 0.25, "median": 0.5, "q75": 0.75}
INVALID = "no valid test: true when any one coordinate equals that of any voxel of the organ"
MEANT = "mean over (query, target) pairs; no interval is given"
NO_BOUNDS = (np.nan, np.nan)


def summarise(table: pd.DataFrame, settings: Evaluate, cases: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of the table ``summary``.

    Args:
        table: rows of ``metrics`` of one task, one data set and one split.
        settings: resamples, coverage, seed and reference encoders.
        cases: number of targets; ``None``: those with a distance, which is what the paper counts.
    """
    compared, bounds = shares(table), table[table.metric.isin([FLOOR, CHANCE, MIDDLE])]
    measured = compared[(compared.metric == DISTANCE) & compared.value.notna()]
    if measured.empty:
        return []
    first, cases = table.iloc[0], cases or measured.case_id.nunique()
    paper = published.values(first.dataset, cases)
    notes = _notes(compared)
    rows = [_noted(row, notes) for row in summary.summarise(compared, settings, cases)]
    if len(bounds):
        rows += summary.summarise(bounds, settings.model_copy(update={"references": ()}), cases)
    more = [*_quantiles(measured, settings), *_closer(measured, settings), *_as_published(table)]
    rows += [summary.with_paper(row, paper) for row in more]
    return rows + summary.quoted(first.task, first.dataset, cases, {SD, INSIDE_PUBLISHED})


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of distance and ``inside``, and for each distance whether it is within so many cm."""
    distance = table[table.metric == DISTANCE]
    parts = [distance, table[table.metric == INSIDE]]
    for limit in WITHIN_CM:
        near = distance.value.le(limit).astype(float).where(distance.value.notna())
        parts.append(distance.assign(metric=f"within_{limit}cm", value=near))
    joined = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return joined.assign(note=joined.note.fillna(""))


def by_target(rows: pd.DataFrame) -> pd.Series:
    """Return the mean of each patient over queries, cases and seeds, of rows of one encoder, organ and metric."""
    return rows.groupby("patient").value.mean().dropna()


def _notes(compared: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """Say, of each organ, how many scans asked, how far their means lie apart, and how many targets cut it off."""
    known = compared[compared.value.notna() & compared.metric.isin(COMPARED)]
    known = known.assign(query=known.note.map(query_of), cut=known.note.str.contains(CUT, regex=False))
    found: dict[tuple[str, ...], str] = {}
    for (encoder, shots, metric, label), own in known.groupby(["encoder", "shots", "metric", "label"]):
        means, told = own[own["query"] != ""].groupby("query").value.mean(), []
        if len(means) > 1:
            told.append(f"means of {len(means)} query scans: {means.min():.3g} to {means.max():.3g}")
        elif len(means):
            told.append(f"one query scan, {means.index[0]}")
        if cut := own[own.cut].case_id.nunique():
            told.append(f"cut off by the border in {cut} of {own.case_id.nunique()} targets")
        found[encoder, shots, metric, LABEL + label] = "; ".join(told)
    return found


def _noted(row: dict[str, Any], notes: dict[tuple[str, ...], str]) -> dict[str, Any]:
    note = notes.get((row["encoder"], row["shots"], row["metric"], row["group"]), "")
    if row["reference"] or row["method"] != OURS:
        return row
    return {**row, "note": "; ".join(part for part in (row["note"], note) if part)}


def _parts(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the rows of each encoder, number of shots and organ, with what is the same in all rows of its summary."""
    for (encoder, shots, label), own in table.groupby(["encoder", "shots", "label"], sort=True):
        first = own.iloc[0]
        here = {"task": first.task, "dataset": first.dataset, "encoder": encoder, "shots": shots}
        yield {**here, "seeds": own.seed.nunique(), "label": label}, own


def _row(here: dict[str, Any], metric: str, found: Interval, method: str = OURS, note: str = "") -> dict[str, Any]:
    fixed = {key: value for key, value in here.items() if key != "label"}
    return {**summary.result(LABEL + here["label"], found, method, note), **fixed, "metric": metric}


def _quantiles(measured: pd.DataFrame, settings: Evaluate) -> Iterator[dict[str, Any]]:
    plan = Plan(settings.bootstrap, settings.confidence, settings.seed, "percentile")
    for here, own in _parts(measured):
        values = by_target(own).to_numpy()
        draws = np.random.default_rng(plan.seed).integers(len(values), size=(plan.resamples, len(values)))
        drawn = np.quantile(values[draws], list(QUANTILES.values()), axis=1)
        for (name, share), resampled in zip(QUANTILES.items(), drawn, strict=True):
            estimate = np.quantile(values, share)
            found = intervals.from_resamples(estimate, resampled, np.empty(0), len(values), plan)
            yield _row(here, f"{DISTANCE}_{name}", found, note="percentile interval over targets")


def _closer(measured: pd.DataFrame, settings: Evaluate) -> Iterator[dict[str, Any]]:
    plan = Plan(settings.bootstrap, settings.confidence, settings.seed, "percentile")
    known = summary.references(measured, settings)
    values = {(h["encoder"], h["shots"], h["label"]): by_target(own) for h, own in _parts(measured)}
    for here, _ in _parts(measured):
        for place, name in enumerate(known):
            key = (name, here["shots"], here["label"])
            if here["encoder"] in known[: place + 1] or key not in values:  # a pair of references is compared once
                continue
            pair = pd.concat([values[(here["encoder"], *key[1:])], values[key]], axis=1, join="inner").to_numpy()
            if len(pair):
                won = (pair[:, :1] < pair[:, 1:]).astype(float)
                found = intervals.of_means(won, intervals.macro_mean, plan)
                ties = int((pair[:, 0] == pair[:, 1]).sum())
                yield _row({**here, "reference": name}, CLOSER, found, note=f"share of the same targets; {ties} ties")


def _as_published(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for here, own in _parts(table[table.metric.isin([DISTANCE, INSIDE_PUBLISHED]) & table.value.notna()]):
        for metric, rows in own.groupby("metric"):
            n = rows.case_id.nunique()
            mean = Interval(float(rows.value.mean()), *NO_BOUNDS, n)
            note = MEANT if metric == DISTANCE else INVALID
            yield _row(here, str(metric), mean, PUBLISHED, note)
            if metric == DISTANCE:
                spread = Interval(float(rows.value.std(ddof=0)), *NO_BOUNDS, n)
                yield _row(here, SD, spread, PUBLISHED, "population standard deviation of the same pairs (ddof 0)")
