"""What kinds of task share that draw maps of a few scans with a frozen encoder: nothing is trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from ctfm import files
from ctfm.config import Strict
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.overlays import Shown
from ctfm.imaging.pictures import planes
from ctfm.tasks import CaseFile, _overlay, _vectors

DRAWN = "drawn.json"
NOT_DRAWN = "nothing_measured"
PLANES = ("axial", "coronal", "sagittal")
Painted = tuple[Shown, Shown, Shown]


def keep(task: str, settings: Strict, encoder: Path, out: Path) -> dict[str, Any]:
    """Put an encoder into ``out/model``, with the settings of its use; return facts for run.json."""
    from ctfm import weights  # torch: measuring needs none of it

    model = files.sha256(encoder / weights.WEIGHTS)
    about = {"task": task, "encoder": encoder.name, "settings": settings.model_dump(mode="json")}
    about["fingerprint"] = files.digest([about, model])
    shutil.rmtree(out / "model", ignore_errors=True)
    _vectors.link(encoder, out / "model" / _vectors.ENCODER)
    files.write_json(about, out / "model" / _vectors.ABOUT)
    return {"fingerprint": about["fingerprint"], "frozen": True, "model": model[:12], "train": [], "val": []}


def kept(model: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the encoder that ``keep`` put there, and its settings."""
    return model / _vectors.ENCODER, files.read_json(model / _vectors.ABOUT)["settings"]


def drawn(cases: Sequence[CaseFile], count: int, seed: int, out: Path) -> list[CaseFile]:
    """Return the cases that are shown: ``count`` of them at random, chosen when they are first asked for."""
    if not (out / DRAWN).is_file():
        order = np.random.default_rng(seed).permutation(len(cases))[:count]
        files.write_json(sorted(cases[n].case for n in order), files.ensure_folder(out) / DRAWN)
    return among(cases, out)


def among(cases: Sequence[CaseFile], predictions: Path) -> list[CaseFile]:
    """Return those of the cases that were drawn.

    Raises:
        UserError: none was drawn yet.
    """
    names = files.read_json(files.need_file(predictions / DRAWN, "run 'ctfm adapt' first"))
    return [case for case in cases if case.case in names]


def others(cases: Sequence[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return a row without a value for each case that was not drawn, which says so."""
    names = {case.case for case in among(cases, predictions)}
    note = f"not among the {len(names)} scans that were drawn"
    row = {"label": "", "group": "", "metric": NOT_DRAWN, "value": float("nan"), "note": note}
    return [{"case_id": case.case, "patient": case.patient, **row} for case in cases if case.case not in names]


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each measure over all rows of the cases that were drawn."""
    known = pd.DataFrame(rows)
    known = known[known.metric != NOT_DRAWN]
    return {str(metric): float(part.value.mean()) for metric, part in known.groupby("metric")}


def body(hu: np.ndarray) -> np.ndarray:
    """Return (z, y, x) bool: what is denser than air, with what it encloses in each axial plane."""
    return np.stack([ndimage.binary_fill_holes(plane) for plane in hu > store.BODY_HU])


def organs(case: CaseFile) -> tuple[np.ndarray, dict[int, tuple[str, str]]]:
    """Return the label map (z, y, x) of a case, and name and group by id.

    Raises:
        UserError: the case has none.
    """
    stored = store.open_volume(case.label)
    if case.label == case.image or "ids" not in stored.meta:
        raise UserError(f"case '{case.case}' has no label map; take a data set with organs, such as 'totalsegmentator'")
    return stored.load().array, {i: (name, stored.meta["groups"][name]) for name, i in stored.meta["ids"].items()}


def middle(case: CaseFile) -> tuple[int, int, int]:
    """Return the voxel (z, y, x) of the planes that meet the most organs."""
    return _overlay.best_planes(organs(case)[0])


def slices(case: CaseFile, label: str, painted: Painted, encode: Callable[[Shown], np.ndarray]) -> list[dict[str, Any]]:
    """Return rows of the table ``slices``, less the columns that name the run, for the axial and the coronal plane.

    Args:
        case: whose planes they are.
        label: what is shown.
        painted: its axial, coronal and sagittal plane.
        encode: whole numbers (rows, columns) of a plane, for the column ``prediction``.
    """
    ids = planes(organs(case)[0], middle(case))
    return [
        {"case_id": case.case, "patient": case.patient, "label": label, "plane": plane}
        | {"rows": shown.hu.shape[0], "columns": shown.hu.shape[1]}
        | {"row_mm": shown.row_mm, "column_mm": shown.column_mm}
        | {"image": shown.hu.astype(int).ravel().tolist(), "truth": truth.astype(int).ravel().tolist()}
        | {"prediction": encode(shown).astype(int).ravel().tolist()}
        for plane, shown, truth in list(zip(PLANES, painted, ids, strict=True))[:2]
    ]
