"""Extended Data Figure 3 of the paper: tumours, patient by patient, from the table of cases.

For each task: the Dice of every patient who has a tumour, ordered by the mean over encoders, a cross where the tumour
was missed; and for those without a tumour the volume that was predicted all the same. Several training seeds are
averaged; a patient counts as missed by an encoder as soon as one seed missed the tumour.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures import _tumours as shared
from ctfm.figures._results import Results
from ctfm.figures._tumours import Tumours
from ctfm.metrics.overlap import MISSED
from ctfm.metrics.summary import TUMOUR

COLUMNS = ["panel", "task", "encoder", "shots", "patient", "metric", "value", "missed", "seeds"]
MANY = 30  # patients, beyond which they aren't named


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the tables.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel.
    """
    found = shared.read(results)
    if found is None:
        return shared.nothing(settings, "Extended Data Figure 3")
    figure = style.blank(settings, 0.12 + 0.26 * len(found.tasks))
    axes = figure.subplots(len(found.tasks), 2, squeeze=False, width_ratios=[3, 1])
    parts = []
    for row, task in enumerate(found.tasks):
        letters = "abcdefghijklmnopqrstuvwxyz"[2 * row : 2 * row + 2]
        table = results.metrics[(results.metrics.task == task) & (results.metrics.group == TUMOUR)]
        table = table[table.shots == shared.most(table.shots)]
        parts.append(_dice(axes[row][0], letters[0], task, table, found))
        parts.append(_false(axes[row][1], letters[1], table, found))
    cross = Line2D([], [], marker="x", color=style.INK, linestyle="", label="missed", markersize=4)
    figure.legend(handles=[*shared.handles(found), cross], loc="outside lower center", ncols=7)
    return figure, pd.concat(parts)[COLUMNS]


def by_patient(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one row for each encoder and patient who has a value: its mean over cases and seeds, and if one missed."""
    rows = table[(table.metric == metric) & table.value.notna()]
    rows = rows.assign(missed=rows.note.fillna("").str.startswith(MISSED))
    keys = ["task", "encoder", "shots", "patient", "metric"]
    return rows.groupby(keys, as_index=False).agg(
        value=("value", "mean"), missed=("missed", "any"), seeds=("seed", "nunique")
    )


def _dice(axes: Axes, letter: str, task: str, table: pd.DataFrame, found: Tumours) -> pd.DataFrame:
    rows = by_patient(table, "dice")
    order = rows.groupby("patient").value.mean().sort_values(ascending=False, kind="stable").index.tolist()
    for encoder, look in found.looks.items():
        own = rows[rows.encoder == encoder]
        x = [order.index(patient) + _aside(found, encoder) for patient in own.patient]
        hit = ~own.missed.to_numpy()
        axes.vlines(x, 0, own.value, color=look.colour, linewidth=0.6, alpha=0.6)
        axes.plot(pd.Series(x)[hit], own.value[hit], look.marker, color=look.colour, markersize=3, markeredgewidth=0)
        axes.plot(pd.Series(x)[~hit], own.value[~hit], "x", color=look.colour, markersize=4.5, zorder=4)
    named = order if len(order) <= MANY else [""] * len(order)
    axes.set_xticks(range(len(order)), named, rotation=90, fontsize=4.5)
    axes.set_xlim(-0.7, max(len(order), 1) - 0.3)
    axes.set_ylim(-0.04, 1)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("patients with a tumour, best first")
    axes.set_ylabel("Dice of the tumour")
    missed = ", ".join(f"{name} {count}" for name, count in rows.groupby("encoder").missed.sum().items())
    style.heading(axes, letter, f"{task.replace('_', ' ')}: {len(order)} patients; missed by {missed}")
    return rows.assign(panel=letter)


def _aside(found: Tumours, encoder: str) -> float:
    return 0.6 * ((list(found.looks).index(encoder) + 0.5) / len(found.looks) - 0.5)


def _false(axes: Axes, letter: str, table: pd.DataFrame, found: Tumours) -> pd.DataFrame:
    rows = by_patient(table, "false_positive_ml")
    style.heading(axes, letter, f"No tumour: n = {rows.patient.nunique()}")
    if rows.empty:
        style.message(axes, "Every test patient\nhas a tumour.")
        return rows.assign(panel=letter)
    for place, (encoder, look) in enumerate(found.looks.items()):
        own = rows[rows.encoder == encoder]
        axes.plot([place] * len(own), own.value, look.marker, color=look.colour, markersize=3, markeredgewidth=0)
    axes.set_xticks(range(len(found.looks)), list(found.looks), rotation=90)
    axes.set_xlim(-0.6, len(found.looks) - 0.4)
    axes.set_ylim(bottom=0)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("predicted, ml")
    return rows.assign(panel=letter)
