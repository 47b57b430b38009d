"""Supplementary Figure S2 of the paper: how the corpus was selected, step by step; and S5, of which collections it is.

Panels, one pair for each corpus: the series, studies and patients that each step leaves and how many series it drops,
on through the preparation where that has run; and the largest collections beside the paper's counts. They are counts
of all that there is: there is no interval. The paper's totals stand below the last step of the corpus that is its own.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ctfm import published
from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures._results import Results

COUNTS = ("series", "studies", "patients")
LARGEST = 20  # collections drawn; the table has all
COLUMNS = ["panel", "corpus", "step", "collection_id", *COUNTS, "dropped", "paper"]


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the funnels and the collections of the corpora.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel.
    """
    funnel = results.funnel
    names = list(dict.fromkeys(funnel.corpus))
    if not names:
        text = (
            "Figure S2 needs the funnel of a selection (select/<corpus>/funnel.parquet), and there is none in this run."
        )
        return style.nothing(settings, text, "snakemake select"), pd.DataFrame(columns=COLUMNS)
    steps = funnel.groupby("corpus").size().max()
    figure = style.blank(settings, len(names) * (0.14 + 0.034 * steps))
    axes = figure.subplots(len(names), 2, squeeze=False, width_ratios=[1.5, 1])
    drawn = []
    for row, name in enumerate(names):
        letters = style.LETTERS[2 * row : 2 * row + 2]
        drawn.append(_steps(axes[row][0], letters[0], funnel[funnel.corpus == name]))
        drawn.append(_collections(axes[row][1], letters[1], results.collections.query("corpus == @name")))
    return figure, pd.concat([rows for rows in drawn if len(rows)]).reindex(columns=COLUMNS)


def _steps(axes: Axes, letter: str, funnel: pd.DataFrame) -> pd.DataFrame:
    """Draw a box for each step, from top to bottom, and beside each arrow what it drops."""
    corpus = funnel.corpus.iloc[0]
    rows = funnel.assign(dropped=-funnel.series.diff().fillna(0).astype(int), panel=letter)
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": style.INK, "linewidth": 0.6}
    arrow = {"arrowstyle": "-|>", "linewidth": 0.6, "color": style.INK, "shrinkA": 4, "shrinkB": 5}
    for y, step in enumerate(rows.itertuples()):
        counts = ", ".join(f"{getattr(step, name):,} {name}" for name in COUNTS)
        axes.text(0.0, y, f"{step.step}:  {counts}", va="center", ha="center", bbox=box, fontsize=5.5, zorder=3)
        if y:
            axes.annotate("", (0, y), (0, y - 1), arrowprops=arrow)
            if step.dropped:
                axes.text(
                    0.04, y - 0.5, f"− {step.dropped:,} series", va="center", color=style.COLOURS[4], fontsize=5.5
                )
    paper = _paper(corpus)
    if paper:
        text = "the paper: " + ", ".join(f"{value:,.0f} {name}" for name, value in paper.items())
        axes.text(0, len(rows) - 0.2, f"$\\bigstar$ {text}", va="center", ha="center", fontsize=5.5)
    axes.set_ylim(len(rows) - 0.1 + bool(paper) * 0.3, -0.6)
    axes.set_xlim(-1, 1)
    axes.set_axis_off()
    style.heading(axes, letter, f"Corpus '{corpus}': {rows.series.iloc[-1]:,} of {rows.series.iloc[0]:,} series")
    totals = pd.DataFrame([{"panel": letter, "corpus": corpus, "step": "the paper", **paper}]) if paper else None
    return pd.concat([rows, totals])


def _paper(corpus: str) -> dict[str, float]:
    """Return the paper's counts of a corpus of this name."""
    table = published.table()
    table = table[(table.task == "corpus") & (table.dataset == corpus) & table.metric.isin(COUNTS)]
    return dict(zip(table.metric, table.value, strict=True))


def _collections(axes: Axes, letter: str, collections: pd.DataFrame) -> pd.DataFrame:
    """Draw the series of the largest collections, and the paper's as stars."""
    rows = collections.sort_values(["series", "collection_id"], ascending=[False, True]).assign(panel=letter)
    rows = rows.rename(columns={"paper_series": "paper"})
    style.heading(axes, letter, f"Collections, n = {len(rows)}")
    if rows.empty:
        style.missing(axes, "No table of collections.", "snakemake select")
        return rows
    shown = rows.head(LARGEST)
    for y, row in enumerate(shown.itertuples()):
        axes.barh(y, row.series, height=0.6, color=style.COLOURS[5])
        if pd.notna(row.paper):
            style.paper_mark(axes, row.paper, y)
    axes.set_yticks(range(len(shown)), list(shown.collection_id), fontsize=5)
    axes.set_ylim(max(len(shown), 8) - 0.4, -0.6)
    if rows.series.max() > 100 * max(1, shown.series.min()):
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", visible=False)
    stars = "; stars: the paper's" if shown.paper.notna().any() else ""
    axes.set_xlabel(f"CT series{stars}")
    return rows
