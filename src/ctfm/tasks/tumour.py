"""Task ``tumour``: segment tumours and the organ that they are in, as Auto3DSeg's algorithm ``segresnet`` would.

Two engines, the same outputs. ``native``: the fine-tuning of task ``segment``, at the spacing, with the window of
voxels, the range of HU and the epochs that follow from MONAI's analysis of the training cases (``_analysis``).
``auto3dseg``: MONAI's own runner with its own template (``_auto3dseg``). Cases are stored on their own grids; models
work at one spacing, and what they predict is measured on the case's own grid.
"""

from __future__ import annotations

import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from pydantic import Field

from ctfm import files, logs
from ctfm.config import SEGMENTATION_AUGMENT, Augment, Finetuning, Millimetres, Range, Voxels
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.metrics import lesions, overlap
from ctfm.tasks import CaseFile, _analysis, _auto3dseg, _grids, _measure, _model, _slices, segment
from ctfm.training import loop
from ctfm.training.pool import Pool

ANALYSED = {"analysis": _analysis.REPORT}


class Settings(Finetuning):
    """Recipe of the fine-tuning. Defaults: those of Auto3DSeg's segresnet, which the paper used."""

    engine: Literal["native", "auto3dseg"] = Field(
        "native",
        description="native: our fine-tuning with the parameters that Auto3DSeg derives; auto3dseg: MONAI's own",
    )
    tumour: str = Field(
        "tumour",
        description="label or group whose surfaces, lesions and volumes are measured",
        json_schema_extra={"of": "evaluate"},
    )
    spacing_mm: Millimetres | None = Field(None, description="(z, y, x) that the model works at, mm; null: derived")
    patch: Voxels | None = Field(None, description="crop and inference window (z, y, x), voxels; null: derived")
    hu_window: Range | Literal["encoder"] | None = Field(
        None, description="HU mapped to 0 and to 1; encoder: what its weights saw; null: derived"
    )
    epochs: int | None = Field(None, ge=1, description="passes over the training cases; null: derived")
    batch: int = Field(1, ge=1, description="crops in one optimiser step, over all devices")
    augment: Augment = Field(
        SEGMENTATION_AUGMENT.model_copy(update={"flip_p": (0.5, 0.5, 0.5)}), description="random views of the crops"
    )
    lesion_overlap: float = Field(
        0.1,
        gt=0,
        le=1,
        description="share of a lesion that must be predicted for it to be found, and of a predicted one to be true",
        json_schema_extra={"of": "evaluate"},
    )
    templates: str | None = Field(
        None, description="auto3dseg: folder of MONAI's algorithm templates, or the address of their archive"
    )
    templates_sha256: str | None = Field(None, description="auto3dseg: checksum that pins the archive's version")


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
    """Analyse the training cases, train, and write ``out/model``; returns facts for run.json.

    Args:
        settings: the recipe.
        encoder: folder of the encoder's weights.
        train: training cases.
        val: validation cases, may be empty.
        out: gets ``model/`` and the report of the analysis, ``datastats.yaml``; else as of task ``segment``.
        seed: of the decoder's weights, the crops and their views.
        frozen: as of task ``segment``.

    Raises:
        UserError: the encoder, the cases or the settings don't fit, or the templates can't be had.
    """
    if not train:
        raise UserError("there is no training case; check the data set's split and its excluded cases")
    derived = plan(settings, _analysis.analysed(train, out))
    if settings.engine == "auto3dseg":
        if frozen or settings.freeze:
            raise UserError("engine: 'auto3dseg' trains the whole net; take 'native' to keep the encoder as it is")
        return _auto3dseg.fit(settings, derived, encoder, train, val, out, seed=seed) | ANALYSED
    options = {name: getattr(settings, name) for name in Finetuning.model_fields}
    window = None if settings.hu_window == "encoder" else derived.hu_window
    recipe = segment.Settings(**{**options, "patch": derived.patch, "epochs": derived.epochs, "hu_window": window})
    at, work = partial(_grids.resampled, spacing_mm=derived.spacing_mm, folder=out / "resampled"), out / "resampled"
    facts = segment.fit(recipe, encoder, at(train), at(val), out, seed=seed, frozen=frozen, task="tumour")
    if loop.rank() == 0:
        shutil.rmtree(work, ignore_errors=True)
    return facts | ANALYSED | {"epochs": derived.epochs, "hu_window": facts["preprocess"]["hu_window"]}


def plan(settings: Settings, derived: _analysis.Derived) -> _analysis.Derived:
    """Return the derived parameters, those in place that the settings give."""
    own = {name: getattr(settings, name) for name in derived._fields}
    return derived._replace(**{name: value for name, value in own.items() if value not in (None, "encoder")})


def predict(model: Path, cases: list[CaseFile], out: Path) -> None:
    """Write ``out/<case>.nii.gz``, the label map in ids of the data set on the grid of the stored case.

    Args:
        model: folder that ``fit`` wrote.
        cases: of each, only the image is read.
        out: folder of the label maps; gets ``labels.json`` too.
    """
    about = files.read_json(model / _model.ABOUT)
    (_auto3dseg if about.get("engine") == "auto3dseg" else segment).predict(model, cases, out)


def measure(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return Dice and its companions of each label; of the tumour distances of surfaces, lesions and volumes too.

    Args:
        settings: which label is the tumour, and how lesions are matched.
        cases: with their truth.
        predictions: folder that ``predict`` wrote.

    Raises:
        UserError: a prediction is missing, damaged, on another grid or of other labels.
    """
    rows = []
    for case in logs.progress(cases, "measuring", len(cases)):
        meta = store.open_volume(case.label).meta
        chosen = {label["name"] for label in segment.labels_of((settings.tumour,), meta)}
        beside = [_of(chosen, measure) for measure in (_measure.surfaces(settings.tolerance_mm), _lesions(settings))]
        found = _measure.read_prediction(case, predictions)
        rows += _measure.rows(case, found, segment.labels_of((), meta), *beside)
    return rows


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean Dice: over all labels (macro), of labels pooled (micro), and of the tumour alone."""
    tumours = {row["label"] for row in rows if row["metric"] == "lesions_found"}
    return segment.scores(rows) | {"tumour_dice": overlap.macro([row for row in rows if row["label"] in tumours])}


def picture(settings: Settings, case: CaseFile, prediction: Path) -> Figure | None:
    """Draw CT, truth and prediction of a case; ``prediction`` is the folder that ``predict`` wrote."""
    return segment.picture(segment.Settings(), case, prediction)


def slices(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return the planes through the tumour of one case, the one of median volume: the truth alone decides which."""
    return _slices.rows(settings.tumour, cases, predictions)


def _of(names: set[str], measure: _measure.Measure) -> _measure.Measure:
    """Return a measure of some labels alone."""

    def some(truth: Any, given: Any, ids: dict[str, int], groups: Any, spacing: Any) -> _measure.Rows:
        return measure(truth, given, {name: i for name, i in ids.items() if name in names}, groups, spacing)

    return some


def _lesions(settings: Settings) -> _measure.Measure:
    def found(truth: Any, given: Any, ids: Any, groups: Any, spacing: Any) -> _measure.Rows:
        return lesions.rows(truth, given, ids, groups, math.prod(spacing) / 1000, settings.lesion_overlap)

    return found
