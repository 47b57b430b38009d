"""What the task ``search`` found in a target, read back: places of matches, heat maps, planes that show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ctfm import files, tables
from ctfm.imaging import heatmaps, store
from ctfm.imaging.pictures import planes
from ctfm.imaging.preprocess import Preprocess
from ctfm.imaging.resample import resample_to
from ctfm.imaging.volume import Volume
from ctfm.metrics import centroid
from ctfm.metrics.centroid import Found, Searched
from ctfm.tasks import CaseFile

PLANE = "coronal"
POINT = ["l_mm", "p_mm", "s_mm"]
INCHES = 3.0


def path(folder: Path, case: str) -> Path:
    """Return the table of a target's matches."""
    return folder / f"{case}.parquet"


class Matches:
    """The matches in one target.

    Args:
        folder: of the predictions.
        case: the target.

    Raises:
        UserError: the table is missing or malformed.
    """

    def __init__(self, folder: Path, case: str) -> None:
        file = files.need_file(path(folder, case), "predict this case first")
        self.table = tables.read("matches", file)
        facts = tables.facts(file)
        self.patient: str = facts["patient"]
        self.grid: dict[str, Any] = facts["grid"]

    @property
    def points(self) -> list[Found]:
        """The matches, in the order of the table."""
        places = self.table[POINT].to_numpy(float)
        return [Found(*row) for row in zip(self.table["query"], self.table["label"], places, strict=True)]

    @property
    def searched(self) -> Searched:
        """The centres of all patches, and the middle of the box that they cover."""
        affine = np.asarray(self.grid["affine"])
        middle = (np.array(self.grid["low"]) + self.grid["high"] - 1) / 2
        return Searched(self._dense().centres_world, middle @ affine[:3, :3].T + affine[:3, 3])

    def shown(self, label: str) -> Any:
        """Return the row of the query whose similarities were kept for an organ, or None."""
        rows = self.table[(self.table["label"] == label) & (self.table["similarities"].map(len) > 0)]
        return next(rows.itertuples(), None)

    def heat(self, similarities: Sequence[float]) -> Volume:
        """Return the mean similarity of the patches over each voxel, on the grid that was searched; NaN elsewhere."""
        from ctfm.embedding import similarity  # torch

        return Volume(similarity.heat(np.asarray(similarities), self._dense()), np.asarray(self.grid["affine"]))

    def _dense(self) -> Any:
        """Return the patches without their vectors."""
        from ctfm.embedding import dense, patches, read  # torch

        z, y, x = self.grid["starts"]
        cut = patches.Grid(tuple(self.grid["patch"]), (z, y, x))
        volume = store.Stored(SimpleNamespace(shape=tuple(self.grid["shape"])), np.asarray(self.grid["affine"]), {})
        scan = read.Scan(volume, tuple(self.grid["low"]), tuple(self.grid["high"]), Preprocess())
        return dense.Dense(np.empty((len(cut), 0), np.float32), cut, scan)


def rows(shown: Sequence[str], cases: Sequence[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return the coronal planes through the centroid of each organ, in the scan that asks and in a target.

    The truth alone decides on the target, so that all encoders are shown at the same one: that of the median volume of
    the organ, of those that show it.

    Args:
        shown: names of organs; those that no target shows are left out.
        cases: test cases.
        predictions: folder of their matches.

    Returns:
        For each organ two rows of the table ``slices``, less the columns that name the run: the query without
        ``heat``, its point as ``mark``; and the target with ``heat``, its ``mark`` being the best match as it is seen
        from the front. None for a target that could not be searched.
    """
    made: list[dict[str, Any]] = []
    for name in shown:
        sizes = sorted((volume, case.case) for case in cases if (volume := _volume(case, name)))
        if sizes:
            chosen = sizes[(len(sizes) - 1) // 2][1]
            made += pair(name, next(case for case in cases if case.case == chosen), predictions)
    return made


def pair(name: str, case: CaseFile, predictions: Path) -> list[dict[str, Any]]:
    """Return the planes of an organ's query and of one target; none where nothing was kept to show."""
    if not path(predictions, case.case).is_file():
        return []
    found = Matches(predictions, case.case)
    match = found.shown(name)
    label = store.open_volume(case.label)
    if match is None or not _volume(case, name):
        return []
    asks = CaseFile(
        match.query,
        match.query,
        case.image.with_name(f"{match.query}.b2nd"),
        case.label.with_name(f"{match.query}_label.b2nd"),
    )
    heat = found.heat(match.similarities)
    laid = resample_to(heat, label.shape, label.affine, "nearest", background=np.nan)
    best = np.array([match.l_mm, match.p_mm, match.s_mm])
    return [_plane(name, asks, None, None), _plane(name, case, laid.array, best)]


def draw(shown: Sequence[str], case: CaseFile, predictions: Path) -> Figure | None:
    """Draw both planes of the first organ that can be shown; None if there is none."""
    for name in shown:
        if found := pair(name, case, predictions):
            figure = Figure(figsize=(2 * INCHES, INCHES), layout="constrained", facecolor="white")
            for axes, row in zip(figure.subplots(1, 2), found, strict=True):
                heatmaps.draw(axes, row)
                axes.set_title(f"{row['case_id']}: {'asks for' if not row['heat'] else 'is searched for'} {name}")
            return figure
    return None


def _plane(name: str, case: CaseFile, heat: np.ndarray | None, point: np.ndarray | None) -> dict[str, Any]:
    """Return one row; without a point, that of the organ's centroid."""
    stored = store.open_volume(case.label)
    label, number = stored.load(), stored.meta["ids"][name]
    centre = centroid.locate(label, {name: number})[name].centroid_mm
    last = np.array(label.shape) - 1
    at = np.clip(centroid.voxel(label, centre), 0, last).tolist()
    row, _, column = np.clip(centroid.voxel(label, centre if point is None else point), 0, last).tolist()
    image = planes(store.open_volume(case.image).handle, tuple(at))[1]
    truth = planes(label.array == number, tuple(at))[1]
    return {
        **{"case_id": case.case, "patient": case.patient, "label": name, "plane": PLANE},
        **{"rows": image.shape[0], "columns": image.shape[1]},
        **{"row_mm": label.spacing[0], "column_mm": label.spacing[2]},
        "image": image.astype(int).ravel().tolist(),
        "truth": truth.astype(int).ravel().tolist(),
        "prediction": [],
        "heat": [] if heat is None else planes(heat, tuple(at))[1].astype(float).ravel().tolist(),
        "mark": [int(last[0]) - row, column],
    }


def _volume(case: CaseFile, name: str) -> float:
    """Return the volume of an organ in a case, mm³; 0 for a data set that does not have it."""
    stored = store.open_volume(case.label)
    number = stored.meta.get("ids", {}).get(name)
    return float(np.count_nonzero(stored.handle[:] == number) * np.prod(stored.spacing)) if number else 0.0
