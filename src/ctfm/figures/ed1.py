"""Extended Data Figure 1 of the paper: every label of a segmentation task, and where encoders differ.

Panels: (a) Dice of each label, (b) and on: its paired difference to each reference encoder, largest gain first.
A mark is filled where the p value is below 0.05 after Holm's adjustment over all labels.
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
from ctfm.metrics.summary import LABEL

FEW_LABELS = 30


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
        return shared.nothing(settings, "Extended Data Figure 1")
    view = views[0]
    compared = view.references or [""]
    figure = style.blank(settings, 0.12 + 0.36 * (1 + len(compared)))
    axes = figure.subplots(1 + len(compared), 1)
    panels = {"a": _labels(axes[0], view)}
    for letter, place, reference in zip("bcdefgh", axes[1:], compared, strict=False):
        panels[letter] = _differences(place, letter, view, reference)
    shared.legend(figure, view, {f"p ≥ {shared.LEVEL} after Holm": style.Look("white", "o")}, seeds=False)
    return figure, shared.joined(panels)


def _labels(axes: Axes, view: View) -> pd.DataFrame:
    rows = view.pick()
    rows = rows[rows.group.str.startswith(LABEL)]
    _draw(axes, rows, view)
    axes.set_ylabel("Dice")
    style.heading(axes, "a", f"Each label: mean over the patients who have it ({shared.patients(rows)})")
    return rows


def _differences(axes: Axes, letter: str, view: View, reference: str) -> pd.DataFrame:
    rows = view.against(reference)
    rows = rows[rows.group.str.startswith(LABEL) & rows.encoder.isin(set(view.ours) - {reference})]
    if rows.empty:
        shared.no_reference(axes, letter, "Paired difference")
        return rows
    axes.axhline(0, color=style.INK, linewidth=0.6)
    _draw(axes, rows, view, filled=shared.significant(rows))
    axes.set_ylabel(f"Dice less that of '{reference}'")
    lead = rows[rows.encoder == view.lead]
    text = f"{view.lead} is better in {(lead.estimate > 0).sum()} of {len(lead)} labels"
    if lead.p_holm.notna().any():
        sure = lead[shared.significant(lead)]
        text += f"; after Holm better in {(sure.estimate > 0).sum()}, worse in {(sure.estimate < 0).sum()}"
    style.heading(axes, letter, f"Paired difference to '{reference}': {text}")
    return rows


def _draw(axes: Axes, rows: pd.DataFrame, view: View, filled: pd.Series | None = None) -> None:
    """Draw each label, in the order of the leading encoder."""
    lead = rows[rows.encoder == view.lead].sort_values(["estimate", "group"], ascending=[False, True])
    names = list(dict.fromkeys([*lead.group, *sorted(rows.group)]))
    shared.dodged(axes, rows, names, view, width=0.6, filled=filled)
    plain = [name.removeprefix(LABEL).replace("_", " ") for name in names]
    size = 6 if len(names) <= FEW_LABELS else 3.4
    axes.set_xticks(range(len(names)), plain, rotation=90 if len(names) > 8 else 0, fontsize=size)
