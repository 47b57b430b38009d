"""Task ``segment``: label every voxel; fine-tuning of an encoder with a decoder (paper, Methods).

A case's labels are known by name. ``fit`` writes a model folder, ``predict`` a label map per case in the ids of
the data set, ``measure`` the Dice of each case and label.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pydantic import Field

from ctfm import files, logs, weights
from ctfm.config import Finetuning, Range
from ctfm.errors import UserError, nearest
from ctfm.imaging import store
from ctfm.imaging.volume import write_nifti
from ctfm.metrics import overlap
from ctfm.tasks import CaseFile, _fitting, _grids, _measure, _model, _overlay
from ctfm.training import sampling
from ctfm.training.pool import Pool

MACRO, MICRO = "macro_dice", "micro_dice"


class Settings(Finetuning):
    """Recipe of the fine-tuning. Defaults: the paper's Methods."""

    labels: tuple[str, ...] = Field((), description="names of labels or of groups; empty: all of the data set")
    epochs: int = Field(300, ge=1, description="passes over the training cases")
    hu_window: Range | None = Field(None, description="HU mapped to 0 and to 1; null: the encoder's own")
    surface: bool = Field(
        False,
        description="measure surface distances too: ASD, ASSD, HD95, NSD",
        json_schema_extra={"of": "evaluate"},
    )


def fit(
    settings: Settings,
    encoder: Path,
    train: list[CaseFile],
    val: list[CaseFile],
    out: Path,
    *,
    seed: int,
    frozen: bool | Pool = False,
    task: str = "segment",
) -> dict[str, Any]:
    """Train, or go on where an earlier start stopped, and write ``out/model``; returns facts for run.json.

    The model is that of the best macro Dice on the validation cases; without such cases, the last one.

    Args:
        settings: the recipe.
        encoder: folder of the encoder's weights (see ``ctfm.weights``).
        train: training cases.
        val: validation cases, may be empty.
        out: gets ``model/``, ``checkpoints/`` and ``metrics.csv``.
        seed: of the decoder's weights, the crops and their views.
        frozen: train the decoder alone; a pool: on its fixed crops, whose features are computed once.
        task: whose model it is.

    Raises:
        UserError: the encoder, the cases or the settings don't fit.
    """
    val = sampling.few_shot(val, min(len(val), settings.validation_cases or len(val)), 0, "validation")
    if not train:
        raise UserError("there is no training case; check the data set's split and its excluded cases")
    labels = labels_of(settings.labels, store.open_volume(train[0].label).meta)
    model = _fitting.new(settings, weights.load_encoder(encoder), train[0], labels, seed, task)

    def validate(_: Any) -> dict[str, float]:
        return scores([row for case in val for row in _measure.rows(case, model.segment(case.image), model.labels)])

    fixed, pool = bool(frozen or settings.freeze), frozen if isinstance(frozen, Pool) else None
    run = _fitting.Run(settings, encoder, tuple(train), tuple(val), seed, fixed, pool)
    return _fitting.train(run, model, out, validate if val else None, MACRO) | run.named


def predict(model: Path, cases: list[CaseFile], out: Path) -> None:
    """Write ``out/<case>.nii.gz``, the label map in ids of the data set on the grid of the stored case.

    Args:
        model: folder that ``fit`` wrote.
        cases: of each, only the image is read.
        out: folder of the label maps; gets ``labels.json`` too: id, name, group and colour of each label, by id.
    """
    loaded = _model.load(model)
    for case in logs.progress(cases, "predictions", len(cases)):
        watch = partial(logs.progress, what=f"{case.case}, layers of windows")
        write_nifti(_grids.segment(loaded, case.image, out, watch), out / f"{case.case}.nii.gz")
    files.write_json(_overlay.table(loaded.labels), out / "labels.json")


def measure(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return Dice and its companions (``metrics.overlap``) of each case and label; ``metrics.surface`` if asked for.

    Args:
        settings: its labels are measured.
        cases: with their truth.
        predictions: folder that ``predict`` wrote.

    Raises:
        UserError: a prediction is missing, damaged, on another grid or of other labels.
    """
    rows = []
    beside = [_measure.surfaces(settings.tolerance_mm)] if settings.surface else []
    for case in logs.progress(cases, "measuring", len(cases)):
        chosen = labels_of(settings.labels, store.open_volume(case.label).meta)
        rows += _measure.rows(case, _measure.read_prediction(case, predictions), chosen, *beside)
    return rows


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean Dice: macro (over labels, of means over cases) and micro (over cases, of labels pooled)."""
    return {MACRO: overlap.macro(rows), MICRO: overlap.macro(rows, MICRO)}


def picture(settings: Settings, case: CaseFile, prediction: Path) -> Figure | None:
    """Draw CT, truth and prediction of a case; ``prediction`` is the folder that ``predict`` wrote."""
    truth = store.open_volume(case.label)
    chosen = labels_of(settings.labels, truth.meta)
    found = _measure.read_prediction(case, prediction)
    return _overlay.draw(case.case, store.open_volume(case.image).load(), truth.load(), found, chosen)


def labels_of(names: tuple[str, ...], meta: dict[str, Any]) -> list[dict[str, Any]]:
    """Return name, id and group of labels, by id: of all, or of those named.

    Args:
        names: of labels or of groups; empty: all.
        meta: of a stored label map.

    Raises:
        UserError: a name is neither a label nor a group of the data set, or that has no label maps.
    """
    if "findings" in meta:
        raise UserError("the data set has findings of whole scans, not label maps; name another, or the kind 'triage'")
    ids, groups = meta["ids"], meta["groups"]
    known = {**{group: [] for group in groups.values()}, **{name: [name] for name in ids}}
    for name, group in groups.items():
        if group not in ids:
            known[group].append(name)
    wanted: set[str] = set()
    for name in names or ids:
        if name not in known:
            raise UserError(f"labels: '{name}' is neither a label nor a group of the data set{nearest(name, known)}")
        wanted.update(known[name])
    return [{"name": n, "id": ids[n], "group": groups.get(n, "other")} for n in sorted(wanted, key=ids.__getitem__)]
