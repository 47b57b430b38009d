"""Figure 6 of the paper: what the embeddings know. Panel a: anatomical clustering of the leading encoder.

Panels b to e show other kinds of task (semantic search, components, saliency); without one, they say so.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ctfm import published
from ctfm.config import Figures
from ctfm.figures import _planes as shared
from ctfm.figures import _style as style
from ctfm.figures._results import Results

OTHERS = {
    "b": ("Semantic search", "search"),
    "c": ("Distance to the organ's middle", "search"),
    "d": ("Components of the embeddings", "pca"),
    "e": ("Saliency", "saliency"),
}


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the places and the summary of the first task of the kind 'cluster'.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the points and numbers drawn, one row each, with their panel.
    """
    points = shared.first(results)
    if points.empty:
        return shared.nothing(settings, "Figure 6")
    task, names = points.task.iloc[0], sorted(set(points.encoder))
    encoder = next((name for name in names if published.arm(name) == "ctfm"), names[0])
    own = points[(points.encoder == encoder) & (points.perplexity == points.perplexity.max())]
    found, looks = shared.numbers(results, task, encoder), shared.looks(points.label)
    figure = style.blank(settings, 0.6)
    grid = figure.add_gridspec(4, 5)
    axes = figure.add_subplot(grid[:, :3])
    shared.scatter(axes, own, looks, names=True)
    title = f"Anatomical clustering, {encoder}, n = {own.case.nunique()}: {shared.told(found)}"
    style.heading(axes, "a", title)
    for place, (letter, (what, kind)) in enumerate(OTHERS.items()):
        panel = figure.add_subplot(grid[place, 3:])
        style.heading(panel, letter, what)
        style.message(panel, f"No task of the kind '{kind}' in this run.")
    shared.legend(figure, looks)
    return figure, pd.concat([found, own]).assign(panel="a").reindex(columns=shared.COLUMNS)
