"""Extended Data Figure 2 of the paper: few-shot segmentation by group of labels.

Upper row: macro Dice of each group over the number of training cases. Lower row: the paired difference to the
first reference encoder, with intervals over patients and over training seeds; filled where the p value is below
0.05 after Holm's adjustment (over groups, encoders and numbers of training cases) and the seeds agree.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctfm.config import Figures
from ctfm.figures import _segmentation as shared
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.figures._segmentation import View

OPEN = f"p ≥ {shared.LEVEL} after Holm, or interval over seeds around zero"
ACROSS = 5  # groups side by side


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the summary of the task with the most labels.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel.
    """
    views = shared.views(results)
    if not views:
        return shared.nothing(settings, "Extended Data Figure 2")
    view = views[0]
    groups = view.groups()
    bands, across = -(-len(groups) // ACROSS), min(ACROSS, len(groups))
    figure = style.blank(settings, 0.08 + 0.46 * bands)
    axes = figure.subplots(2 * bands, across, squeeze=False, sharex=True, sharey="row")
    drawn = []
    for place, group in enumerate(groups):
        band, column = 2 * (place // ACROSS), place % ACROSS
        drawn.append(_estimates(axes[band, column], view, group, first=column == 0))
        drawn.append(_differences(axes[band + 1, column], view, group, first=column == 0))
    for place in range(len(groups), bands * across):
        for row in (0, 1):
            axes[2 * (place // ACROSS) + row, place % ACROSS].set_axis_off()
    shared.legend(figure, view, {OPEN: style.Look("white", "o")})
    return figure, shared.joined({"a": pd.concat(drawn[::2]), "b": pd.concat(drawn[1::2])})


def _estimates(axes: Axes, view: View, group: str, *, first: bool) -> pd.DataFrame:
    rows = view.pick(shots="*")
    rows = rows[rows.group == group]
    shared.curves(axes, rows, view)
    axes.set_xlabel("")
    axes.tick_params(labelbottom=True)
    axes.set_title(f"{group}, {shared.patients(rows)}", loc="left", color=style.INK)
    if first:
        axes.set_ylabel("macro Dice")
    return rows


def _differences(axes: Axes, view: View, group: str, *, first: bool) -> pd.DataFrame:
    reference = next(iter(view.references), "")
    every = view.against(reference, shots="*")
    rows = every[(every.group == group) & every.encoder.isin(view.ours)]
    if rows.empty:
        style.missing(axes, "No reference encoder:\nsee evaluate.references.", "snakemake evaluate")
        return rows
    axes.axhline(0, color=style.INK, linewidth=0.6)
    shared.curves(axes, rows, view, filled=shared.sure(rows))
    if first:
        axes.set_ylabel(f"less that of '{reference}'")
    return rows
