"""Task ``segment``: label every voxel; fine-tuning of an encoder with a decoder (paper, Methods).

A case's labels are known by name. ``fit`` writes a model folder, ``predict`` a label map per case in the ids of
the data set, ``measure`` the Dice of each case and label.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import Field

from ctfm import files, logs, plugins, weights
from ctfm.config import Augment, Strict, Voxels
from ctfm.errors import Quarantine, UserError, nearest
from ctfm.imaging import store
from ctfm.imaging.labels import check_grid
from ctfm.imaging.volume import Volume, read_image, write_nifti
from ctfm.metrics import overlap
from ctfm.spec import machine
from ctfm.tasks import CaseFile, _model, _overlay
from ctfm.training import checkpoints, data, loop, sampling, seeds
from ctfm.training.segmentation import LabelledCrops, Pair, Recipe, Segmentation

END_LEARNING_RATE = 0.01  # over the peak
MACRO, MICRO = "macro_dice", "micro_dice"

log = logging.getLogger(__name__)


class Settings(Strict):
    """Recipe of the fine-tuning. Defaults: the paper's Methods."""

    labels: tuple[str, ...] = Field((), description="names of labels or of groups; empty: all of the data set")
    patch: Voxels = Field((96, 160, 160), description="crop and inference window (z, y, x), voxels")
    epochs: int = Field(300, ge=1, description="passes over the training cases")
    steps_per_epoch: int | None = Field(None, ge=1, description="null: as many as the cases fill")
    batch: int = Field(8, ge=1, description="crops in one optimiser step, over all devices")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(1e-5, ge=0, description="weight decay")
    warmup_epochs: float = Field(3, ge=0, description="epochs of linear warm-up, counted in steps")
    freeze: bool = Field(False, description="only the decoder learns, on the encoder's fixed features")
    overlap: float = Field(0.625, ge=0, lt=1, description="overlap of the inference windows")
    augment: Augment = Field(
        Augment(resized_crop=(1.0, 1.0), affine_p=0.2, smooth_p=0.2, smooth_voxels=(0.5, 1.0), intensity_p=0.5),
        description="random views of the crops",
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
    frozen: bool = False,
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
        frozen: train the decoder alone.

    Raises:
        UserError: the encoder, the cases or the settings don't fit.
    """
    frozen = frozen or settings.freeze
    val = sampling.few_shot(val, min(len(val), settings.validation_cases or len(val)), 0, "validation")
    model = _new(settings, weights.load_encoder(encoder), train, seed)
    fingerprint = _fingerprint(settings, encoder, (train, val), seed, frozen)
    try:
        module, facts = _trained(settings, model, train, val, out, seed=seed, frozen=frozen, fingerprint=fingerprint)
    except torch.OutOfMemoryError as error:
        raise UserError("the device's memory is too small for this batch: lower machine.micro_batch") from error
    facts |= {"fingerprint": fingerprint, "frozen": frozen, "checkpoint": _keep(module, out, checkpoints.BEST)}
    if loop.rank() == 0:
        _model.save(model, out / "model", {"fingerprint": fingerprint, "checkpoint": facts["checkpoint"]})
    return facts | {"train": [c.case for c in train], "val": [c.case for c in val]}


def predict(model: Path, cases: list[CaseFile], out: Path) -> None:
    """Write ``out/<case>.nii.gz``, the label map in ids of the data set on the grid of the stored case.

    Args:
        model: folder that ``fit`` wrote.
        cases: of each, only the image is read.
        out: folder of the label maps; gets ``labels.json`` (name to id) too.
    """
    loaded = _model.load(model)
    for case in logs.progress(cases, "predictions", len(cases)):
        write_nifti(loaded.segment(case.image), out / f"{case.case}.nii.gz")
    files.write_json({label["name"]: label["id"] for label in loaded.labels}, out / "labels.json")


def measure(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return Dice and its companions (see ``metrics.overlap.rows``) of each case and label.

    Args:
        settings: its labels are measured.
        cases: with their truth.
        predictions: folder that ``predict`` wrote.

    Raises:
        UserError: a prediction is missing, damaged or on another grid.
    """
    rows = []
    for case in logs.progress(cases, "measuring", len(cases)):
        rows += _rows(settings, case, read_prediction(case, predictions))
    return rows


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean Dice: macro (over labels, of means over cases) and micro (over cases, of labels pooled)."""
    return {MACRO: overlap.macro(rows), MICRO: overlap.macro(rows, MICRO)}


def picture(settings: Settings, case: CaseFile, prediction: Path) -> Figure | None:
    """Draw CT, truth and prediction of a case; ``prediction`` is the folder that ``predict`` wrote."""
    truth = store.open_volume(case.label)
    chosen = _labels(settings, truth.meta)
    found = read_prediction(case, prediction)
    return _overlay.draw(case.case, store.open_volume(case.image).load(), truth.load(), found, chosen)


def read_prediction(case: CaseFile, folder: Path) -> Volume:
    """Read the prediction of a case and check that it lies on the case's grid.

    Raises:
        UserError: it is missing, damaged or elsewhere.
    """
    path = files.need_file(folder / f"{case.case}.nii.gz", "predict this case first")
    try:
        found = read_image(path)
        check_grid(found, store.open_volume(case.label).load(), path.name)
    except Quarantine as reason:
        raise UserError(f"{path}: not the prediction of {case.case} ({reason}); predict it anew") from reason
    return found


def _labels(settings: Settings, meta: dict[str, Any]) -> list[dict[str, Any]]:
    """Return name, id and group of the labels asked for, by id; ``meta`` is that of a stored label map.

    Raises:
        UserError: a name is neither a label nor a group of the data set.
    """
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


def _new(settings: Settings, loaded: weights.Loaded, train: list[CaseFile], seed: int) -> _model.Model:
    """Return a model with the encoder's weights and a decoder drawn by seed."""
    if not train:
        raise UserError("there is no training case; check the data set's split and its excluded cases")
    plugin = plugins.get("encoders", loaded.kind)
    if wrong := [edge for edge in settings.patch if edge % plugin.multiple]:
        raise UserError(f"patch: {wrong[0]} is no multiple of {plugin.multiple}, as encoder '{loaded.kind}' needs")
    first = store.open_volume(train[0].label)
    labels = _labels(settings, first.meta)
    with seeds.seeded(seed, "decoder"):
        net = plugin.segmenter(plugin.Settings(**loaded.options), len(labels) + 1)
    weights.load_strict(net.encoder, loaded.module.state_dict(), "encoder of the segmenter")
    about = {"kind": loaded.kind, "options": loaded.options, "facts": loaded.facts}
    spacing = Volume(np.empty((0, 0, 0)), first.affine).spacing
    return _model.Model(net, about, loaded.preprocess, labels, settings.patch, settings.overlap, spacing)


def _trained(
    settings: Settings,
    model: _model.Model,
    train: list[CaseFile],
    val: list[CaseFile],
    out: Path,
    *,
    seed: int,
    frozen: bool,
    fingerprint: str,
) -> tuple[Segmentation, dict[str, Any]]:
    per_epoch = settings.steps_per_epoch or math.ceil(len(train) / settings.batch)
    recipe = _recipe(settings, per_epoch, seed, frozen)
    module = Segmentation(model.net, model.preprocess, model.spacing_mm, recipe)
    sharing = data.share(settings.batch, loop.devices(), machine().micro_batch)
    crops = LabelledCrops([Pair(c.case, c.image, c.label) for c in train], model.outputs, settings.patch, seed)

    def loader(first: int) -> Iterator[dict[str, Any]]:
        workers, pin = machine().loader_workers, torch.cuda.is_available()
        return data.batches(crops, sharing, first, recipe.steps, rank=loop.rank(), workers=workers, pin=pin)

    def validate(_: Any) -> dict[str, float]:
        return scores([row for case in val for row in _rows(settings, case, model.segment(case.image))])

    facts = loop.fit(
        module,
        loader,
        steps=recipe.steps,
        steps_per_epoch=per_epoch,
        folder=out,
        fingerprint=fingerprint,
        checkpoint_every=None,
        validate=validate if val else None,
        validate_every=settings.validate_every,
        best=MACRO if val else None,
        accumulate=sharing.accumulate,
    )
    return module, facts


def _fingerprint(settings: Settings, encoder: Path, cases: tuple[list[CaseFile], ...], seed: int, frozen: bool) -> str:
    """Return the digest of all that a training run depends on; a run with another one is not resumed."""
    return files.digest(
        {
            "settings": settings.model_dump(mode="json"),
            "encoder": files.sha256(encoder / weights.WEIGHTS),
            "cases": [[(c.case, store.open_volume(c.label).meta.get("key")) for c in part] for part in cases],
            "seed": seed,
            "frozen": frozen,
        }
    )


def _recipe(settings: Settings, per_epoch: int, seed: int, frozen: bool) -> Recipe:
    return Recipe(
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup_epochs * per_epoch,
        steps=settings.epochs * per_epoch,
        end=END_LEARNING_RATE,
        augment=settings.augment,
        seed=seed,
        frozen=frozen,
    )


def _keep(module: Segmentation, out: Path, name: str) -> str:
    """Take the best checkpoint's weights if validation gave one; return the name of the checkpoint taken."""
    path = out / "checkpoints" / name
    if not path.exists():
        return checkpoints.LAST
    module.load_state_dict(checkpoints.read(path)["state_dict"])
    return name


def _rows(settings: Settings, case: CaseFile, prediction: Volume) -> list[dict[str, Any]]:
    truth = store.open_volume(case.label)
    chosen = _labels(settings, truth.meta)
    counts = overlap.joint_histogram(truth.load().array, prediction.array)
    ids, groups = ({label["name"]: label[key] for label in chosen} for key in ("id", "group"))
    voxel_ml = math.prod(prediction.spacing) / 1000
    return [
        {"case_id": case.case, "patient": case.patient, **row} for row in overlap.rows(counts, ids, groups, voxel_ml)
    ]
