"""Pictures of the report page, as addresses that the page holds in itself."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.imaging import pictures, store
from ctfm.metrics.summary import by_size

CURVES = 8  # small charts of a pre-training at most
THUMBNAILS = 4  # refused series with picture, per reason
SAMPLES = 3  # volumes shown of each corpus
UNITS = {"epoch", "step", "seconds", "samples"}
LOOK = Figures(width_mm=230.0)
NAMES = {"lr": "learning rate"}


def training(histories: dict[str, pd.DataFrame]) -> str:
    """Draw loss, learning rate and monitors of all pre-training runs over epochs; empty text without any."""
    columns = [c for c in dict.fromkeys(c for table in histories.values() for c in table.columns) if c not in UNITS]
    if not columns:
        return ""
    columns = columns[:CURVES]
    with style.context():
        across = min(4, len(columns))
        figure = style.blank(LOOK, 0.26 * -(-len(columns) // across))
        axes = figure.subplots(-(-len(columns) // across), across, squeeze=False).ravel()
        looks = style.looks(histories)
        for place, column in enumerate(columns):
            for name, table in histories.items():
                if column in table:
                    _line(axes[place], table.epoch, table[column], looks[name], name)
            axes[place].set(xlabel="epoch", ylabel=NAMES.get(column, column.replace("_", " ")))
        for empty in axes[len(columns) :]:
            empty.set_axis_off()
        axes[0].legend()
        return pictures.figure_uri(figure, dpi=150)


def _line(axes: Axes, x: pd.Series, y: pd.Series, look: style.Look, label: str) -> None:
    axes.plot(x, y, color=look.colour, marker=look.marker if len(x) < 40 else None, markersize=2.5, label=label)


def probe(scores: pd.DataFrame, selected: dict[str, Any]) -> str:
    """Draw the scores of the checkpoints over epochs (each seed a point, a line through means) and the choice."""
    metrics = list(dict.fromkeys(scores.metric))
    with style.context():
        figure = style.blank(LOOK, 0.28)
        panels = figure.subplots(1, max(2, len(metrics)), squeeze=False).ravel()
        for axes, metric in zip(panels, metrics, strict=False):
            own, look = scores[scores.metric == metric], style.looks(["ours"])["ours"]
            means = own.groupby("epoch").value.mean()
            axes.plot(means.index, means, color=look.colour, label="mean over seeds")
            axes.plot(own.epoch, own.value, "o", color=look.colour, markersize=3, label="seed")
            if isinstance(selected.get("epoch"), int):
                axes.axvline(selected["epoch"], color=style.INK, linestyle=":", label="chosen")
            axes.set(xlabel="epoch of the checkpoint", ylabel=metric.replace("_", " "))
        for empty in panels[len(metrics) :]:
            empty.set_axis_off()
        panels[0].legend()
        return pictures.figure_uri(figure, dpi=150)


def refused(table: pd.DataFrame, folder: Path) -> list[dict[str, str]]:
    """Return pictures of a few refused series of each reason, where the preparation kept one."""
    shown = []
    for reason, rows in table[table.status != "ok"].groupby("reason", sort=True):
        found = ((row, _thumbnail(row, folder)) for row in rows.itertuples())
        for row, path in islice(((row, path) for row, path in found if path.is_file()), THUMBNAILS):
            text = f"{reason}: {row.detail}"
            shown.append({"image": file_uri(path), "text": text, "uid": row.SeriesInstanceUID})
    return shown


def _thumbnail(row: Any, folder: Path) -> Path:
    return folder / f"shard={row.shard:05d}" / "thumbnails" / f"{row.SeriesInstanceUID}.png"


def samples(table: pd.DataFrame, folder: Path) -> list[dict[str, str]]:
    """Return axial, coronal and sagittal planes of the first few prepared volumes that are still there."""
    good = table[table.status == "ok"].sort_values("SeriesInstanceUID")
    kept = islice((row for row in good.itertuples() if (folder / row.path).is_file()), SAMPLES)
    return [
        {
            "image": pictures.data_uri(pictures.png(pictures.mosaic(store.open_volume(folder / row.path)))),
            "text": f"{row.collection_id}, {' × '.join(str(n) for n in row.shape)} voxels",
        }
        for row in kept
    ]


def file_uri(path: Path) -> str:
    """Return a PNG file as an address that the page holds in itself."""
    return pictures.data_uri(path.read_bytes())


def predictions(root: Path) -> list[dict[str, str]]:
    """Return the pictures of segmentations that the evaluation drew, largest number of shots first."""
    found = sorted(root.glob("evaluate/*/*/*.png"), key=lambda p: (p.parts[:-2], _shots(p), p.parts))
    return [
        {"image": file_uri(path), "text": " / ".join(path.relative_to(root / "evaluate").with_suffix("").parts)}
        for path in found
    ]


def _shots(path: Path) -> float:
    return -by_size(path.stem.rpartition("-")[0])
