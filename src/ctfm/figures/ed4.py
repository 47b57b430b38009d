"""Extended Data Figure 4 of the paper: retrieval of lesions, each cohort by itself.

Upper row (a): the presence of a lesion; lower row (b): its group. Filled: standard definitions; open: as published.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ctfm.config import Figures
from ctfm.figures import _retrieval as shared
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.figures.fig5 import lesion_measures
from ctfm.metrics.summary import LABEL

TITLES = {"lesion_flag": "presence of a lesion", "lesion_group": "group of the lesion"}


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the summary of the first retrieval task with several attributes.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel.
    """
    view = next(iter(shared.views(results, lesions=True)), None)
    if view is None:
        return shared.nothing(settings, "Extended Data Figure 4")
    figure = style.blank(settings, 0.08 + 0.3 * len(view.attributes))
    axes = figure.subplots(len(view.attributes), len(view.cohorts), squeeze=False, sharey=True)
    drawn = []
    for row, attribute in enumerate(view.attributes):
        letter = "abcdefgh"[row]
        for column, cohort in enumerate(view.cohorts):
            panel = axes[row, column]
            name = f"{LABEL}{attribute}, {cohort}"
            rows = shared.draw(panel, view, name, lesion_measures(view, shared.BY_COHORT))
            drawn.append((letter, rows))
            title = f"{cohort}, {shared.patients(rows)}"
            style.heading(panel, letter if column == 0 else "", title)
            if column == 0:
                panel.set_ylabel(f"{TITLES.get(attribute, attribute.replace('_', ' '))}\nprecision, average precision")
    shared.legend(figure, view.looks)
    return figure, shared.joined(drawn)
