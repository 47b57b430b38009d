"""Task ``triage``: does a scan show anything abnormal; an encoder and a head, fine-tuned together (paper, Methods).

Windows of HU lie beside each other in one input. ``fit`` writes a model folder with a threshold that the validation
cases chose, ``predict`` a probability per case, ``measure`` that probability beside the truth and the threshold.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from ctfm import files, logs, weights
from ctfm.config import Augment, Range, Strict, Voxels
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.metrics import classify
from ctfm.metrics.decisions import PROBABILITY, TARGET, THRESHOLD
from ctfm.tasks import CaseFile, _classifier, _fitting
from ctfm.training import loop, sampling, seeds
from ctfm.training.classification import Classification, Classifier, Scans, Windows, middle
from ctfm.training.pool import Pool

AUROC = "auroc"
SUMMARY = "decisions"  # what sums up its values: a module of ctfm.metrics
AXES = {"z": 0, "x": 2}

log = logging.getLogger(__name__)


class Settings(Strict):
    """Recipe of the fine-tuning. Defaults: the paper's Methods."""

    windows: tuple[Range, ...] = Field(
        ((40, 80), (25, 300), (32, 8), (600, 3000)),
        min_length=1,
        description="level and width of each window, HU; the paper's: blood, subdural, stroke, bone",
    )
    own_window: tuple[str, ...] = Field(
        ("suprem_segresnet", "suprem_unet"),
        description="architectures whose input holds the window of their own pre-training too, as one more part",
    )
    join: Literal["width", "first"] = Field(
        "width",
        description="windows lie beside each other along left-right; first: along the first axis that the weights saw, "
        "which is that of the slices for CT-FM",
    )
    patch: Voxels = Field((48, 128, 128), description="middle of the scan (z, y, x), voxels; padded with air")
    pool: Literal["average", "max"] = Field("average", description="pooling of the coarsest map")
    pooled: Voxels = Field((1, 1, 1), description="size of the map after pooling (z, y, x)")
    hidden: tuple[int, ...] | None = Field(
        None, description="widths of the head's layers before the last; null: one, half as wide as the pooled map"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout after each of these layers")
    epochs: int = Field(40, ge=1, description="passes over the training cases")
    steps_per_epoch: int | None = Field(None, ge=1, description="null: as many as the cases fill")
    batch: int = Field(
        64, ge=1, description="scans in one optimiser step, over all devices; the paper: 16 on each of 4"
    )
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(1e-5, ge=0, description="weight decay")
    warmup_epochs: float = Field(0, ge=0, description="epochs of linear warm-up, counted in steps")
    warmup_start: float = Field(0.1, ge=0, le=1, description="learning rate before warm-up, share of the peak")
    final_rate: float = Field(0.01, ge=0, le=1, description="learning rate at the end, share of the peak")
    freeze: bool = Field(False, description="only the head learns, on the encoder's fixed features")
    augment: Augment = Field(
        Augment(resized_crop=(1.0, 1.0), affine_p=0.2),
        description="random views, of each window before they are joined",
    )
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    validation_ratio: float | None = Field(
        None, gt=0, description="at most so many validation cases for each training case, drawn by seed 0; null: all"
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
) -> dict[str, Any]:
    """Train, or go on where an earlier start stopped, and write ``out/model``; returns facts for run.json.

    The model is that of the highest AUROC on the validation cases, and the threshold that of the highest F1 there;
    without such cases the model is the last one, and it has no threshold.

    Args:
        settings: the recipe.
        encoder: folder of the encoder's weights (see ``ctfm.weights``).
        train: training cases.
        val: validation cases, may be empty.
        out: gets ``model/``, ``checkpoints/`` and ``metrics.csv``.
        seed: of the head's weights, the order and the views.
        frozen: train the head alone. Every scan is one fixed crop, so a pool adds nothing.

    Raises:
        UserError: the encoder, the cases or the settings don't fit.
    """
    if not train:
        raise UserError("there is no training case; check the data set's split and its excluded cases")
    val = _validation(settings, len(train), val)
    targets = {case.case: _target(case) for case in [*train, *val]}
    if len({targets[case.case] for case in train}) < 2:
        log.warning("all %d training cases are of one class: nothing can be learnt from them", len(train))
    model = _new(settings, weights.load_encoder(encoder), train[0], seed)
    run = _fitting.Run(settings, encoder, tuple(train), tuple(val), seed, bool(frozen or settings.freeze))
    return _trained(run, model, targets, out) | {"train": [c.case for c in train], "val": [c.case for c in val]}


def _validation(settings: Settings, train: int, val: list[CaseFile]) -> list[CaseFile]:
    if not settings.validation_ratio or not val:
        return val
    return sampling.few_shot(val, min(len(val), max(1, int(train * settings.validation_ratio))), 0, "validation")


def _trained(run: _fitting.Run, model: _classifier.Model, targets: dict[str, int], out: Path) -> dict[str, Any]:
    """Train a model and write it with its threshold; return facts."""
    truth = np.array([targets[case.case] for case in run.val])

    def said() -> np.ndarray:
        return np.array([model.probability(case.image) for case in run.val])

    module = Classification(model.net, model.windows, model.spacing_mm, run.recipe(), targets)
    scans = Scans([(case.case, case.image) for case in run.train], model.patch, run.seed)
    validate = (lambda _: {AUROC: classify.auc(truth, said()).estimate}) if run.val else None
    facts = _fitting.fitted(run, module, _fitting.new_crops(scans), out, validate, AUROC)
    threshold = None
    if loop.rank() == 0:
        threshold = classify.best_threshold(truth, said()) if run.val else None
        _classifier.save(model, out / "model", {key: facts[key] for key in _fitting.TAKEN}, threshold)
    shape = {"patch": list(model.patch), "spacing_mm": list(model.spacing_mm), "threshold": threshold}
    return facts | shape | {"preprocess": model.preprocess.model_dump(mode="json"), "windows_hu": model.windows.limits}


def predict(model: Path, cases: list[CaseFile], out: Path) -> None:
    """Write ``out/<case>.json``: ``probability``, ``threshold`` (null: there is none) and ``finding``.

    Args:
        model: folder that ``fit`` wrote.
        cases: of each, only the image is read.
        out: folder of the answers.
    """
    loaded, threshold = _classifier.load(model)
    for case in logs.progress(cases, "predictions", len(cases)):
        found = {"finding": loaded.finding, PROBABILITY: loaded.probability(case.image), THRESHOLD: threshold}
        files.write_json(found, out / f"{case.case}.json")


def measure(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return three rows of each case: its probability, its target (1: abnormal) and the model's threshold.

    Args:
        settings: not used; what comes of the probabilities is summed up over all cases (``metrics.decisions``).
        cases: with their truth.
        predictions: folder that ``predict`` wrote.

    Raises:
        UserError: a prediction is missing, or is none.
    """
    rows = []
    for case in cases:
        found = _answer(case, predictions)
        threshold = np.nan if found[THRESHOLD] is None else float(found[THRESHOLD])
        values = {PROBABILITY: found[PROBABILITY], TARGET: float(_target(case)), THRESHOLD: threshold}
        fixed = {"case_id": case.case, "patient": case.patient, "label": found["finding"], "group": "all", "note": ""}
        rows += [{**fixed, "metric": metric, "value": value} for metric, value in values.items()]
    return rows


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the AUROC of the rows of ``measure``."""
    by_metric = {
        metric: np.array([row["value"] for row in rows if row["metric"] == metric]) for metric in (TARGET, PROBABILITY)
    }
    return {AUROC: classify.auc(by_metric[TARGET], by_metric[PROBABILITY]).estimate}


def picture(settings: Settings, case: CaseFile, prediction: Path) -> Figure | None:
    """Draw the windows of a case at the middle slice, with what was said of it and the truth."""
    found, hu = _answer(case, prediction), middle(case.image, settings.patch)
    parts = _windows(settings, None).parts(hu[None])[0]
    figure = Figure(figsize=(2 * len(parts), 2.4), layout="constrained", facecolor="white")
    row = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, part, (level, width) in zip(row, parts, settings.windows, strict=True):
        axes.imshow(part[len(part) // 2], cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"level {level:g}, width {width:g} HU", fontsize=7)
        axes.set_axis_off()
    truth = found["finding"] if _target(case) else f"not {found['finding']}"
    figure.suptitle(f"{case.case}: {found['finding']} with probability {found[PROBABILITY]:.3f}; {truth}", fontsize=8)
    return figure


def _new(settings: Settings, loaded: weights.Loaded, first: CaseFile, seed: int) -> _classifier.Model:
    """Return a model with the encoder's weights, and a head drawn by seed; its spacing is that of a training case."""
    head: dict[str, Any] = settings.model_dump(include={"pool", "pooled", "hidden", "dropout"})
    with seeds.seeded(seed, "decoder"):
        net = Classifier(loaded.module, **head)
    about = {"kind": loaded.kind, "options": loaded.options, "facts": loaded.facts}
    spacing = store.open_volume(first.image).spacing
    _fitting.tell_spacing(loaded.preprocess.spacing_mm, spacing)
    windows, (finding, *_) = _windows(settings, loaded), store.open_volume(first.label).meta["ids"]
    return _classifier.Model(net, about, loaded.preprocess, head, windows, finding, settings.patch, spacing)


def _windows(settings: Settings, loaded: weights.Loaded | None) -> Windows:
    limits = [(level - width / 2, level + width / 2) for level, width in settings.windows]
    first = "z"
    if loaded:
        limits += [loaded.preprocess.hu_window] if loaded.kind in settings.own_window else []
        first = "x" if loaded.preprocess.orientation == "RAS" else "z"
    return Windows(tuple(limits), AXES["x" if settings.join == "width" else first])


def _target(case: CaseFile) -> int:
    """Return 1 if the scan shows anything, by the meta of its stored volume."""
    meta = store.open_volume(case.label).meta
    if "findings" not in meta:
        raise UserError(f"{case.case}: its data set has label maps, not findings; name one such as 'sinoct'")
    return int(bool(meta["findings"]))


def _answer(case: CaseFile, folder: Path) -> dict[str, Any]:
    path = files.need_file(folder / f"{case.case}.json", "predict this case first")
    found = files.read_json(path)
    p = found.get(PROBABILITY) if isinstance(found, dict) else None
    if not isinstance(p, float | int) or not 0 <= p <= 1:
        raise UserError(f"{path}: not the prediction of {case.case}; predict it anew")
    return found
