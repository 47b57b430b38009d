"""What the figures of clustering share: scans on a plane, coloured by their label, with the numbers beside them."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.metrics.summary import OURS

NUMBERS = {"silhouette": "silhouette", "knn_purity": "purity", "nmi": "NMI"}
COLUMNS = [
    "panel",
    "task",
    "encoder",
    "perplexity",
    "case",
    "label",
    "x",
    "y",
    "metric",
    "estimate",
    "low",
    "high",
    "n",
]


def first(results: Results) -> pd.DataFrame:
    """Return the points of the first task that has some."""
    points = results.points
    return points[points.task == points.task.min()]


def nothing(settings: Figures, what: str) -> tuple[Figure, pd.DataFrame]:
    """Return a figure that says what is missing and how to make it."""
    text = (
        f"{what} needs a task of the kind 'cluster' (adapt/<task>/…/predictions/points.parquet), and there is none\n"
        "in this run. Add one to tasks."
    )
    return style.nothing(settings, text, "snakemake evaluate"), pd.DataFrame(columns=COLUMNS)


def looks(labels: pd.Series) -> dict[str, style.Look]:
    """Return a look of its own for each label."""
    names, colours = sorted(set(labels)), len(style.COLOURS)
    marks = style.MARKERS
    return {n: style.Look(style.COLOURS[i % colours], marks[i // colours % len(marks)]) for i, n in enumerate(names)}


def scatter(axes: Axes, points: pd.DataFrame, shown: dict[str, style.Look], *, names: bool) -> None:
    """Draw points of one encoder and perplexity; ``names`` writes each label at the median of its points."""
    for label, look in shown.items():
        own = points[points.label == label]
        axes.plot(own.x, own.y, look.marker, color=look.colour, markersize=2.2, markeredgewidth=0, alpha=0.8)
        if names and len(own):
            box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.8}
            axes.text(own.x.median(), own.y.median(), label, ha="center", va="center", fontsize=5.5, bbox=box)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.set_xlabel("t-SNE 1")
    axes.set_ylabel("t-SNE 2")


def numbers(results: Results, task: str, encoder: str) -> pd.DataFrame:
    """Return the rows of the measures over all scans."""
    rows = results.summary
    rows = rows[(rows.task == task) & (rows.encoder == encoder) & (rows.group == "all") & (rows.method == OURS)]
    return rows[rows.metric.isin(list(NUMBERS)) & (rows.reference == "")]


def told(rows: pd.DataFrame, *, intervals: bool = False) -> str:
    """Return the measures in words, in one line; with ``intervals`` in lines of their own."""
    values = rows.set_index("metric")
    texts = {name: f"{text} {values.estimate[name]:.2f}" for name, text in NUMBERS.items() if name in values.index}
    if not intervals:
        return ", ".join(texts.values())
    return "\n".join(f"{text} ({values.low[n]:.2f} to {values.high[n]:.2f})" for n, text in texts.items())


def legend(figure: Figure, shown: dict[str, style.Look]) -> None:
    """Write the labels under the figure."""
    handles = [
        Line2D([], [], marker=look.marker, color=look.colour, label=name, markersize=4, linewidth=0)
        for name, look in shown.items()
    ]
    title = "Numbers are of the embeddings themselves: t-SNE keeps neither distances nor densities."
    figure.legend(handles=handles, loc="outside lower center", ncols=7, title=title, title_fontsize=6)
