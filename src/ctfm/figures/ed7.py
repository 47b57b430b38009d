"""Extended Data Figure 7 of the paper: stability of patch embeddings between test and retest.

Panels: (a) cosine similarity and (b) mean squared error of the patches of each pair, for the leading encoder: after
registration, as the scanner placed both scans, and with another patient; outliers are numbered, and their likely causes
stand below. (c) Share of patches that are more like the retest than like another patient, for every encoder; cosines of
two encoders can't be compared.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctfm.config import Figures
from ctfm.figures import _maps as maps
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.metrics.summary import OURS

COMPARISONS = {
    "registered": ("registered", style.Look(style.COLOURS[0], "o")),
    "unregistered": ("as placed by the scanner", style.Look(style.COLOURS[1], "s")),
    "random": ("another patient", style.Look(style.GREY, "D")),
}
MEASURES = {"cosine": "cosine similarity", "mse": "mean squared error"}
SHARES = {"low": 0.05, "first": 0.25, "median": 0.5, "third": 0.75, "high": 0.95}
COLUMNS = ["panel", "task", "encoder", "case", "comparison", "metric", *SHARES, "estimate", "n", "outlier", "cause"]
WIDEST_NAMES = 12  # pairs, beyond which their names are written upright


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the patches of the first task of the kind 'stability'.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel.
    """
    patches = results.patch_pairs
    patches = patches[(patches.task == patches.task.min()) & patches.counted.astype(bool)]
    if patches.empty:
        return _nothing(settings)
    task, encoder = patches.task.iloc[0], maps.leading(patches)[0]
    metrics = results.metrics[results.metrics.task == task]
    own = _outliers(metrics[metrics.encoder == encoder])
    figure = style.blank(settings, 0.75)
    grid = figure.add_gridspec(3, 3, height_ratios=(1.2, 1.2, 1))
    axes = [figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, :])]
    left, text = figure.add_subplot(grid[2, 0]), figure.add_subplot(grid[2, 1:])
    drawn = [
        _pairs(axis, letter, measure, patches[patches.encoder == encoder], own)
        for axis, letter, measure in zip(axes, "ab", MEASURES, strict=True)
    ]
    for axis in axes:
        _names(axis, own, written=axis is axes[-1])
    drawn.append(_encoders(left, results.summary[results.summary.task == task]).assign(panel="c"))
    _causes(text, own)
    handles = [Line2D([], [], marker=k.marker, color=k.colour, label=label) for label, k in COMPARISONS.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    rows = pd.concat([part for part in drawn if len(part)], ignore_index=True)
    return figure, rows.assign(task=task).reindex(columns=COLUMNS)


def _nothing(settings: Figures) -> tuple[Figure, pd.DataFrame]:
    figure = style.blank(settings, 0.35)
    text = (
        "Extended Data Figure 7 needs a task of the kind 'stability' (adapt/<task>/…/predictions/*.patches.parquet),\n"
        "and there is none in this run. Add one to tasks, then make it with 'snakemake evaluate'."
    )
    style.message(figure.subplots(), text)
    return figure, pd.DataFrame(columns=COLUMNS)


def _outliers(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return ``outlier`` and ``cause`` of each pair, the most alike first; a failed registration has a cause too."""
    wide = metrics.pivot_table(index="case_id", columns="metric", values="value", dropna=False)
    notes = metrics.pivot(index="case_id", columns="metric", values="note").fillna("")
    failed = "no outlier, but registration failed (" + notes.registration_failed + ")"
    cause = notes.outlier.where(notes.outlier != "", failed.where(wide.registration_failed == 1, ""))
    found = wide.reindex(columns=["cosine_registered", "outlier"]).assign(cause=cause)
    return found.sort_values("cosine_registered", ascending=False, kind="stable", na_position="last")


def _pairs(axes: Axes, letter: str, measure: str, patches: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Draw for each pair and comparison the 5, 25, 50, 75 and 95 % points over patches."""
    rows = []
    for place, (name, (_, look)) in enumerate(COMPARISONS.items()):
        values = patches[patches.comparison == name].groupby("case")[measure]
        found = values.quantile(list(SHARES.values())).unstack().set_axis(list(SHARES), axis=1)
        found = found.assign(n=values.size()).reindex(own.index)
        x = [number + 0.24 * (place - 1) for number in range(len(found))]
        axes.vlines(x, found.low, found.high, color=look.colour, linewidth=0.6)
        axes.vlines(x, found["first"], found.third, color=look.colour, linewidth=2.0)
        axes.plot(x, found["median"], look.marker, color=look.colour, markersize=2.6, markeredgewidth=0)
        rows.append(found.assign(comparison=name))
    joined = pd.concat(rows).join(own[["outlier", "cause"]]).rename_axis("case").reset_index()
    if measure == "mse" and (joined.low.min() > 0):
        axes.set_yscale("log")
    for number, place in enumerate((i for i, cause in enumerate(own.cause) if cause), start=1):
        axes.annotate(f"{number}", (place, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom")
        axes.axvspan(place - 0.45, place + 0.45, color=style.PALE, alpha=0.6, zorder=0)
    axes.set_ylabel(MEASURES[measure])
    axes.grid(axis="x", visible=False)
    counted = int(joined[joined.comparison == "registered"].n.sum())
    title = f"{MEASURES[measure].capitalize()} of {counted} patches of {len(own)} pairs, {patches.encoder.iloc[0]}"
    style.heading(axes, letter, title)
    return joined.assign(panel=letter, metric=measure, encoder=patches.encoder.iloc[0])


def _names(axes: Axes, own: pd.DataFrame, *, written: bool) -> None:
    many = len(own) > WIDEST_NAMES
    names = list(own.index) if written else [""] * len(own)
    axes.set_xticks(range(len(own)), names, rotation=90 if many else 0, fontsize=4.5 if many else 6)
    axes.set_xlim(-0.6, len(own) - 0.4)
    if written:
        axes.set_xlabel("pairs, the most alike first; bars: 25 to 75 % of patches, lines: 5 to 95 %")


def _encoders(axes: Axes, summary: pd.DataFrame) -> pd.DataFrame:
    """Draw the share of patches that are more like the retest, with its interval over patients."""
    rows = summary[(summary.metric == "separation") & (summary.group == "all") & (summary.method == OURS)]
    rows = rows[rows.reference == ""].sort_values("encoder")
    for y, (row, look) in enumerate(zip(rows.itertuples(), style.looks(rows.encoder, "random").values(), strict=True)):
        style.interval(axes, row.estimate, y, row.low, row.high, look, across=True)
    axes.set_yticks(range(len(rows)), list(rows.encoder))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share of patches, interval over patients")
    style.heading(axes, "c", "Nearer to the retest than to another patient")
    return rows[["encoder", "metric", "estimate", "low", "high", "n"]]


def _causes(axes: Axes, own: pd.DataFrame) -> None:
    """Write the outliers with their likely causes, numbered as above."""
    axes.set_axis_off()
    told = own[own.cause != ""]
    lines = [f"{number}  {case}: {cause}" for number, (case, cause) in enumerate(told.cause.items(), start=1)]
    text = "\n".join(["Outliers and their likely causes", *lines] if lines else ["No pair is an outlier."])
    axes.text(0, 1, text, transform=axes.transAxes, ha="left", va="top", fontsize=5.5, linespacing=1.5, wrap=True)
