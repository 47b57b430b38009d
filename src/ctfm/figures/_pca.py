"""Panel: patches of several scans in the colours of their main components (paper, Figure 6d)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from ctfm.config import Figures
from ctfm.figures import _maps as maps
from ctfm.figures import _style as style
from ctfm.figures._results import Results

TITLE, KIND, LABEL = "Components of patch embeddings", "pca", "components"  # as in ctfm.tasks.pca
METRICS = ["colour_balanced_accuracy", "colour_chance", "foreground_agreement"]
OPACITY, MOST = 0.75, 3


def panel(figure: Figure, spec: SubplotSpec, results: Results, settings: Figures, letter: str) -> pd.DataFrame:
    """Draw coronal planes of scans under their colours, of the leading encoder; return the rows drawn.

    Args:
        figure: to draw on.
        spec: the place of the panel.
        results: the run's tables.
        settings: not used.
        letter: of the panel.
    """
    table = maps.planes(results, LABEL, "coronal")
    if table.empty:
        return maps.nothing(figure, spec, letter, TITLE, KIND)
    encoders = maps.leading(table)
    shown = table[table.encoder == encoders[0]].sort_values("case_id").head(MOST)
    found = maps.estimates(results, shown.task.iloc[0], METRICS)
    whole = figure.add_subplot(spec)
    whole.set_axis_off()
    style.heading(whole, letter, f"{TITLE}, {encoders[0]};\n{_numbers(found, encoders)}, n = {maps.counted(found)}")
    places = spec.subgridspec(1, len(shown))
    for place, row in enumerate(shown.itertuples()):
        maps.show(figure.add_subplot(places[place]), row, _colours(row))
    return maps.rows(shown, found, letter)


def _colours(row: Any) -> np.ndarray:
    """Return (rows, columns, 4) of whole numbers: red * 65536 + green * 256 + blue; below zero there is none."""
    numbers = np.reshape(row.prediction, (int(row.rows), int(row.columns)))
    parts = [numbers >> 16 & 255, numbers >> 8 & 255, numbers & 255]
    return np.dstack([*(part / 255 for part in parts), OPACITY * (numbers >= 0)])


def _numbers(found: pd.DataFrame, encoders: list[str]) -> str:
    """Return how often a colour names the organ in another scan."""
    values = ", ".join(f"{name} {maps.told(found, name, METRICS[0])}" for name in encoders)
    return f"organ by colour: {values} (chance {maps.told(found, encoders[0], METRICS[1])})"
