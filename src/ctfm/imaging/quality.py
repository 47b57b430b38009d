"""The quality page of a corpus: what was refused and why, distributions, and pictures of a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ctfm.imaging import criteria, dicom, pictures, store

SAMPLE = 6
SHOWN = 12  # refused series with picture, per reason
COLLECTIONS_DRAWN = 20
MEANINGS = (
    dicom.CODES
    | criteria.CODES
    | {
        "download_missing": "nothing could be downloaded",
        "download_incomplete": "less came than the index says",
        "download_refused": "its bucket is closed or absent",
        "error": "a fault that no other reason describes",
    }
)


def page(table: pd.DataFrame, folder: Path, funnel: pd.DataFrame, checks: pd.DataFrame) -> str:
    """Return a self-contained web page about a corpus.

    Args:
        table: a ``volumes`` table with at least one good row.
        folder: the folder that the table's paths are relative to.
        funnel: a ``funnel`` table, from the index to the volumes.
        checks: a ``cross_checks`` table.
    """
    good, bad = table[table["status"] == "ok"], table[table["status"] != "ok"]
    collections = pd.crosstab(table["collection_id"], table["status"]).reindex(
        columns=["ok", "quarantined"], fill_value=0
    )
    loader = jinja2.PackageLoader("ctfm", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("quality.html").render(
        series=len(table),
        ok=len(good),
        gigabytes=good["bytes"].sum() / 1e9,
        funnel=list(funnel.itertuples(index=False)),
        checks=list(checks.sort_values(["status", "SeriesInstanceUID"]).itertuples(index=False)),
        collections=list(collections.itertuples(name=None)),
        reasons=[_reason(code, rows, folder) for code, rows in _by_size(bad)],
        shown=SHOWN,
        distributions=pictures.figure_uri(_distributions(good)),
        sample=[_portrait(row, folder) for row in _sample(good).itertuples()],
    )


def _by_size(bad: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return sorted(
        ((str(code), rows) for code, rows in bad.groupby("reason")), key=lambda item: (-len(item[1]), item[0])
    )


def _reason(code: str, rows: pd.DataFrame, folder: Path) -> dict[str, Any]:
    shown = []
    for row in rows.head(SHOWN).itertuples():
        image = folder / f"shard={row.shard:05d}" / "thumbnails" / f"{row.SeriesInstanceUID}.png"
        uri = pictures.data_uri(image.read_bytes()) if image.is_file() else ""
        shown.append({"uid": row.SeriesInstanceUID, "detail": row.detail, "image": uri})
    return {"code": code, "meaning": MEANINGS.get(code, ""), "count": len(rows), "shown": shown}


def _sample(good: pd.DataFrame) -> pd.DataFrame:
    """Draw the same few rows each time."""
    chosen = np.random.default_rng(0).choice(len(good), min(SAMPLE, len(good)), replace=False)
    return good.iloc[np.sort(chosen)]


def _portrait(row: Any, folder: Path) -> dict[str, str]:
    stored = store.open_volume(folder / row.path)
    start, stop = np.asarray(stored.meta["body_box"])
    z, y, x = (int(v) for v in (start + stop) // 2)
    text = f"{' x '.join(str(n) for n in stored.shape)} voxels of {' x '.join(f'{s:g}' for s in row.spacing_out)} mm"
    image = pictures.data_uri(pictures.png(pictures.mosaic(stored, (z, y, x))))
    return {"uid": row.SeriesInstanceUID, "collection": row.collection_id, "text": text, "image": image}


def _distributions(good: pd.DataFrame) -> Figure:
    spacing, shape = _matrix(good["spacing_in"]), _matrix(good["shape"])
    extent = shape * _matrix(good["spacing_out"])
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    _histogram(axes[0, 0], spacing[:, 0], "slice distance as scanned, mm")
    _histogram(axes[0, 1], spacing[:, 1], "pixel spacing as scanned, mm")
    _histogram(axes[0, 2], extent[:, 0], "extent feet to head, mm")
    _histogram(axes[1, 0], extent[:, 1], "extent front to back, mm")
    levels = _matrix(good["hu_percentiles"])
    axes[1, 1].boxplot(levels, tick_labels=["0.5", "5", "50", "95", "99.5"], flierprops={"markersize": 2})
    axes[1, 1].set(xlabel="percentile of a volume", ylabel="HU")
    counts = good["collection_id"].value_counts().head(COLLECTIONS_DRAWN)[::-1]
    axes[1, 2].barh([str(name) for name in counts.index], counts.to_numpy(), color="#4c72b0")
    axes[1, 2].set(xlabel="volumes")
    axes[1, 2].tick_params(axis="y", labelsize=7)
    return figure


def _histogram(axes: Any, values: np.ndarray, label: str) -> None:
    axes.hist(values, bins=min(40, max(5, len(values))), color="#4c72b0")
    axes.set(xlabel=label, ylabel="volumes")


def _matrix(column: pd.Series) -> np.ndarray:
    return np.stack(list(column))
