"""Task ``saliency``: which parts of a scan its embedding depends on (paper, Figure 6e; ``ctfm.embedding.occlusion``).

Nothing is trained: ``predict`` draws some test cases and writes the saliency of each as ``<case>.nii.gz`` on the case's
grid. ``measure`` gives, for each of them,

- ``body_enrichment``: mean saliency in the body over that of the whole scan (1: no more than elsewhere);
- ``body_share``: share of the saliency that lies in the body, beside ``body_volume_share``, that of its voxels;
- ``organ_enrichment``: of each organ, mean saliency in it over that of the body.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field
from scipy import ndimage

from ctfm import logs
from ctfm.config import Occlusion
from ctfm.imaging import overlays, store
from ctfm.imaging.overlays import Shown
from ctfm.imaging.volume import write_nifti
from ctfm.tasks import CaseFile, _maps, _measure

LABEL = "saliency"  # of the planes in the table `slices`
WHOLE = 10_000  # in the planes: the largest saliency of the scan


class Settings(Occlusion):
    """Which scans are shown to the encoder, and how they are occluded."""

    scans: int = Field(10, ge=1, description="test cases that are shown, drawn at random")
    seed: int = Field(0, ge=0, description="of the draw")


def fit(
    settings: Settings,
    encoder: Path,
    train: list[CaseFile],
    val: list[CaseFile],
    out: Path,
    *,
    seed: int,
    frozen: object = False,
) -> dict[str, Any]:
    """Keep the encoder in ``out/model``; return facts for run.json. Neither cases nor seed change anything."""
    return _maps.keep("saliency", settings, encoder, out)


def predict(model: Path, cases: list[CaseFile], out: Path) -> None:
    """Write the saliency of the drawn cases."""
    from ctfm.embedding import occluding  # torch
    from ctfm.embedding.encode import Encoder

    encoder, kept = _maps.kept(model)
    settings, used = Settings(**kept), Encoder(encoder)
    chosen = _maps.drawn(cases, settings.scans, settings.seed, out)
    for case in logs.progress(chosen, "scans", len(chosen)):
        image = store.open_volume(case.image).load()
        write_nifti(occluding.of_scan(used, case.image, image, settings), out / f"{case.case}.nii.gz")


def measure(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return the rows of each drawn case; of the others, a row that says that they are not shown.

    Args:
        settings: not used: what is measured is fixed.
        cases: test cases, with label maps.
        predictions: folder that ``predict`` wrote.

    Raises:
        UserError: a map is missing or on another grid, or a case has no label map.
    """
    rows = _maps.others(cases, predictions)
    for case in _maps.among(cases, predictions):
        own = {"case_id": case.case, "patient": case.patient, "note": ""}
        rows += [{**own, **row} for row in _enrichment(case, _measure.read_prediction(case, predictions).array)]
    return rows


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each measure over scans; of organs over scans and organs."""
    return _maps.means(rows)


def picture(settings: Settings, case: CaseFile, prediction: Path) -> Figure | None:
    """Draw a case under its saliency; none for a case that was not drawn."""
    if not _maps.among([case], prediction):
        return None
    return overlays.draw(f"{case.case}: saliency", [("", _painted(case, prediction))])


def slices(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return an axial and a coronal plane of each drawn case, with the saliency over its largest as whole numbers."""
    rows = []
    for case in _maps.among(cases, predictions):
        salient = _measure.read_prediction(case, predictions).array
        most = float(salient.max()) or 1.0
        image = store.open_volume(case.image).load()

        def raw(places: np.ndarray, values: np.ndarray = salient) -> np.ndarray:
            return values[tuple(np.moveaxis(places, -1, 0))][..., None]

        def whole(shown: Shown, most: float = most) -> np.ndarray:
            return np.rint(shown.colours[..., 0] / most * WHOLE)

        rows += _maps.slices(case, LABEL, overlays.cut(image, raw, _maps.middle(case)), whole)
    return rows


def _painted(case: CaseFile, prediction: Path) -> _maps.Painted:
    from ctfm.embedding import occluding  # torch

    salient = _measure.read_prediction(case, prediction).array
    return occluding.painted(store.open_volume(case.image).load(), salient, _maps.middle(case))


def _enrichment(case: CaseFile, salient: np.ndarray) -> list[dict[str, Any]]:
    image = store.open_volume(case.image).load().array
    body = _maps.body(image)
    ids, names = _maps.organs(case)
    total, inside = salient.sum(dtype=float), salient[body].mean(dtype=float) if body.any() else np.nan
    values = {
        "body_enrichment": inside / salient.mean(dtype=float) if total else np.nan,
        "body_share": salient[body].sum(dtype=float) / total if total else np.nan,
        "body_volume_share": body.mean(),
    }
    rows = [{"label": "all", "group": "all", "metric": name, "value": float(value)} for name, value in values.items()]
    there = [number for number in np.unique(ids) if number in names]
    means = ndimage.mean(salient, ids, there) if there else []
    for number, mean in zip(there, means, strict=True):
        label, group = names[number]
        value = float(mean / inside) if inside else np.nan
        rows.append({"label": label, "group": group, "metric": "organ_enrichment", "value": value})
    return rows
