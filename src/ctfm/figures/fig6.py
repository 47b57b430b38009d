"""Figure 6 of the paper: what the embeddings know.

Panels: (a) anatomical clustering of the leading encoder; (b) semantic search of an organ, on planes; (c) the distance
of its matches to the organ's centroid; (d) components of the embeddings; (e) saliency. A panel whose kind of task is
not in the run says so.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from ctfm.config import Figures
from ctfm.figures import _maps as maps
from ctfm.figures import _pca, _saliency, _search
from ctfm.figures import _planes as shared
from ctfm.figures import _style as style
from ctfm.figures._results import Results


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the tables, each panel from the first task of its kind.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the points and numbers drawn, one row each, with their panel.
    """
    figure = style.blank(settings, 1.15)
    grid = figure.add_gridspec(3, 2, height_ratios=[1.2, 1, 1])
    places = {"a": grid[0, 0], "b": grid[0, 1], "c": grid[1, 0], "d": grid[1, 1], "e": grid[2, :]}
    drawn = [PANELS[letter](figure, place, results, settings, letter) for letter, place in places.items()]
    rows = pd.concat([part for part in drawn if len(part)] or drawn[:1], ignore_index=True)
    return (figure, rows) if len(rows) else shared.nothing(settings, "Figure 6")


def _clusters(figure: Figure, spec: SubplotSpec, results: Results, settings: Figures, letter: str) -> pd.DataFrame:
    """Draw the places of the scans of the first task of the kind 'cluster'."""
    axes, points = figure.add_subplot(spec), shared.first(results)
    if points.empty:
        style.heading(axes, letter, "Anatomical clustering")
        style.missing(axes, "No task of the kind 'cluster' in this run: add one to tasks.", "snakemake evaluate")
        return pd.DataFrame(columns=shared.COLUMNS)
    task, encoder = points.task.iloc[0], maps.leading(points)[0]
    own = points[(points.encoder == encoder) & (points.perplexity == points.perplexity.max())]
    found, looks = shared.numbers(results, task, encoder), shared.looks(points.label)
    shared.scatter(axes, own, looks, names=True)
    style.heading(axes, letter, f"Anatomical clustering, {encoder}, n = {own.case.nunique()}:\n{shared.told(found)}")
    shared.legend(figure, looks)
    return pd.concat([found, own]).assign(panel=letter).reindex(columns=shared.COLUMNS)


PANELS = {"a": _clusters, "b": _search.panel, "c": _search.panel, "d": _pca.panel, "e": _saliency.panel}
