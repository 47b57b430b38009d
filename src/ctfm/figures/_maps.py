"""What the panels of maps over CT share: the planes of a task, the encoders shown, and their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from ctfm import published
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.imaging.pictures import blend, window
from ctfm.metrics.summary import OURS

COLUMNS = ["panel", "task", "encoder", "case", "plane", "metric", "estimate", "low", "high", "n"]


def planes(results: Results, label: str, plane: str) -> pd.DataFrame:
    """Return the planes of the first task that shows ``label``, of its first seed."""
    rows = results.slices
    rows = rows[(rows.label == label) & (rows.plane == plane)]
    rows = rows[rows.task == rows.task.min()]
    return rows[(rows.seed == rows.seed.min()) & (rows.shots == rows.shots.min())]


def leading(rows: pd.DataFrame) -> list[str]:
    """Return the encoders of some rows, CT-FM before all others."""
    names = sorted(set(rows.encoder))
    return sorted(names, key=lambda name: (published.arm(name) != "ctfm", name))


def estimates(results: Results, task: str, metrics: list[str]) -> pd.DataFrame:
    """Return the estimates of a task over all labels, by encoder and metric."""
    rows = results.summary
    rows = rows[(rows.task == task) & (rows.group == "all") & (rows.method == OURS) & (rows.reference == "")]
    return rows[rows.metric.isin(metrics)]


def told(found: pd.DataFrame, encoder: str, metric: str) -> str:
    """Return an estimate in words; a dash where there is none."""
    values = found[(found.encoder == encoder) & (found.metric == metric)].estimate
    return f"{values.iloc[0]:.2f}" if len(values) else "–"


def counted(found: pd.DataFrame) -> str:
    """Return how many scans some estimates are of; a dash where none tells."""
    return f"{found.n.max():.0f}" if found.n.notna().any() else "–"


def show(axes: Axes, row: Any, colours: np.ndarray) -> None:
    """Draw the plane of a row of ``slices`` under colours (rows, columns, 4)."""
    grey = window(np.reshape(row.image, (int(row.rows), int(row.columns))))
    axes.imshow(blend(grey, colours), aspect=row.row_mm / row.column_mm, interpolation="nearest")
    axes.set_axis_off()


def nothing(figure: Figure, spec: SubplotSpec, letter: str, title: str, kind: str) -> pd.DataFrame:
    """Say in a panel what would fill it; return no rows."""
    axes = figure.add_subplot(spec)
    style.heading(axes, letter, title)
    text = f"No task of the kind '{kind}' in this run.\nAdd one to tasks, then 'snakemake evaluate'."
    style.message(axes, text)
    return pd.DataFrame(columns=COLUMNS)


def rows(shown: pd.DataFrame, found: pd.DataFrame, letter: str) -> pd.DataFrame:
    """Return what a panel shows: its planes, and the numbers."""
    drawn = shown.rename(columns={"case_id": "case"})[["task", "encoder", "case", "plane"]]
    return pd.concat([drawn, found]).assign(panel=letter).reindex(columns=COLUMNS)
