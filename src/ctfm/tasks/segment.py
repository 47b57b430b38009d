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
from ctfm.config import Augment, Strict, Voxels
from ctfm.errors import UserError, nearest
from ctfm.imaging import store
from ctfm.imaging.volume import write_nifti
from ctfm.metrics import overlap
from ctfm.tasks import CaseFile, _fitting, _measure, _model, _overlay
from ctfm.training import sampling
from ctfm.training.pool import Pool

MACRO, MICRO = "macro_dice", "micro_dice"


class Settings(Strict):
    """Recipe of the fine-tuning. Defaults: the paper's Methods."""

    labels: tuple[str, ...] = Field((), description="names of labels or of groups; empty: all of the data set")
    patch: Voxels | None = Field(
        None, description="crop and inference window (z, y, x), voxels; null: the encoder's own (its `adapt_patch`)"
    )
    epochs: int = Field(300, ge=1, description="passes over the training cases")
    steps_per_epoch: int | None = Field(None, ge=1, description="null: as many as the cases fill")
    batch: int = Field(8, ge=1, description="crops in one optimiser step, over all devices")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(1e-5, ge=0, description="weight decay")
    warmup_epochs: float = Field(3, ge=0, description="epochs of linear warm-up, counted in steps")
    warmup_start: float = Field(0.1, ge=0, le=1, description="learning rate before warm-up, share of the peak")
    final_rate: float = Field(0.01, ge=0, le=1, description="learning rate at the end, share of the peak")
    freeze: bool = Field(False, description="only the decoder learns, on the encoder's fixed features")
    overlap: float = Field(0.625, ge=0, lt=1, description="overlap of the inference windows")
    augment: Augment = Field(
        Augment(
            resized_crop=(1.0, 1.0),
            affine_p=0.2,
            smooth_p=0.2,
            smooth_voxels=(0.5, 1.0),
            intensity_p=0.5,
            shift_p=0.5,
            noise_p=0.2,
        ),
        description="random views of the crops",
    )
    surface: bool = Field(
        False,
        description="measure surface distances too: ASD, ASSD, HD95, NSD",
        json_schema_extra={"of": "evaluate"},
    )
    tolerance_mm: float = Field(
        3.0,
        ge=0,
        description="tolerance of the NSD, mm; 3 is that of TotalSegmentator's own evaluation",
        json_schema_extra={"of": "evaluate"},
    )
    validate_every: int = Field(5, ge=1, description="epochs between validations on whole scans")
    validation_cases: int | None = Field(None, ge=1, description="at most so many validation cases; null: all")


def fit(
    settings: Settings,
    encoder: Path,
    train: list[CaseFile],
    val: list[CaseFile],
    out: Path,
    *,
    seed: int,
    frozen: bool | Pool = False,
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

    Raises:
        UserError: the encoder, the cases or the settings don't fit.
    """
    pool = frozen if isinstance(frozen, Pool) else None
    val = sampling.few_shot(val, min(len(val), settings.validation_cases or len(val)), 0, "validation")
    if not train:
        raise UserError("there is no training case; check the data set's split and its excluded cases")
    labels = _labels(settings, store.open_volume(train[0].label).meta)
    model = _fitting.new(settings, weights.load_encoder(encoder), train[0], labels, seed)

    def validate(_: Any) -> dict[str, float]:
        found = (_measure.rows(case, model.segment(case.image), model.labels) for case in val)
        return scores([row for rows in found for row in rows])

    run = _fitting.Run(settings, encoder, tuple(train), tuple(val), seed, bool(frozen or settings.freeze), pool)
    facts = _fitting.train(run, model, out, validate if val else None, MACRO)
    return facts | {"train": [c.case for c in train], "val": [c.case for c in val]}


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
        write_nifti(loaded.segment(case.image, watch), out / f"{case.case}.nii.gz")
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
    tolerance = settings.tolerance_mm if settings.surface else None
    for case in logs.progress(cases, "measuring", len(cases)):
        chosen = _labels(settings, store.open_volume(case.label).meta)
        rows += _measure.rows(case, _measure.read_prediction(case, predictions), chosen, tolerance)
    return rows


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean Dice: macro (over labels, of means over cases) and micro (over cases, of labels pooled)."""
    return {MACRO: overlap.macro(rows), MICRO: overlap.macro(rows, MICRO)}


def picture(settings: Settings, case: CaseFile, prediction: Path) -> Figure | None:
    """Draw CT, truth and prediction of a case; ``prediction`` is the folder that ``predict`` wrote."""
    truth = store.open_volume(case.label)
    chosen = _labels(settings, truth.meta)
    found = _measure.read_prediction(case, prediction)
    return _overlay.draw(case.case, store.open_volume(case.image).load(), truth.load(), found, chosen)


def _labels(settings: Settings, meta: dict[str, Any]) -> list[dict[str, Any]]:
    """Return name, id and group of the labels asked for, by id; ``meta`` is that of a stored label map.

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
    for name in settings.labels or ids:
        if name not in known:
            raise UserError(f"labels: '{name}' is neither a label nor a group of the data set{nearest(name, known)}")
        wanted.update(known[name])
    return [{"name": n, "id": ids[n], "group": groups.get(n, "other")} for n in sorted(wanted, key=ids.__getitem__)]
