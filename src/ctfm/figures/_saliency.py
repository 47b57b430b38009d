"""Panel: what the embedding of a scan depends on, by occlusion (paper, Figure 6e)."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from ctfm.config import Figures
from ctfm.figures import _maps as maps
from ctfm.figures import _style as style
from ctfm.figures._results import Results

TITLE, KIND, LABEL = "Saliency by occlusion", "saliency", "saliency"  # as in ctfm.tasks.saliency
METRICS = ["body_enrichment", "body_share", "body_volume_share"]
OPACITY, BRIGHTEST, MOST = 0.6, 99.5, 2


def panel(figure: Figure, spec: SubplotSpec, results: Results, settings: Figures, letter: str) -> pd.DataFrame:
    """Draw a coronal plane of one scan, alone and under the saliency of the leading encoder and of 'random'.

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
    names = maps.leading(table)
    encoders = [names[0], *[name for name in names[1:] if name == "random"], *names[1:]]
    encoders = list(dict.fromkeys(encoders))[:MOST]
    shown = table[(table.case_id == table.case_id.min()) & table.encoder.isin(encoders)]
    found = maps.estimates(results, shown.task.iloc[0], METRICS)
    places = spec.subgridspec(1, 1 + len(encoders))
    first = shown.iloc[0]
    axes = figure.add_subplot(places[0])
    maps.show(axes, first, np.zeros((int(first["rows"]), int(first["columns"]), 4)))
    values = ", ".join(f"{name} {maps.told(found, name, METRICS[0])}" for name in encoders)
    style.heading(axes, letter, f"{TITLE}; in the body over everywhere: {values}, n = {maps.counted(found)}")
    for place, encoder in enumerate(encoders, 1):
        axes = figure.add_subplot(places[place])
        row = next(shown[shown.encoder == encoder].itertuples())
        maps.show(axes, row, _colours(row))
        axes.text(0.02, 0.02, encoder, transform=axes.transAxes, color="white", va="bottom")
    return maps.rows(shown, found, letter)


def _colours(row: Any) -> np.ndarray:
    """Return (rows, columns, 4): brighter where the embedding depends more."""
    values = np.reshape(row.prediction, (int(row.rows), int(row.columns))).astype(float)
    most = np.percentile(values[values > 0], BRIGHTEST) if (values > 0).any() else 1.0
    shown = matplotlib.colormaps["magma"](np.clip(values / most, 0, 1))
    shown[..., 3] = OPACITY
    return shown
