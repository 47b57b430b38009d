"""Figure 6b and c: semantic search of an organ, seen on planes and measured by the distance to its centroid.

Panel b: the query and one target scan, with the heat of its similarity and the best match of each encoder; panel c: the
distance over all targets as boxes, with its mean and interval, beside what no look at the scan gives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D

from ctfm import published
from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.imaging import heatmaps
from ctfm.metrics.centroid import CHANCE, DISTANCE, FLOOR, query_of
from ctfm.metrics.localisation import QUANTILES, SD, by_target
from ctfm.metrics.summary import LABEL, OURS, PUBLISHED

ORGAN = "heart"  # that of the paper; without it, all organs together
MOST_ORGANS, MOST_ENCODERS = 2, 3  # in panel b
TITLES = {"b": "Semantic search", "c": "Distance to the organ's centroid"}
COLUMNS = ["panel", "task", "dataset", "encoder", "case_id", "label", "query", "group", "metric", "method"]
COLUMNS += ["estimate", "low", "high", "n", "paper"]
NO_TASK = "No task of the kind 'search' in this run: add one to tasks."


def panel(figure: Figure, spec: SubplotSpec, results: Results, settings: Figures, letter: str) -> pd.DataFrame:
    """Draw panel b or c from the first task that has distances; without one, say which command makes it.

    Args:
        figure: to draw on.
        spec: the panel's place, which is subdivided.
        results: the run's tables.
        settings: not used: width and resolution are the figure's.
        letter: ``b`` or ``c``.

    Returns:
        What is drawn, one row each.
    """
    metrics = results.metrics[results.metrics.metric.isin([DISTANCE, FLOOR, CHANCE])]
    metrics = metrics[metrics.task == metrics[metrics.value.notna()].task.min()]
    metrics = metrics[metrics.dataset == metrics.dataset.min()]  # of several, the first
    drawn = (_planes if letter == "b" else _distances)(figure, spec, results, metrics)
    if drawn.empty:
        axes = figure.add_subplot(spec)
        style.heading(axes, letter, TITLES[letter])
        what = NO_TASK if metrics.empty else "No planes of it: published tables have none, a run makes them."
        style.missing(axes, what, "snakemake evaluate")
    return drawn.assign(panel=letter).reindex(columns=COLUMNS)


def encoders(metrics: pd.DataFrame) -> list[str]:
    """Return the encoders, the paper's own first and the random one last."""
    return sorted(set(metrics.encoder), key=lambda name: (published.arm(name) != "ctfm", name == "random", name))


def _planes(figure: Figure, spec: SubplotSpec, results: Results, metrics: pd.DataFrame) -> pd.DataFrame:
    """Draw a row of planes for each organ: the query, then the same target for each encoder."""
    shown = results.slices[results.slices.task.isin(set(metrics.task)) & results.slices.mark.map(_some)]
    shown = shown[shown.seed == shown.seed.min()]
    organs, names = list(dict.fromkeys(shown.label))[:MOST_ORGANS], encoders(metrics)[:MOST_ENCODERS]
    if not organs:
        return pd.DataFrame()
    grid = spec.subgridspec(len(organs), 1 + len(names), wspace=0.02, hspace=0.02)
    drawn: list[dict[str, Any]] = []
    for row, organ in enumerate(organs):
        own = shown[shown.label == organ]
        asks = own[~own.heat.map(_some)].iloc[0]
        axes = figure.add_subplot(grid[row, 0])
        heatmaps.draw(axes, asks)
        style.heading(axes, "b" if row == 0 else "", f"query: {organ.replace('_', ' ')}")
        for column, name in enumerate(names, start=1):
            axes = figure.add_subplot(grid[row, column])
            target = own[(own.encoder == name) & own.heat.map(_some)]
            if target.empty:
                style.message(axes, f"{name}: not searched")
                continue
            heatmaps.draw(axes, target.iloc[0])
            drawn.append(_match(metrics, name, target.iloc[0], asks.case_id))
            axes.set_title(f"{name}: {drawn[-1]['estimate']:.1f} cm", loc="left")
    return pd.DataFrame(drawn)


def _match(metrics: pd.DataFrame, encoder: str, target: Any, query: str) -> dict[str, Any]:
    """Return the distance of the match that a plane shows."""
    own = metrics[(metrics.metric == DISTANCE) & (metrics.encoder == encoder) & (metrics.seed == target.seed)]
    own = own[(own.case_id == target.case_id) & (own.label == target.label)]
    value = own[own.note.fillna("").map(query_of) == query].value.mean()
    fixed = {"task": target.task, "dataset": target.dataset, "encoder": encoder, "case_id": target.case_id}
    return {**fixed, "label": target.label, "query": query, "metric": DISTANCE, "estimate": value, "n": 1}


def _distances(figure: Figure, spec: SubplotSpec, results: Results, metrics: pd.DataFrame) -> pd.DataFrame:
    """Draw the boxes of one organ and, where there are several, the mean of each group of organs beside them."""
    measured = metrics[metrics.value.notna()]
    if measured.empty:
        return pd.DataFrame()
    first = measured.iloc[0]
    summary = results.summary[(results.summary.task == first.task) & (results.summary.dataset == first.dataset)]
    summary = summary[summary.reference == ""]
    names = encoders(measured)
    looks = style.looks(names, "random" if "random" in names else "")
    groups = sorted(set(measured.group) - {"", "all"})
    grid = spec.subgridspec(1, 2, width_ratios=[1.15, 1]) if measured.label.nunique() > 1 else None
    drawn = [_boxes(figure.add_subplot(grid[0, 0] if grid else spec), measured, summary, looks)]
    if grid:
        drawn.append(_groups(figure.add_subplot(grid[0, 1]), summary, [*groups, "all"], looks))
    return pd.concat(drawn)


def _boxes(axes: Axes, measured: pd.DataFrame, summary: pd.DataFrame, looks: dict[str, style.Look]) -> pd.DataFrame:
    organ = ORGAN if ORGAN in set(measured[measured.metric == DISTANCE].label) else ""
    group = LABEL + organ if organ else "all"
    own = measured[measured.label == organ] if organ else measured
    rows, ticks = summary[summary.group == group], []
    for x, (name, look) in enumerate(looks.items()):
        part = {metric: by_target(rest) for metric, rest in own[own.encoder == name].groupby("metric")}
        values = part.get(DISTANCE, pd.Series(dtype=float))
        spread = rows[(rows.encoder == name) & (rows.metric == SD)].estimate
        ticks.append(f"{name}\nn = {len(values)}" + "".join(f"\nSD of pairs {each:.2f}" for each in spread))
        if values.empty:
            continue
        _box(axes, x, values.to_numpy(), look)
        for one in rows[(rows.encoder == name) & (rows.metric == DISTANCE) & (rows.method == OURS)].itertuples():
            style.interval(axes, x, one.estimate, one.low, one.high, look)
            if np.isfinite(one.paper):
                style.paper_mark(axes, x + 0.3, one.paper)
        for metric, line in ((FLOOR, "solid"), (CHANCE, "dotted")):
            if metric in part:
                axes.hlines(part[metric].mean(), x - 0.42, x + 0.42, color=style.INK, linewidth=0.8, linestyle=line)
    axes.set_xticks(range(len(looks)), ticks)
    axes.set_xlim(-0.6, len(looks) - 0.4)
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # the legend is above the boxes
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("distance to the centroid, cm")
    style.heading(axes, "c", f"Organ centroid distance: {organ or 'all organs'}")
    axes.legend(handles=_handles(bool((rows.metric == FLOOR).any()), bool(rows.paper.notna().any())), loc="upper left")
    kept = (rows.method == OURS) & rows.metric.isin([DISTANCE, FLOOR, CHANCE, *(f"{DISTANCE}_{q}" for q in QUANTILES)])
    return rows[kept | ((rows.method == PUBLISHED) & rows.metric.isin([DISTANCE, SD]))]


def _box(axes: Axes, x: float, values: np.ndarray, look: style.Look) -> None:
    """Draw median, quartiles, whiskers of 1.5 times their distance, and what lies beyond."""
    line = {"color": look.colour, "linewidth": 0.8}
    beyond = {"marker": ".", "markersize": 2, "markeredgecolor": look.colour, "alpha": 0.6}
    parts: dict[str, Any] = dict.fromkeys(("boxprops", "whiskerprops", "capprops", "medianprops"), line)
    axes.boxplot([values], positions=[x], widths=0.45, manage_ticks=False, flierprops=beyond, **parts)


def _groups(axes: Axes, summary: pd.DataFrame, groups: list[str], looks: dict[str, style.Look]) -> pd.DataFrame:
    rows = summary[(summary.metric == DISTANCE) & (summary.method == OURS) & summary.group.isin(groups)]
    for place, (name, look) in enumerate(looks.items()):
        for one in rows[rows.encoder == name].itertuples():
            y = groups.index(one.group) + 0.6 * ((place + 0.5) / len(looks) - 0.5)
            style.interval(axes, one.estimate, y, one.low, one.high, look, across=True)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("mean distance, cm")
    style.heading(axes, "", "by group of organs")
    return rows


def _handles(bounded: bool, paper: bool) -> list[Line2D]:
    handles = [Line2D([], [], marker="o", color=style.INK, markersize=3.6, label="mean, interval over targets")]
    if bounded:
        handles.append(Line2D([], [], color=style.INK, linewidth=0.8, label="nearest patch"))
        handles.append(Line2D([], [], color=style.INK, linewidth=0.8, linestyle="dotted", label="a patch by chance"))
    if paper:
        star = Line2D([], [], marker=style.PAPER_MARKER, color=style.PAPER_COLOUR, linestyle="", markersize=5)
        star.set_label("the paper's mean")
        handles.append(star)
    return handles


def _some(values: Any) -> bool:
    """Return whether a cell holds a list that is not empty."""
    return values is not None and not isinstance(values, float) and len(values) > 0
