"""Extended Data Figure 9 of the paper: the workflow of the semantic-search page, as a picture of the page.

The picture is made once (docs/screenshot.py), on phantoms and with a random encoder, and ships with the checkout; what
is drawn of a run is which of its encoders the page can search with.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from ctfm import resources
from ctfm.config import Figures
from ctfm.errors import UserError
from ctfm.figures import _style as style
from ctfm.figures._results import Results

STEPS = {
    1: "Choose the source scan",
    2: "Go to the slice of interest",
    3: "Choose the target scans",
    4: "Click a point, search:\nheat map and best matches",
}
COLUMNS = ["panel", "step", "what", "encoder"]


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure for a run that has measured encoders.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and its steps, once for each encoder of the run.
    """
    encoders = sorted(set(results.metrics.encoder) | set(results.summary.encoder) - {""})
    if not encoders:
        figure = style.blank(settings, 0.35)
        style.message(
            figure.subplots(),
            "Extended Data Figure 9 needs an encoder to search with, and none was measured in this run.\n"
            "Make some with 'snakemake evaluate'; 'ctfm app' opens the page with or without them.",
        )
        return figure, pd.DataFrame(columns=COLUMNS)
    figure = style.blank(settings, 0.82)
    page, steps = figure.subplots(2, 1, height_ratios=[10, 1])
    _page(page)
    style.heading(page, "a", "Semantic search (ctfm app): phantoms, random encoder")
    _steps(steps, encoders)
    rows = [("a", step, what.replace("\n", " "), name) for name in encoders for step, what in STEPS.items()]
    return figure, pd.DataFrame(rows, columns=COLUMNS)


def _page(axes: Axes) -> None:
    try:
        picture = imread(resources.path("images", "app.png"))
    except UserError as error:
        style.message(axes, f"{error}\n'python docs/screenshot.py' makes it anew.")
        return
    axes.imshow(picture, interpolation="lanczos")
    axes.set_axis_off()


def _steps(axes: Axes, encoders: list[str]) -> None:
    axes.set_axis_off()
    for place, (step, what) in enumerate(STEPS.items()):
        x = 0.01 + place * 0.25
        axes.text(x, 0.95, f"$\\bf{{{step}}}$", va="top", fontsize=9, color=style.COLOURS[0], transform=axes.transAxes)
        axes.text(x + 0.03, 0.93, what, va="top", color=style.INK, transform=axes.transAxes)
    told = f"With an encoder of this run: ctfm app --encoder NAME, one of {', '.join(encoders)}"
    axes.text(0.01, 0.0, told, va="bottom", color=style.GREY, transform=axes.transAxes, wrap=True)
