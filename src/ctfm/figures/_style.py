"""One look for all figures: colours safe for the colour-blind, markers beside colours, files that repeat.

The same tables give the same bytes: no dates in the files, a fixed salt for the ids in the SVG, and the font
that comes with matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from ctfm.config import Figures
from ctfm.files import atomic

MM_PER_INCH = 25.4
# Okabe and Ito's palette; grey is kept for the reference encoder.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = ("o", "s", "^", "v", "P", "X")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
GREY, INK, PALE = "#7F7F7F", "#222222", "#DDDDDD"
PAPER_COLOUR, PAPER_MARKER = "#000000", "*"
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 6.5,
    "axes.titlesize": 7,
    "axes.labelsize": 6.5,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "svg.hashsalt": "ctfm",
    "svg.fonttype": "none",
}


class Look(NamedTuple):
    """How one encoder is drawn, in every panel."""

    colour: str
    marker: str


def context() -> AbstractContextManager:
    """Return the context that figures are drawn and saved in."""
    return mpl.rc_context(RC)


def looks(encoders: Iterable[str], reference: str = "") -> dict[str, Look]:
    """Return the look of each encoder, in the order given; the reference is grey."""
    free = zip(COLOURS * 9, MARKERS * 9, strict=True)
    return {name: Look(GREY, "D") if name == reference else Look(*next(free)) for name in encoders}


def blank(settings: Figures, height: float) -> Figure:
    """Return an empty figure of the set width, ``height`` times as high."""
    width = settings.width_mm / MM_PER_INCH
    engine = ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.05)
    return Figure(figsize=(width, width * height), dpi=settings.dpi, layout=engine, facecolor="white")


def heading(axes: Axes, letter: str, title: str) -> None:
    """Write the panel's letter and title, flush left."""
    axes.set_title(f"$\\bf{{{letter}}}$   {title}", loc="left", color=INK)


def message(axes: Axes, text: str) -> None:
    """Say in an otherwise empty panel why nothing is drawn, and which command would change that."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=GREY, linespacing=1.6)


def missing(axes: Axes, what: str, command: str) -> None:
    """Say in an otherwise empty panel what is missing, and the command that makes it."""
    message(axes, f"{what}\nThen run:  {command}")


def nothing(settings: Figures, what: str, command: str) -> Figure:
    """Return a figure that says what it lacks, and the command that makes it."""
    figure = blank(settings, 0.35)
    missing(figure.subplots(), what, command)
    return figure


def handle(text: str, look: Look) -> Line2D:
    """Return what a legend shows of an encoder."""
    return Line2D([], [], marker=look.marker, color=look.colour, label=text, markersize=4, linewidth=0.8)


def interval(
    axes: Axes, x: float, y: float, low: float, high: float, look: Look, *, across: bool = False, filled: bool = True
) -> None:
    """Draw an estimate at (x, y) with its interval, up and down or (``across``) left and right."""
    ends = ([low, high], [y, y]) if across else ([x, x], [low, high])
    axes.plot(*ends, color=look.colour, linewidth=1.1, solid_capstyle="butt", zorder=2)
    inside, edge = (look.colour, "white") if filled else ("white", look.colour)
    style: dict[str, Any] = {"markersize": 3.6, "markerfacecolor": inside, "markeredgecolor": edge}
    axes.plot(x, y, look.marker, markeredgewidth=0.4 if filled else 0.8, zorder=3, **style)


def seeds(axes: Axes, x: float, estimates: Iterable[float], limits: tuple[float, float], look: Look) -> None:
    """Draw the estimates of single training seeds as short bars at ``x``, and their interval as a thin line."""
    axes.plot([x, x], limits, color=look.colour, linewidth=0.5, zorder=1.5)
    for value in estimates:
        axes.plot(x, value, "_", color=look.colour, markersize=4.5, markeredgewidth=0.6, zorder=2)


def paper_mark(axes: Axes, x: float, y: float, *, filled: bool = True) -> None:
    """Mark a published value; open: it was measured on other data."""
    style: dict[str, Any] = {
        "markersize": 4.5,
        "markerfacecolor": PAPER_COLOUR if filled else "white",
        "color": PAPER_COLOUR,
    }
    axes.plot(x, y, PAPER_MARKER, markeredgewidth=0 if filled else 0.5, zorder=4, **style)


def save(figure: Figure, rows: pd.DataFrame, stem: Path, dpi: int) -> list[Path]:
    """Write ``<stem>.png``, ``.svg`` and ``.csv`` (the numbers that are drawn), atomically and byte-stable."""
    _settle(figure)
    files = [stem.with_suffix(suffix) for suffix in (".png", ".svg", ".csv")]
    with atomic(files[0]) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
    with atomic(files[1]) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    with atomic(files[2]) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return files


def _settle(figure: Figure) -> None:
    """Fix the layout at rounded places: the solver's last bits differ from run to run."""
    for _ in range(2):  # with other widths an axis may have other marks, and they need other room
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(Bbox.from_bounds(*(round(v, 6) for v in axes.get_position(original=True).bounds)))
