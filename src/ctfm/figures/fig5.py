"""Figure 5 of the paper: retrieval of organs and of lesions by frozen features.

Panels: (b) average precision, hit rate and F1 of the organs; (c) precision and average precision of the presence of
lesions; (d) of their group. Filled: standard definitions and cosine; open: definitions and distance of the paper's run.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ctfm.config import Figures
from ctfm.figures import _retrieval as shared
from ctfm.figures import _style as style
from ctfm.figures._results import Results

TITLES = {"average_precision": "average precision", "hit_rate": "hit rate", "f1": "F1"}
FLAG, GROUP = "lesion_flag", "lesion_group"
LESIONS = {FLAG: ("c", "Presence of a lesion"), GROUP: ("d", "Group of the lesion")}


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the summaries of the first task of each sort.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel.
    """
    organs, lesions = (next(iter(shared.views(results, lesions=each)), None) for each in (False, True))
    if organs is None and lesions is None:
        return shared.nothing(settings, "Figure 5")
    figure = style.blank(settings, 0.75)
    grid = figure.add_gridspec(2, 6)
    drawn = []
    for place, (name, title) in enumerate(TITLES.items()):
        axes = figure.add_subplot(grid[0, 2 * place : 2 * place + 2])
        if organs is None:
            drawn.append(("b", shared.missing(axes, "b", f"Organs: {title}", "organmnist3d")))
            continue
        rows = shared.draw(axes, organs, "all", organs.measures([name], organs.depths, "_euclidean"))
        drawn.append(("b", rows))
        style.heading(axes, "b" if place == 0 else "", f"Organs: {title}, {shared.patients(rows)}")
        axes.set_xlabel(f"first k scans found in '{organs.dataset}'" if place == 1 else "first k scans found")
        axes.set_ylabel(f"{title} (0 to 1)")
    for place, (attribute, (letter, title)) in enumerate(LESIONS.items()):
        axes = figure.add_subplot(grid[1, 3 * place : 3 * place + 3])
        if lesions is None or attribute not in lesions.attributes:
            drawn.append((letter, shared.missing(axes, letter, title, "mir3d")))
            continue
        rows = shared.draw(axes, lesions, attribute, lesion_measures(lesions))
        drawn.append((letter, rows))
        style.heading(axes, letter, f"{title}, {shared.patients(rows)}")
        axes.set_xlabel(f"first k scans found in '{lesions.dataset}'")
        axes.set_ylabel("precision, average precision" if place == 0 else "")
    shared.legend(figure, {**(lesions.looks if lesions else {}), **(organs.looks if organs else {})})
    return figure, shared.joined(drawn)


def lesion_measures(view: shared.View, end: str = "") -> list[shared.Measure]:
    """Return precision at each depth and average precision at the largest, as the paper has it."""
    return [
        *view.measures(["precision"], view.depths, end=end),
        *view.measures(["average_precision"], view.depths[-1:], end=end),
    ]
