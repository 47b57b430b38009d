"""Figure 2 of the paper: whole-body segmentation, from the tables of one segmentation task.

Panels: (a) macro Dice of each encoder, (b) by group of labels, (c) each label, (d) win rate over labels
against the reference encoder, (e) few-shot curve, (f) paired difference to the reference. Intervals are
drawn everywhere; published values are stars, and stand only beside numbers from the same data.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctfm import published
from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures._results import Results

METRIC, WINS = "dice", "dice_win_rate"
OURS, AS_PUBLISHED = "ours", "published definition"
DRAWN = ["estimate", "low", "high", "n", "p_value", "paper"]
COLUMNS = ["panel", "task", "encoder", "reference", "shots", "group", "metric", "method", *DRAWN]
FEW_LABELS = 30


class View(NamedTuple):
    """The rows of one task, and how its encoders look."""

    rows: pd.DataFrame
    shots: str  # the setting of all panels but (e)
    reference: str
    looks: dict[str, style.Look]

    def pick(self, metric: str = METRIC, method: str = OURS, reference: str = "", shots: str = "") -> pd.DataFrame:
        """Return the rows of one metric and setting."""
        rows = self.rows[(self.rows.metric == metric) & (self.rows.method == method)]
        rows = rows[rows.shots == (shots or self.shots)] if shots != "*" else rows
        return rows[rows.reference == reference]


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the summary tables.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel.
    """
    rows = results.summary[results.summary.metric.isin([METRIC, WINS])]
    if rows.empty:
        figure = style.blank(settings, 0.35)
        style.message(figure.subplots(), _nothing(results))
        return figure, pd.DataFrame(columns=COLUMNS)
    view = _view(rows)
    figure = style.blank(settings, 1.02)
    axes = figure.subplot_mosaic([["a", "b", "b"], ["c", "c", "c"], ["d", "e", "f"]], height_ratios=[1, 1.1, 1])
    drawn = [
        _overall(axes["a"], view),
        _groups(axes["b"], view),
        _labels(axes["c"], view),
        _win_rates(axes["d"], view),
        _few_shot(axes["e"], view),
        _differences(axes["f"], view),
    ]
    _legend(figure, view)
    return figure, pd.concat([d.assign(panel=p) for d, p in zip(drawn, "abcdef", strict=True)])[COLUMNS]


def _nothing(results: Results) -> str:
    return (
        "Figure 2 needs a segmentation task with its summary (evaluate/<task>/summary.parquet),\n"
        f"and there is none with '{METRIC}' in this run. Add an entry of kind 'segment' to tasks,\n"
        "then make it with 'snakemake evaluate', or with 'ctfm summary'."
    )


def _view(rows: pd.DataFrame) -> View:
    """Choose the task with the most labels and, for all panels but (e), the largest number of shots."""
    sizes = rows.groupby("task")["group"].nunique()
    rows = rows[rows.task == sizes.idxmax()]
    references = [name for name in rows.reference.unique() if name]
    reference = references[0] if references else ""
    encoders = sorted(rows.encoder.unique(), key=lambda name: (name == reference, name))
    return View(rows, _shots(rows)[-1], reference, style.looks(encoders, reference))


def _shots(rows: pd.DataFrame) -> list[str]:
    return sorted(rows.shots.unique(), key=lambda shots: (shots == "all", int(shots) if shots.isdigit() else 0))


def _group_names(rows: pd.DataFrame) -> list[str]:
    return sorted(group for group in rows.group.unique() if group != "all" and not group.startswith("label:"))


def _overall(axes: Axes, view: View) -> pd.DataFrame:
    ours = view.pick().query("group == 'all'")
    theirs = view.pick(method=AS_PUBLISHED).query("group == 'all'")
    names = list(view.looks)
    for row in ours.itertuples():
        y, look = names.index(row.encoder), view.looks[row.encoder]
        style.interval(axes, row.estimate, y, row.low, row.high, look, across=True)
    for row in theirs.itertuples():
        below, look = names.index(row.encoder) + 0.22, view.looks[row.encoder]
        axes.plot([row.low, row.high], [below, below], color=look.colour, linewidth=0.7)
        axes.plot(row.estimate, below, look.marker, markerfacecolor="white", color=look.colour, markersize=2.6)
    ticks = [*names, *_quoted(axes, view, names)]
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_ylim(len(ticks) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("macro Dice")
    style.heading(axes, "a", f"All labels, n = {ours.n.max()} patients")
    return pd.concat([ours, theirs])


def _quoted(axes: Axes, view: View, names: list[str]) -> list[str]:
    """Mark the paper's values with their intervals if the data are the same; return the rivals it quotes."""
    if view.pick().paper.isna().all():
        return []
    rows = published.table()
    rows = rows[(rows.dataset == view.rows.dataset.iloc[0]) & (rows.group == "all") & (rows.metric == METRIC)]
    for y, name in enumerate(names):
        for row in rows[rows.encoder == published.arm(name)].itertuples():
            axes.plot([row.low, row.high], [y - 0.22, y - 0.22], color=style.PAPER_COLOUR, linewidth=0.7)
            style.paper_mark(axes, row.value, y - 0.22)
    rivals = rows[~rows.encoder.isin(published.OURS)]
    for y, value in enumerate(rivals.value, start=len(names)):
        style.paper_mark(axes, value, y)
    return [f"{name}\n(quoted)" for name in rivals.encoder]


def _groups(axes: Axes, view: View) -> pd.DataFrame:
    rows = view.pick()
    names = _group_names(rows)
    rows = rows[rows.group.isin(names)]
    _dodged(axes, rows, names, view)
    for row in rows[rows.paper.notna()].itertuples():
        style.paper_mark(axes, names.index(row.group) + _offset(list(view.looks), row.encoder), row.paper)
    counts = {name: _size(view, name) for name in names}
    axes.set_xticks(range(len(names)), [f"{name}\n{counts[name]}" for name in names])
    axes.set_ylabel("macro Dice")
    style.heading(axes, "b", "Groups of labels (patients with any of them below)")
    return rows


def _size(view: View, group: str) -> str:
    return f"n = {view.pick().query('group == @group').n.max()}"


def _labels(axes: Axes, view: View) -> pd.DataFrame:
    rows = view.pick()
    rows = rows[rows.group.str.startswith("label:")]
    first = rows[rows.encoder == next(iter(view.looks))]
    names = list(first.sort_values(["estimate", "group"], ascending=[False, True]).group)
    _dodged(axes, rows[rows.group.isin(names)], names, view, width=0.6)
    plain = [name.removeprefix("label:").replace("_", " ") for name in names]
    size = 6 if len(names) <= FEW_LABELS else 3.4
    axes.set_xticks(range(len(names)), plain, rotation=90 if len(names) > 8 else 0, fontsize=size)
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("Dice")
    low, high = rows.n.min(), rows.n.max()
    patients = f"{low}" if low == high else f"{low} to {high}"
    style.heading(axes, "c", f"Each label: mean over the patients who have it (n = {patients})")
    return rows


def _win_rates(axes: Axes, view: View) -> pd.DataFrame:
    rows = view.pick(WINS, reference=view.reference) if view.reference else view.rows[:0]
    if rows.empty:
        return _no_reference(axes, "d", "Win rate", rows)
    names = ["all", *_group_names(rows)]
    percent = {column: 100 * rows[column] for column in ("estimate", "low", "high", "paper")}
    rows = rows.assign(**percent)[rows.group.isin(names)]
    axes.axvline(50, color=style.INK, linewidth=0.6)
    _dodged(axes, rows, names, view, across=True)
    for row in rows[rows.paper.notna()].itertuples():
        compared = sorted(set(rows.encoder), key=list(view.looks).index)
        style.paper_mark(axes, row.paper, names.index(row.group) + _offset(compared, row.encoder))
    axes.set_xlim(-3, 103)
    axes.set_xlabel(f"labels with a higher mean Dice than '{view.reference}', %")
    style.heading(axes, "d", f"Win rate, n = {rows.n.max()} patients")
    return rows


def _few_shot(axes: Axes, view: View) -> pd.DataFrame:
    rows = view.pick(shots="*").query("group == 'all'")
    shots = _shots(rows)
    if len(shots) < 2:
        style.heading(axes, "e", "Few-shot")
        style.message(axes, "One number of training cases only.\nList more under tasks.<task>.shots.")
        return rows[:0]
    for name, look in view.looks.items():
        own = rows[rows.encoder == name].set_index("shots").reindex(shots)
        x = np.arange(len(shots)) + _offset(list(view.looks), name, 0.2)
        axes.plot(x, own.estimate, color=look.colour, linewidth=0.8)
        for place, row in zip(x, own.itertuples(), strict=True):
            style.interval(axes, place, row.estimate, row.low, row.high, look)
    axes.set_xticks(range(len(shots)), shots)
    axes.set_xlabel("labelled training cases")
    axes.set_ylabel("macro Dice")
    style.heading(axes, "e", f"Few-shot, seeds: {rows.seeds.max()}")
    return rows


def _differences(axes: Axes, view: View) -> pd.DataFrame:
    rows = view.pick(reference=view.reference) if view.reference else view.rows[:0]
    if rows.empty:
        return _no_reference(axes, "f", "Paired difference", rows)
    names = ["all", *_group_names(rows)]
    rows = rows[rows.group.isin(names)]
    axes.axvline(0, color=style.INK, linewidth=0.6)
    _dodged(axes, rows, names, view, across=True)
    axes.set_xlabel(f"macro Dice less that of '{view.reference}'")
    overall = rows[rows.group == "all"]
    values = (
        ", ".join(f"p = {row.p_value:.2g}" for row in overall.itertuples()) if len(overall) == 1 else "p in the csv"
    )
    style.heading(axes, "f", f"Paired difference ({values})")
    return rows


def _no_reference(axes: Axes, letter: str, title: str, rows: pd.DataFrame) -> pd.DataFrame:
    style.heading(axes, letter, title)
    style.message(axes, "No reference encoder among those evaluated.\nName one under evaluate.reference.")
    return rows


def _dodged(
    axes: Axes, rows: pd.DataFrame, names: list[str], view: View, *, width: float = 0.5, across: bool = False
) -> None:
    """Draw estimates with intervals, encoders side by side within each of the named groups."""
    compared = sorted(set(rows.encoder), key=list(view.looks).index)
    for row in rows.itertuples():
        place = names.index(row.group) + _offset(compared, row.encoder, width)
        x, y = (row.estimate, place) if across else (place, row.estimate)
        style.interval(axes, x, y, row.low, row.high, view.looks[row.encoder], across=across)
    if across:
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)


def _offset(encoders: list[str], encoder: str, width: float = 0.5) -> float:
    return width * (encoders.index(encoder) - (len(encoders) - 1) / 2) / len(encoders)


def _legend(figure: Figure, view: View) -> None:
    def handle(marker: str, colour: str, label: str, face: str = "", size: float = 4) -> Line2D:
        return Line2D(
            [],
            [],
            marker=marker,
            label=label,
            color=colour,
            markerfacecolor=face or colour,
            markersize=size,
            linewidth=1,
        )

    handles = [handle(look.marker, look.colour, name) for name, look in view.looks.items()]
    handles.append(handle("o", style.INK, "the paper's definition and interval", face="white"))
    if view.rows.paper.notna().any():
        handles.append(handle(style.PAPER_MARKER, style.PAPER_COLOUR, "value in the paper", size=6))
    task, dataset = view.rows.task.iloc[0], view.rows.dataset.iloc[0]
    title = (
        f"Task '{task}' on '{dataset}'. Lines: bootstrap intervals over patients. "
        f"Training cases in all panels but e: {view.shots}."
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title=title, title_fontsize=6)
