"""Cases on another grid than their own: a model works at one spacing, its label maps are wanted on the case's grid."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ctfm import files, logs
from ctfm.config import Millimetres
from ctfm.errors import Quarantine
from ctfm.imaging import store
from ctfm.imaging.resample import resample, resample_to
from ctfm.imaging.volume import Volume
from ctfm.tasks import CaseFile, _model

log = logging.getLogger(__name__)


def segment(model: _model.Model, path: Path, folder: Path, watch: Callable[[list], Iterable] = iter) -> Volume:
    """Return the label map of a stored scan on its own grid; at another spacing it is resampled, and the map back.

    Args:
        model: what segments.
        path: of the stored scan.
        folder: for a resampled scan while it is used.
        watch: as of ``Model.segment``.

    Raises:
        Quarantine: the scan can't be read.
    """
    scan = store.open_volume(path)
    if model.fits(scan):
        return model.segment(path, watch)
    with tempfile.TemporaryDirectory(dir=files.ensure_folder(folder), prefix=".") as work:
        store.save(resample(scan.load(), model.spacing_mm), Path(work) / path.name)
        found = model.segment(Path(work) / path.name, watch)
    return resample_to(found, scan.shape, scan.affine, "nearest", background=0)


def resampled(cases: Sequence[CaseFile], spacing_mm: Millimetres, folder: Path) -> list[CaseFile]:
    """Return the cases at a spacing, image and labels; what an earlier start stored is used again.

    Args:
        cases: on their own grids.
        spacing_mm: (z, y, x), mm.
        folder: gets ``<case>.b2nd`` and ``<case>_label.b2nd``.

    Raises:
        Quarantine: a case can't be read.
    """
    files.ensure_folder(folder)
    return [_one(case, spacing_mm, folder) for case in logs.progress(cases, "resampling", len(cases))]


def _one(case: CaseFile, spacing_mm: Millimetres, folder: Path) -> CaseFile:
    made = replace(case, image=folder / f"{case.case}.b2nd", label=folder / f"{case.case}_label.b2nd")
    label = store.open_volume(case.label)
    key = files.digest([label.meta.get("key"), [round(mm, 6) for mm in spacing_mm]])
    if not (_has(made.image, key) and _has(made.label, key)):
        store.save(resample(store.open_volume(case.image).load(), spacing_mm), made.image, {"key": key})
        smaller = resample(label.load(), spacing_mm, "nearest")
        store.save(smaller, made.label, {**label.meta, "key": key})
        lost = set(np.unique(label.handle[:])) - set(np.unique(smaller.array))
        if lost:
            log.warning("%s: labels %s are lost at %s mm", case.case, sorted(map(int, lost)), spacing_mm)
    return made


def _has(path: Path, key: str) -> bool:
    try:
        return store.open_volume(path).meta.get("key") == key
    except Quarantine:
        return False
