"""Extended Data Figure 5 of the paper: anatomical clustering of every encoder's embeddings, at several perplexities.

A column for each encoder, a row for each perplexity of t-SNE; the numbers of the embeddings stand above, with their
intervals over patients.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ctfm.config import Figures
from ctfm.figures import _planes as shared
from ctfm.figures import _style as style
from ctfm.figures._results import Results

WIDEST = 0.45  # of the figure's width: the height of a plane


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
        return shared.nothing(settings, "Extended Data Figure 5")
    task, encoders = points.task.iloc[0], sorted(set(points.encoder))
    perplexities, looks = sorted(set(points.perplexity)), shared.looks(points.label)
    figure = style.blank(settings, 0.1 + len(perplexities) * min(1 / len(encoders), WIDEST))
    axes = figure.subplots(len(perplexities), len(encoders), squeeze=False)
    drawn = []
    for column, encoder in enumerate(encoders):
        found, panel = shared.numbers(results, task, encoder), "abcdefghij"[column % 10]
        drawn.append(found.assign(panel=panel))
        for row, perplexity in enumerate(perplexities):
            own = points[(points.encoder == encoder) & (points.perplexity == perplexity)]
            shared.scatter(axes[row, column], own, looks, names=False)
            title = f"{encoder}, perplexity {perplexity:g}, n = {own.case.nunique()}"
            if row == 0:
                style.heading(axes[row, column], panel, f"{title}\n{shared.told(found, intervals=True)}")
            else:
                style.heading(axes[row, column], "", title)
            drawn.append(own.assign(panel=panel))
    shared.legend(figure, looks)
    return figure, pd.concat([rows for rows in drawn if len(rows)]).reindex(columns=shared.COLUMNS)
