"""Where a run has its own number for one that the paper prints: results, counts of data, and settings.

A counterpart is on the same data only where the entry has the paper's name for the data set and as many test cases.
The same kind of data (a phantom of TotalSegmentator, a corpus of one's own) is shown too, and never subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ctfm import files, published, tables
from ctfm.figures._results import Results
from ctfm.metrics import intervals
from ctfm.metrics.summary import OURS, PUBLISHED
from ctfm.reporting import facts

CONFIDENCE = 0.95
SECONDS_A_DAY = 86400.0
SPLIT = "cases_"


class Ours(NamedTuple):
    """A number of this run; ``low`` and ``high`` are NaN where it has no interval."""

    value: float
    low: float = np.nan
    high: float = np.nan
    same_data: bool = False
    note: str = ""


class Run:
    """The numbers of a run that answer to those of the paper.

    Args:
        root: folder of the run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.results = Results(root)

    def find(self, row: Any) -> Ours | None:
        """Return the run's own number for a row of ``resources/paper.csv``, or None."""
        readers = {"setting": self._setting, "data": self._count, "corpus": self._corpus, "ablation": self._ablation}
        return {**readers, "pretrain": self._chosen}.get(row.task, self._measured)(row)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kind of each data set of the run, by its name."""
        return {name: str(run.get("kind", name)) for name, run in self.settings["datasets"].items()}

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What was set, by section and name, as the configuration names it; with a few facts that follow from it."""
        found: dict[str, dict[str, Any]] = {
            name: {} for name in ("pretrain", "datasets", "tasks", "corpora", "prepare")
        }
        for folder, run in facts.runs(self.root).items():
            stage, name, *rest = folder.split("/")
            spec = run.get("spec", {})
            if stage == "encoders" and "pretrain" in spec:
                found["pretrain"][name] = _pretraining(spec["pretrain"], run)
            elif stage == "datasets":
                found["datasets"][name] = spec.get("dataset", {})
            elif stage == "volumes":
                found["prepare"] |= spec.get("prepare", {})
            elif stage == "adapt" and "task" in spec:
                _add_task(found["tasks"].setdefault(name, {}), spec, run, published.arm(rest[0]))
        self._add_results(found["tasks"])
        for path in sorted(self.root.glob("select/*/selection.json")):
            found["corpora"][path.parent.name] = _selection(files.read_json(path).get("settings", {}))
        return {**found, "evaluate": self._evaluation()}

    def _add_results(self, tasks: dict[str, Any]) -> None:
        """Add what only the tables tell: how many matches were looked at, and onto how many axes scans were placed."""
        for name, rows in self.results.summary.groupby("task"):
            depths = rows.metric.str.extract(r"precision_at_(\d+)$")[0].dropna()
            tasks.setdefault(name, {})["depths"] = {depth: int(depth) for depth in depths}
        for name in self.results.points.task.unique():
            tasks.setdefault(name, {})["dimensions"] = 2

    def _evaluation(self) -> dict[str, Any]:
        for path in sorted(self.root.glob("evaluate/*/summary.parquet")):
            return tables.facts(path).get("spec", {}).get("evaluate", {"confidence": CONFIDENCE})
        return {}

    def _setting(self, row: Any) -> Ours | None:
        value: Any = self.settings
        for part in row.metric.split("."):
            if isinstance(value, Mapping):
                value = value.get(part)
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                value = None
        return Ours(float(value), same_data=True) if isinstance(value, (int, float)) else None

    def _datasets(self, name: str) -> list[tuple[str, bool]]:
        """Return the data sets of the run that answer to one of the paper's, and whether each is the same one."""
        own = [(name, True)] if self.root.joinpath("datasets", name).is_dir() else []
        return own + [(other, False) for other, kind in self.kinds.items() if kind == name and other != name]

    def _count(self, row: Any) -> Ours | None:
        for name, same in self._datasets(row.dataset):
            cases = self.results.cases(name).query("status == 'ok'")
            value = _counted(cases, row.metric) if len(cases) else None
            if value is not None:
                return Ours(value, same_data=same, note="" if same else f"of '{name}'")
        return None

    def _corpus(self, row: Any) -> Ours | None:
        funnel = self.results.funnel
        names = sorted(set(funnel.corpus), key=lambda name: (name != row.dataset, name))
        if not names:
            return None
        last = funnel[funnel.corpus == names[0]].iloc[-1]
        kept = self.results.collections
        value = (kept.corpus == names[0]).sum() if row.metric == "collections" else last[row.metric]
        same = names[0] == row.dataset
        return Ours(float(value), same_data=same, note="" if same else f"of '{names[0]}'")

    def _chosen(self, row: Any) -> Ours | None:
        path = self.root / "probe" / row.encoder / "selected.json"
        epoch = files.read_json(path).get("epoch") if path.is_file() else None
        return None if epoch is None else Ours(float(epoch), note="by probes on cases apart from every test set")

    def _ablation(self, row: Any) -> Ours | None:
        """Compare last checkpoints, seed by seed of the probe."""
        scores = last_scores(self.results.scores, row.metric)
        own = scores.get(row.encoder)
        if own is None or (row.reference and row.reference not in scores):
            return None
        values = own - scores[row.reference] if row.reference else own
        found = intervals.over_seeds(values.dropna(), CONFIDENCE)
        return Ours(found.estimate, found.low, found.high, note="on other cases; interval over seeds of the probe")

    def _measured(self, row: Any) -> Ours | None:
        rows = self.results.summary.sort_values("method", kind="stable")  # ours, then the published definition
        rows = rows[rows.method.isin([OURS, PUBLISHED]) & (rows.metric == row.metric) & (rows.group == row.group)]
        rows = rows[(rows.shots == row.shots) & (rows.reference.map(published.arm) == row.reference)]
        rows = rows[rows.encoder.map(published.arm) == row.encoder]
        for name, same in [(row.dataset, True), *self._datasets(row.dataset)]:
            for one in rows[rows.dataset == name].head(1).itertuples():
                alike = same and bool(np.isfinite(one.paper))
                n = "" if pd.isna(one.n) else f"n = {one.n:.0f}"
                note = "" if alike else f"of {'other cases of ' if same else ''}'{name}', {n}".rstrip(", ")
                return Ours(one.estimate, one.low, one.high, alike, note)
        return None


def last_scores(scores: pd.DataFrame, metric: str) -> dict[str, pd.Series]:
    """Return the scores of each run's last checkpoint: {encoder: value by seed of the probe}."""
    rows = scores[scores.metric == metric]
    rows = rows[rows.epoch == rows.groupby("encoder").epoch.transform("max")]
    return {name: own.groupby("seed").value.mean() for name, own in rows.groupby("encoder")}


def _pretraining(entry: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    spacing = run.get("data", {}).get("spacing_mm") or []
    options = entry.get("encoder_options", {})
    made = {
        "hardware": run.get("hardware", {}),
        "days": run.get("seconds", np.nan) / SECONDS_A_DAY,
        "crops_in_a_batch": entry.get("global_batch", np.nan) * entry.get("crops_per_scan", np.nan),
        "patch_cm": [voxels * mm / 10 for voxels, mm in zip(entry.get("patch", []), spacing, strict=False)],
    }
    if {"init_filters", "blocks_down"} <= set(options):
        made["embedding_channels"] = options["init_filters"] * 2 ** (len(options["blocks_down"]) - 1)
    return {**entry, **made}


def _add_task(task: dict[str, Any], spec: dict[str, Any], run: dict[str, Any], arm: str) -> None:
    """Add one adaptation to what is known of its task: of several encoders the first tells, but for their own part."""
    entry, hardware = spec["task"], run.get("hardware", {})
    options = dict(entry.get("options", {}))
    for level, width in options.get("windows") or []:
        options.setdefault("window_low", []).append(level - width / 2)
        options.setdefault("window_high", []).append(level + width / 2)
    if "batch" in options and hardware.get("devices"):
        options["batch_per_device"] = options["batch"] / hardware["devices"]
        task.setdefault("batch_per_device", options["batch_per_device"])
    shots = str(spec.get("shots", ""))
    task.setdefault("shots", {}).update({shots: float(shots)} if shots.isdigit() else {})
    task.setdefault("hardware", hardware)
    task.setdefault("options", options)
    task.setdefault(arm, {"options": options})


def _selection(settings: dict[str, Any]) -> dict[str, Any]:
    more = {"more_instances_than": settings.get("min_instances", np.nan) - 1}
    return {**settings, **more, "instances_per_position": 1 if settings.get("unique_positions") else None}


def _counted(cases: pd.DataFrame, metric: str) -> float | None:
    """Return a count of the cases of a data set, by its name in ``resources/paper.csv``."""
    split = metric.partition("_")[2]
    if metric in ("cases", "cases_at_least"):
        return float(len(cases))
    if metric.startswith((SPLIT, "tenths_")):
        count = float((cases.split == split).sum())
        return count if metric.startswith(SPLIT) else 10 * count / len(cases)
    if metric.startswith("share_"):
        abnormal = np.mean(["abnormal" in names for names in cases.labels])
        return float(abnormal if split == "abnormal" else 1 - abnormal)
    if metric in ("structures", "regions"):
        return float(len({name for names in cases.labels for name in names}))
    return None
