"""The paper against ours: a line for every number of ``resources/paper.csv``, and why it may not be compared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ctfm import published
from ctfm.metrics.summary import LABEL
from ctfm.reporting.counterparts import Ours, Run
from ctfm.reporting.facts import NARROW, Table

TITLES = {
    "wholebody": "Whole-body segmentation",
    "abdomen": "Abdomen, the split of Merlin",
    "tumour": "Tumours",
    "triage": "Head-CT triage",
    "organ_retrieval": "Retrieval of organs",
    "lesion_retrieval": "Retrieval of lesions",
    "search": "Semantic search",
    "ablation": "Pre-training ablations",
    "pretrain": "Choice of the checkpoint",
    "corpus": "Corpus of the pre-training",
    "data": "Data sets, counted",
    "setting": "Recipe: how it was done",
}
HEAD = ["number", "place", "paper", "ours", "ours − paper", "comparable", "what to know"]
SAME, OTHER, ABSENT = "yes", "no: other data", "no: not in this run"
QUOTED_ONLY = "no: quoted by the paper, never run"
ALIKE, UNLIKE = "the same setting", "another setting"
MEANING = {
    SAME: "measured here on the same data",
    OTHER: "measured here on other data of the same kind, so not subtracted",
    ABSENT: "not in this run",
    QUOTED_ONLY: "quoted by the paper from elsewhere, and never run",
    ALIKE: "settings that are the same here",
    UNLIKE: "settings that are others here",
}
EXACT = 1e-9


class Claims(NamedTuple):
    """All lines, by what they are about, and how many there are of each sort, in words."""

    tables: dict[str, Table]
    counts: dict[str, int]

    @property
    def total(self) -> int:
        """How many numbers the paper has."""
        return sum(self.counts.values())


def compare(root: Path) -> Claims:
    """Return every number of the paper beside that of a run.

    The interval of a difference is ours less the paper's value, which is taken as exact: its own interval, where it
    has one, is printed beside it.

    Args:
        root: folder of the run.
    """
    run, paper = Run(root), published.table()
    counts: Counter[str] = Counter()
    found: dict[str, list[list[str]]] = {}
    for row in paper.itertuples():
        ours = run.find(row)
        why = _comparable(row, ours)
        counts[why] += 1
        line = [_name(row), row.place, _paper(row), *_ours(row, ours, why), why, _caveat(row, ours)]
        found.setdefault(row.task, []).append(line)
    order = [name for name in (*TITLES, *found) if name in found]
    titled = {TITLES.get(name, name.replace("_", " ")): Table(HEAD, found[name]) for name in order}
    return Claims(titled, {MEANING[why]: counts[why] for why in MEANING if counts[why]})


def _comparable(row: Any, ours: Ours | None) -> str:
    if ours is not None and row.task == "setting":
        return ALIKE if abs(ours.value - row.value) < EXACT else UNLIKE
    if ours is not None:
        return SAME if ours.same_data else OTHER
    rival = row.encoder and row.encoder not in published.OURS and row.task not in ("ablation", *published.RECIPE)
    return QUOTED_ONLY if rival else ABSENT


def _name(row: Any) -> str:
    if row.task == "setting":
        return row.metric
    group = "" if row.group == "all" else row.group.removeprefix(LABEL)
    against = f"{row.encoder} against {row.reference}" if row.reference else row.encoder
    return ", ".join(word for word in (against, row.metric.replace("_", " "), group, row.dataset) if word)


def _paper(row: Any) -> str:
    limits = "" if pd.isna(row.low) else f" ({row.low:g} to {row.high:g})"
    return f"{row.value:.10g}{limits}".replace(" ", NARROW)


def _ours(row: Any, ours: Ours | None, why: str) -> tuple[str, str]:
    """Return our value and the difference, each with its interval."""
    if ours is None:
        return "–", "–"
    bounded = bool(np.isfinite(ours.low))
    value = f"{ours.value:.4g} ({ours.low:.4g} to {ours.high:.4g})" if bounded else _plain(ours.value)
    less = [number - row.value for number in (ours.value, ours.low, ours.high)]
    difference = "the same" if abs(less[0]) < EXACT else f"{less[0]:+.4g}"
    difference += f" ({less[1]:+.4g} to {less[2]:+.4g})" if bounded else ""
    return value.replace(" ", NARROW), difference.replace(" ", NARROW) if why in (SAME, ALIKE, UNLIKE) else "–"


def _plain(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def _caveat(row: Any, ours: Ours | None) -> str:
    source = "" if row.source == "paper" else row.source
    return "; ".join(word for word in (ours.note if ours else "", row.caveat, source) if word)
