"""Extended Data Figure 8 of the paper: what intra-sample SimCLR compares, and what that does to the embeddings.

Panels: pairs of views in a step of two scans with three crops each, as they enter the loss when all crops are one batch
(a) and when each scan is a batch of its own (b), a drawing of the definition; (c) distance of the two views of a crop
and (d) evenness of different crops over the epochs of the pre-training runs at hand (alignment and uniformity of Wang
and Isola, arXiv:2005.10242). Every run is one training: there is no interval.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ctfm import files
from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures._results import Results

SCANS, CROPS, VIEWS = 2, 3, 2
NOT_COMPARED, ITSELF, NEGATIVE, POSITIVE = range(4)
PAIRS = {
    POSITIVE: ("drawn together: two views of a crop", style.COLOURS[2]),
    NEGATIVE: ("pushed apart: views of other crops", style.COLOURS[5]),
    ITSELF: ("a view and itself: left out", style.GREY),
    NOT_COMPARED: ("never compared", "#FFFFFF"),
}
MEASURES = {
    "c": ("alignment", "squared distance of a crop's views"),
    "d": ("uniformity", "log potential of different crops"),
}
COLUMNS = ["panel", "encoder", "objective", "epoch", "metric", "value"]


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the epochs of the pre-training runs.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel.
    """
    figure = style.blank(settings, 0.37)
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1.1, 1.1])
    _pairs(axes[0], "a", "One batch of all scans", within=False)
    _pairs(axes[1], "b", "Intra-sample", within=True)
    told = {name: _objective(results, name) for name in results.histories}
    looks = style.looks(told)
    parts = [_curves(panel, letter, results, told, looks) for panel, letter in zip(axes[2:], MEASURES, strict=True)]
    handles: list[Artist] = [
        Patch(facecolor=colour, edgecolor=style.INK, linewidth=0.4, label=text) for text, colour in PAIRS.values()
    ]
    handles += [style.handle(f"{name} ({how})" if how else name, looks[name]) for name, how in told.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure, pd.concat(parts).reindex(columns=COLUMNS)


def pairs(*, within: bool) -> np.ndarray:
    """Return what becomes of each pair of views: (views, views), ordered by scan, then crop, then view."""
    view = np.arange(SCANS * CROPS * VIEWS)
    crop, scan = view // VIEWS, view // (VIEWS * CROPS)
    found = np.full((len(view), len(view)), NEGATIVE)
    found[crop[:, None] == crop] = POSITIVE
    found[view[:, None] == view] = ITSELF
    if within:
        found[scan[:, None] != scan] = NOT_COMPARED
    return found


def _pairs(axes: Axes, letter: str, title: str, *, within: bool) -> None:
    colours = ListedColormap([PAIRS[code][1] for code in sorted(PAIRS)])
    edges = np.arange(SCANS * CROPS * VIEWS + 1)
    axes.pcolormesh(
        edges, edges, pairs(within=within), cmap=colours, vmin=-0.5, vmax=3.5, edgecolors="white", linewidth=0.4
    )
    for scan in range(1, SCANS):
        axes.axhline(scan * CROPS * VIEWS, color=style.INK, linewidth=0.8)
        axes.axvline(scan * CROPS * VIEWS, color=style.INK, linewidth=0.8)
    middles = (np.arange(SCANS) + 0.5) * CROPS * VIEWS
    names = [f"scan {scan + 1}" for scan in range(SCANS)]
    axes.set_xticks(middles, names)
    axes.set_yticks(middles, names, rotation=90, va="center")
    axes.set_xlabel(f"views: {CROPS} crops × {VIEWS} of each scan")
    axes.tick_params(length=0)
    axes.set_ylim(edges[-1], 0)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    style.heading(axes, letter, title)


def _objective(results: Results, encoder: str) -> str:
    """Return how a run was trained, as far as its record is there."""
    path = results.root / "encoders" / encoder / "run.json"
    entry = files.read_json(path).get("spec", {}).get("pretrain", {}) if path.is_file() else {}
    return ", ".join(word for word in (entry.get("method"), entry.get("method_options", {}).get("sampling")) if word)


def _curves(
    axes: Axes, letter: str, results: Results, told: dict[str, str], looks: dict[str, style.Look]
) -> pd.DataFrame:
    metric, name = MEASURES[letter]
    drawn = [
        table[["epoch", metric]].set_axis(["epoch", "value"], axis=1).assign(encoder=encoder, objective=told[encoder])
        for encoder, table in results.histories.items()
        if metric in table
    ]
    style.heading(axes, letter, f"{metric.capitalize()}, lower is better")
    if not drawn:
        style.missing(axes, f"No pre-training run with\n'{metric}' in encoders/*/metrics.csv.", "snakemake pretrain")
        return pd.DataFrame(columns=COLUMNS)
    for rows in drawn:
        look = looks[rows.encoder.iloc[0]]
        mark = look.marker if len(rows) < 40 else None
        axes.plot(rows.epoch + 1, rows.value, color=look.colour, marker=mark, markersize=2.6)
    axes.set_xlabel(f"epochs of pre-training\n(n = {len(drawn)} runs, one seed each)")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel(name)
    return pd.concat(drawn).assign(panel=letter, metric=metric)
