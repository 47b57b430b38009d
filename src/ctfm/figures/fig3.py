"""Figure 3 of the paper: segmentation of tumours, from tables.

Panels as in the paper: (a) Dice and average surface distance of the tumour, as bars with intervals over patients and
the published values as stars where the data are the same; (b) axial, (c) coronal, (d) sagittal plane through the tumour
of one test case, with the contours of the truth and of each encoder. The distance is the published one, from prediction
to truth; tumours that were missed have none, so their number stands above the bar. The case is that of median tumour
volume, which the truth alone decides.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures import _tumours as shared
from ctfm.figures._results import Results
from ctfm.figures._tumours import Tumours
from ctfm.imaging.pictures import window

LAYOUT = "aaaxxx\nbbccdd"
METRICS = {"dice": "Dice of the tumour", "asd": "average surface distance, mm\n(prediction to truth)"}
PLANES = {"b": "axial", "c": "coronal", "d": "sagittal"}
WINDOW_HU = (-110.0, 250.0)
TRUTH_COLOUR = "#FFFFFF"
KEPT = ["task", "dataset", "encoder", "shots", "metric", "method", "estimate", "low", "high", "n", "paper", "note"]
COLUMNS = ["panel", *KEPT, "case_id", "plane"]


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the tables.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel: of b, c and d the Dice within the plane.
    """
    found = shared.read(results)
    if found is None:
        return shared.nothing(settings, "Figure 3")
    figure = style.blank(settings, 0.78)
    axes = figure.subplot_mosaic(LAYOUT, height_ratios=[1, 1.15])
    parts = [_bars(axes[place], found, metric) for place, metric in zip("ax", METRICS, strict=True)]
    missed = pd.concat([found.of(task, "missed") for task in found.tasks])
    _tell_missed(axes["x"], found, missed)
    shown = _case(results, found)
    parts += [_plane(axes[letter], letter, shown, found) for letter in PLANES]
    style.heading(axes["a"], "a", "Tumours: mean over patients, interval over patients")
    _legend(figure, found, shown)
    rows = pd.concat([*(rows.assign(panel="a") for rows in (*parts[:2], missed)), *parts[2:]])
    return figure, rows.reindex(columns=COLUMNS)


def _bars(axes: Axes, found: Tumours, metric: str) -> pd.DataFrame:
    """Draw one bar for each task and encoder."""
    width = 0.8 / len(found.looks)
    drawn = []
    for place, task in enumerate(found.tasks):
        rows = found.of(task, metric)
        for row in rows.itertuples():
            x, look = _x(found, place, row.encoder), found.looks[row.encoder]
            axes.bar(x, row.estimate, width * 0.92, color=look.colour, alpha=0.85, zorder=1.5)
            axes.plot([x, x], [row.low, row.high], color=style.INK, linewidth=0.8, zorder=2)
            if np.isfinite(row.paper):
                style.paper_mark(axes, x + width * 0.3, row.paper)
        drawn.append(rows)
    axes.set_xticks(range(len(found.tasks)), [_named(found, task) for task in found.tasks])
    axes.set_xlim(-0.6, len(found.tasks) - 0.4)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(bottom=0, top=None if axes.get_ylim()[1] > 0.1 else 1)  # where all are missed no bar has a height
    axes.set_ylabel(METRICS[metric])
    return pd.concat(drawn)


def _x(found: Tumours, place: int, encoder: str) -> float:
    return place + 0.8 * ((list(found.looks).index(encoder) + 0.5) / len(found.looks) - 0.5)


def _named(found: Tumours, task: str) -> str:
    n = found.of(task, "dice").n.max()
    return f"{task.replace('_', ' ')}\nn = {n:.0f}"


def _tell_missed(axes: Axes, found: Tumours, missed: pd.DataFrame) -> None:
    """Write above each bar of the distance how many patients' tumours were missed: they are not in it."""
    for row in missed.itertuples():
        x = _x(found, found.tasks.index(row.task), row.encoder)
        text = f"{row.estimate * row.n:.3g} missed"
        axes.text(x, 0.98, text, rotation=90, va="top", ha="center", fontsize=4.5, transform=axes.get_xaxis_transform())
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])


def _case(results: Results, found: Tumours) -> pd.DataFrame:
    """Return the planes of one case of the first task that has any, of each encoder's first seed."""
    table = results.slices
    table = table[table.task.isin(found.tasks)]
    table = table[table.task == table.task.min()]
    table = table[table.shots == shared.most(table.shots)] if len(table) else table
    return table[table.seed == table.seed.min()]


def _plane(axes: Axes, letter: str, shown: pd.DataFrame, found: Tumours) -> pd.DataFrame:
    """Draw one plane with the contours of the truth and of all encoders."""
    rows, plane = shown[shown.plane == PLANES[letter]], PLANES[letter]
    style.heading(axes, letter, plane)
    if rows.empty:
        style.missing(axes, "No planes (slices/<task>/…).", "snakemake evaluate")
        return rows.reindex(columns=COLUMNS)
    first = rows.iloc[0]
    shape = int(first["rows"]), int(first["columns"])
    image = np.reshape(first.image, shape)
    axes.imshow(window(image, WINDOW_HU), cmap="gray", vmin=0, vmax=255, aspect=first.row_mm / first.column_mm)
    axes.set_axis_off()
    truth = np.reshape(first.truth, shape)
    made = []
    for row in rows.itertuples():
        given = np.reshape(row.prediction, shape)
        _contour(axes, given, found.looks[row.encoder].colour, 0.9)
        both = truth.sum() + given.sum()
        value = 2 * (truth & given).sum() / both if both else np.nan
        made.append({"panel": letter, **{k: getattr(row, k) for k in ("task", "dataset", "encoder", "shots")}})
        made[-1] |= {"metric": "dice_in_plane", "estimate": value, "case_id": row.case_id, "plane": plane}
        made[-1] |= {"note": "" if given.any() else "nothing predicted in this plane"}
    _contour(axes, truth, TRUTH_COLOUR, 0.7, "dashed")
    return pd.DataFrame(made).reindex(columns=COLUMNS)


def _contour(axes: Axes, mask: np.ndarray, colour: str, width: float, line: str = "solid") -> None:
    if mask.any():
        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=width, linestyles=line)


def _legend(figure: Figure, found: Tumours, shown: pd.DataFrame) -> None:
    handles = shared.handles(found)
    handles.append(Line2D([], [], color=TRUTH_COLOUR, label="truth", linewidth=1.2, linestyle="dashed"))
    if found.rows.paper.notna().any():
        star = Line2D([], [], marker=style.PAPER_MARKER, color=style.PAPER_COLOUR, linestyle="", markersize=5)
        star.set_label("published")
        handles.append(star)
    title = "Bars: mean over patients; lines: intervals over patients."
    if len(shown):
        first = shown.iloc[0]
        title += f" b to d: '{first.case_id}' of '{first.task}', the test case of median tumour volume."
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=7, title=title, title_fontsize=6, frameon=True
    )
    legend.get_frame().set(facecolor="#BBBBBB", edgecolor="none")
