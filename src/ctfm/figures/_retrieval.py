"""What the figures of retrieval share: the tasks of a run, and the drawing of measures side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.metrics.retrieval import AS_PUBLISHED
from ctfm.metrics.summary import LABEL, OURS, QUOTED

BY_COHORT = "_by_cohort"
NAMES = {"precision": "P", "hit_rate": "HR", "f1": "F1", "average_precision": "AP"}
COLUMNS = ["panel", "task", "dataset", "encoder", "group", "metric", "method"]
COLUMNS += ["estimate", "low", "high", "n", "paper", "note"]
NEEDS = (
    "needs a task of the kind 'retrieve' with its summary (evaluate/<task>/summary.parquet), and there is none\n"
    "in this run. Add one to tasks."
)


class Measure(NamedTuple):
    """A place on the axis: its name, our metric, and the paper's."""

    name: str
    ours: str
    theirs: str


class View(NamedTuple):
    """The rows of one retrieval task without paired differences, and how its encoders look."""

    rows: pd.DataFrame
    task: str
    dataset: str
    attributes: list[str]  # what is alike; empty where there is but one
    cohorts: list[str]
    depths: list[int]
    looks: dict[str, style.Look]

    def measures(self, names: Sequence[str], depths: Sequence[int], distance: str = "", end: str = "") -> list[Measure]:
        """Return the measures at the depths; ``distance`` and ``end`` are parts of the metrics' names."""
        pairs = [(name, k) for name in names for k in depths]
        return [
            Measure(f"{NAMES[n]}@{k}", f"{n}_at_{k}{end}", f"{n}_at_{k}{distance}{AS_PUBLISHED}{end}") for n, k in pairs
        ]


def views(results: Results, *, lesions: bool) -> list[View]:
    """Return the tasks of a run in which there are several attributes (``lesions``), or but one."""
    rows = results.summary
    rows = rows[rows.metric.str.match(r"(?:\w+_at_\d+|average_precision)") & (rows.reference == "")]
    found = [_view(own) for _, own in rows.groupby("task", sort=True)]
    return [view for view in found if bool(view.attributes) == lesions]


def _view(rows: pd.DataFrame) -> View:
    own = rows[rows.method == OURS]
    depths = {int(match[1]) for metric in own.metric if (match := re.match(r"precision_at_(\d+)$", metric))}
    groups = sorted(set(own.group) - {"all"} - {name for name in own.group if name.startswith(LABEL)})
    labels = [name.removeprefix(LABEL) for name in dict.fromkeys(own.group) if name.startswith(LABEL)]
    cohorts = [name.partition(", ")[2] for name in labels if ", " in name] or [n for n in labels if n not in groups]
    first = ["random"] if "random" in set(own.encoder) else []
    names = sorted(set(own.encoder), key=lambda name: (name in first, name))
    looks = style.looks(names, next(iter(first), ""))
    return View(rows, rows.task.iloc[0], rows.dataset.iloc[0], groups, sorted(set(cohorts)), sorted(depths), looks)


def nothing(settings: Figures, what: str) -> tuple[Figure, pd.DataFrame]:
    """Return a figure that says what is missing and how to make it."""
    return style.nothing(settings, f"{what} {NEEDS}", "snakemake evaluate"), pd.DataFrame(columns=COLUMNS)


def missing(axes: Axes, letter: str, title: str, kind: str) -> pd.DataFrame:
    """Say in a panel which data set would fill it; return no rows."""
    style.heading(axes, letter, title)
    style.missing(
        axes, f"No task of the kind 'retrieve' on a data set\nsuch as '{kind}' in this run.", "snakemake evaluate"
    )
    return pd.DataFrame(columns=COLUMNS)


def draw(axes: Axes, view: View, group: str, measures: Sequence[Measure]) -> pd.DataFrame:
    """Draw ours (filled), the same as published (open) and published values (stars); return the rows drawn."""
    drawn, width = [], 0.7 / len(view.looks)
    for place, measure in enumerate(measures):
        for number, (encoder, look) in enumerate(view.looks.items()):
            middle = place + width * (number - (len(view.looks) - 1) / 2)
            for metric, shift, filled in ((measure.ours, -0.22, True), (measure.theirs, 0.22, False)):
                row = _pick(view, encoder, group, metric, OURS)
                x = middle + shift * width
                for one in row.itertuples():
                    style.interval(axes, x, one.estimate, one.low, one.high, look, filled=filled)
                    if np.isfinite(one.paper):
                        style.paper_mark(axes, x, one.paper)
                drawn.append(row)
        quoted = view.rows[(view.rows.method == QUOTED) & ~view.rows.encoder.isin(list(view.looks))]
        quoted = quoted[(quoted.group == group) & (quoted.metric == measure.theirs)]
        for one in quoted.itertuples():
            style.paper_mark(axes, place + 0.42, one.estimate, filled=False)
        drawn.append(quoted)
    axes.set_xticks(range(len(measures)), [measure.name for measure in measures])
    axes.set_xlim(-0.6, len(measures) - 0.4)
    axes.set_ylim(-0.03, 1.03)
    axes.grid(axis="x", visible=False)
    filled_rows = [rows for rows in drawn if len(rows)]
    return pd.concat(filled_rows) if filled_rows else pd.DataFrame(columns=COLUMNS)


def joined(panels: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """Return the rows of all panels with their letter."""
    rows = [rows.assign(panel=letter) for letter, rows in panels if len(rows)]
    return (pd.concat(rows) if rows else pd.DataFrame(columns=COLUMNS)).reindex(columns=COLUMNS)


def legend(figure: Figure, looks: dict[str, style.Look]) -> None:
    """Write the encoders and what marks mean under the figure."""
    handles = [_handle(name, look.marker, look.colour, look.colour) for name, look in looks.items()]
    handles.append(_handle("standard definition", "o", style.INK, style.INK))
    handles.append(_handle("as published", "o", style.INK, "white"))
    handles.append(_handle("the paper's value", style.PAPER_MARKER, style.INK, style.PAPER_COLOUR))
    handles.append(_handle("quoted baseline", style.PAPER_MARKER, style.INK, "white"))
    title = "Lines: intervals over patients. P: precision, HR: hit rate, AP: average precision, of the first k."
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title=title, title_fontsize=6)


def patients(rows: pd.DataFrame) -> str:
    """Return the number of patients behind our rows."""
    own = rows[rows.method == OURS] if len(rows) else rows
    if own.empty:
        return "nothing measured"
    low, high = int(own.n.min()), int(own.n.max())
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def _pick(view: View, encoder: str, group: str, metric: str, method: str) -> pd.DataFrame:
    rows = view.rows
    return rows[(rows.encoder == encoder) & (rows.group == group) & (rows.metric == metric) & (rows.method == method)]


def _handle(text: str, marker: str, colour: str, face: str) -> Line2D:
    drawn: dict[str, Any] = {"markersize": 6 if marker == style.PAPER_MARKER else 4, "markeredgewidth": 0.6}
    return Line2D([], [], marker=marker, label=text, color=colour, markerfacecolor=face, linewidth=0, **drawn)
