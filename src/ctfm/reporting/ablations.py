"""Ablations of the pre-training for the report page: the probe's scores of each run, and intra-sample against cross."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ctfm.figures._results import Results
from ctfm.metrics import intervals
from ctfm.reporting.counterparts import CONFIDENCE, last_scores
from ctfm.reporting.facts import NARROW, Table, number

METRICS = {"macro_dice": "macro Dice", "micro_dice": "micro Dice"}


class Ablations(NamedTuple):
    """What the runs are and score, and the differences of pairs of objectives."""

    runs: Table
    pairs: Table


def ablations(root: Path, runs: dict[str, dict[str, Any]]) -> Ablations:
    """Return the scores of each pre-training run's last checkpoint; nothing where fewer than two were probed.

    Args:
        root: folder of the run.
        runs: content of every run.json, by folder.
    """
    scores = {metric: last_scores(Results(root).scores, metric) for metric in METRICS}
    names = sorted({name for by_run in scores.values() for name in by_run})
    entries = {name: runs.get(f"encoders/{name}", {}).get("spec", {}).get("pretrain", {}) for name in names}
    lines = [[name, *_recipe(entries[name]), *(_told(scores[m].get(name)) for m in METRICS)] for name in names]
    head = ["run", "method", "sampling", "crops of a scan", "patch", "epochs", *METRICS.values(), "seeds of the probe"]
    lines = [[*line, number(_seeds(scores, line[0]))] for line in lines] if len(names) > 1 else []
    pairs = [(one, other) for one in names for other in names if _paired(entries[one], entries[other])]
    differences = [
        [f"{a} − {b}", *(_difference(scores[m], a, b) for m in METRICS), _apart(entries, a, b)] for a, b in pairs
    ]
    return Ablations(
        Table(head, lines), Table(["runs", *METRICS.values(), "differ in more than sampling"], differences)
    )


def _recipe(entry: dict[str, Any]) -> list[str]:
    patch = " × ".join(map(str, entry.get("patch", []))).replace(" ", NARROW) or "–"
    sampling = entry.get("method_options", {}).get("sampling", "–")
    return [
        entry.get("method", "–"),
        sampling,
        str(entry.get("crops_per_scan", "–")),
        patch,
        str(entry.get("epochs", "–")),
    ]


def _seeds(scores: dict[str, dict[str, pd.Series]], name: str) -> int:
    return max(len(by_run[name]) for by_run in scores.values() if name in by_run)


def _paired(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two runs have one method, the first within each scan and the second across all."""
    ways = [entry.get("method_options", {}).get("sampling") for entry in (one, other)]
    return one.get("method") == other.get("method") and ways == ["intra", "cross"]


def _apart(entries: dict[str, dict[str, Any]], one: str, other: str) -> str:
    keys = sorted(set(entries[one]) | set(entries[other]))
    return (
        ", ".join(k for k in keys if k != "method_options" and entries[one].get(k) != entries[other].get(k))
        or "nothing"
    )


def _told(values: pd.Series | None, form: str = ".4f") -> str:
    if values is None or values.dropna().empty:
        return "–"
    found = intervals.over_seeds(values.dropna(), CONFIDENCE)
    limits = "no interval" if pd.isna(found.low) else f"{found.low:{form}} to {found.high:{form}}"
    return f"{found.estimate:{form}} ({limits})".replace(" ", NARROW)


def _difference(scores: dict[str, pd.Series], one: str, other: str) -> str:
    return _told(scores[one] - scores[other], "+.4f") if {one, other} <= set(scores) else "–"
