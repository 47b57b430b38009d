"""Task ``stability``: how alike frozen features of a scan and of its repetition are (paper, Extended Data Figure 7).

Nothing is trained. A case is a pair: its image is the first scan, its label file the second (as the data set ``rider``
has them). ``predict`` compares the pair patch by patch (``ctfm.embedding.pairs``): after rigid registration, as the
scanner placed both, and with the second scan of another patient. ``measure`` gives for each pair

- ``cosine_<comparison>`` and ``mse_<comparison>``: means over the patches that both scans show and that hold body;
- ``separation``: share of patches more like the repetition than like the other patient; ties count half. Cosines of two
  encoders can't be compared (without training they are near 1 everywhere), this can;
- ``ncc``, ``overlap``, ``translation_mm``, ``rotation_degrees`` of the registration; ``registration_failed``: 1 or 0;
- ``outlier``: 1 if the pair differs more than pairs do; ``note`` tells the likely cause.

No pair is left out: what could not be compared has no value, and says why.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from ctfm import files, logs, tables
from ctfm.config import Patches
from ctfm.errors import SCAN_FAULTS, UserError, told
from ctfm.imaging import pictures, registration, store
from ctfm.metrics import repeats
from ctfm.tasks import CaseFile, _scores, _vectors

TABLE, SUFFIX = "patch_pairs", ".patches.parquet"
COMPARISONS = ("registered", "unregistered", "random")
QUALITY = ("ncc", "overlap", "translation_mm", "rotation_degrees")


class Settings(Patches):
    """How scans are shown to the encoder, registered, and judged. Defaults: the paper's patches, without overlap."""

    overlap: float = Field(0.0, ge=0, lt=1, description="overlap of the patches")
    seed: int = Field(0, ge=0, description="of the registration's samples, and of which other patient is compared")
    least_common: float = Field(0.9, ge=0, le=1, description="share of a patch that both scans must show, to count")
    least_body: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of a patch that must be body (above -500 HU), to count: air is always alike",
    )
    least_ncc: float = Field(
        0.85,
        ge=-1,
        le=1,
        description="correlation of HU in the body, below which a registration has failed",
        json_schema_extra={"of": "evaluate"},
    )
    most_rotation_degrees: float = Field(
        20.0, gt=0, description="largest plausible rotation of a patient", json_schema_extra={"of": "evaluate"}
    )
    most_translation_mm: float = Field(
        200.0, gt=0, description="largest plausible translation of a patient, mm", json_schema_extra={"of": "evaluate"}
    )
    least_overlap: float = Field(
        0.8,
        ge=0,
        le=1,
        description="share of each scan's body in the other one, below which fields of view differ",
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
    frozen: object = False,
) -> dict[str, Any]:
    """Keep the encoder and the settings in ``out/model``; return facts for run.json. No argument but these counts."""
    from ctfm import weights  # torch: measuring needs none of it

    model = files.sha256(encoder / weights.WEIGHTS)
    shown = settings.model_dump(mode="json", include={*Patches.model_fields, "seed", "least_common", "least_body"})
    about = {"task": "stability", "encoder": encoder.name, "settings": shown}
    about["fingerprint"] = files.digest([about, model])
    folder = out / "model"
    shutil.rmtree(folder, ignore_errors=True)
    _vectors.link(encoder, folder / _vectors.ENCODER)
    files.write_json(about, folder / _vectors.ABOUT)
    facts = {"fingerprint": about["fingerprint"], "frozen": True, "model": model[:12]}
    return facts | {"train": [case.case for case in train], "val": [case.case for case in val]}


def predict(model: Path, cases: list[CaseFile], out: Path) -> None:
    """Compare the scans of each pair; write ``<case>.patches.parquet``. A pair that can't be used costs only itself."""
    from ctfm.embedding import encode, pairs  # torch

    settings = Settings(**files.read_json(model / _vectors.ABOUT)["settings"])
    encoder, least = encode.Encoder(model / _vectors.ENCODER), pairs.Least(settings.least_common, settings.least_body)
    done = [path.name.removesuffix(SUFFIX) for path in files.ensure_folder(out).glob(f"*{SUFFIX}")]
    other = ring([*done, *(case.case for case in cases)], settings.seed)
    for case in logs.progress(cases, "pairs", len(cases)):
        someone = case.label.with_name(case.label.name.replace(case.case, other[case.case], 1))
        with tempfile.TemporaryDirectory() as folder:
            try:
                sources = tuple(store.open_volume(path).meta.get("source", {}) for path in (case.image, case.label))
                repeat = pairs.Repeat(
                    case.image, case.label, someone if other[case.case] != case.case else None, sources
                )
                rows, facts = pairs.compare(
                    encoder, repeat, settings, Path(folder), case=case.case, least=least, seed=settings.seed
                )
            except SCAN_FAULTS as fault:
                rows, facts = tables.of(TABLE, []), {"unusable": "{reason}: {detail}".format(**told(fault))}
        tables.write(rows, TABLE, out / f"{case.case}{SUFFIX}", {**facts, "other": other[case.case]})


def ring(names: Sequence[str], seed: int) -> dict[str, str]:
    """Return for each name another one, drawn by seed: all of them in a ring, each with the next."""
    ordered = np.random.default_rng(seed).permutation(sorted(set(names))).tolist()
    return dict(zip(ordered, [*ordered[1:], *ordered[:1]], strict=True))


def measure(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return the rows of each pair (see above).

    Args:
        settings: what a good registration is.
        cases: the pairs; outliers are told among them.
        predictions: folder that ``predict`` wrote.

    Raises:
        UserError: the table of a pair is missing or damaged.
    """
    found = [(case, *read(predictions, case.case)) for case in cases]
    far = _far([rows for _, rows, _ in found])
    made: list[dict[str, Any]] = []
    for (case, rows, facts), outlier in zip(found, far, strict=True):
        row = {"case_id": case.case, "patient": case.patient, "label": "all", "group": "all"}
        made += [{**row, **told} for told in judged(means(rows), facts, settings, outlier=bool(outlier))]
    return made


def read(predictions: Path, case: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the rows of a pair and the facts beside them.

    Raises:
        UserError: they are missing or damaged.
    """
    path = predictions / f"{case}{SUFFIX}"
    rows, facts = tables.read(TABLE, path), tables.facts(path)
    if not np.isfinite(rows[["cosine", "mse"]].to_numpy(float)).all():
        raise UserError(f"{path}: embeddings are not finite; check the encoder")
    return rows, facts


def means(rows: pd.DataFrame) -> dict[str, float]:
    """Return the means of a pair over the patches that count, NaN where there is none, and the ``separation``."""
    parts = {name: own.set_index("patch") for name, own in rows[rows.counted.astype(bool)].groupby("comparison")}
    empty = tables.of(TABLE, []).set_index("patch")
    values = {
        f"{what}_{name}": float(parts[name][what].mean()) if name in parts else float("nan")
        for what in ("cosine", "mse")
        for name in COMPARISONS
    }
    steps = (parts.get("registered", empty).cosine - parts.get("random", empty).cosine).dropna().to_numpy(float)
    values["separation"] = float((np.sign(steps) + 1).mean() / 2) if len(steps) else float("nan")
    return values


def _far(pairs: Sequence[pd.DataFrame]) -> np.ndarray:
    """Return which pairs lie outside of the fences, by the median over their patches: a few at a rim decide nothing."""
    counted = [rows[rows.counted.astype(bool) & (rows.comparison == "registered")] for rows in pairs]
    alike, apart = ([rows[what].astype(float).median() for rows in counted] for what in ("cosine", "mse"))
    return repeats.outliers(alike, low=True) | repeats.outliers(apart, low=False)


def judged(
    values: dict[str, float], facts: dict[str, Any], settings: Settings, *, outlier: bool
) -> list[dict[str, Any]]:
    """Return metric, value and note of one pair.

    Args:
        values: of ``means``.
        facts: beside its rows.
        settings: what a good registration is.
        outlier: whether it differs more than pairs do.
    """
    limits = repeats.Limits(
        settings.least_ncc, settings.most_rotation_degrees, settings.most_translation_mm, settings.least_overlap
    )
    if "unusable" in facts:
        wrong, why, quality = [facts["unusable"]], [facts["unusable"]], {}
    else:
        quality = facts["registration"]
        wrong, why = repeats.faults(quality, limits), repeats.causes(facts, limits)
    rows = [{"metric": m, "value": v, "note": _missing(m, wrong) if np.isnan(v) else ""} for m, v in values.items()]
    rows += [{"metric": m, "value": float(quality.get(m, np.nan)), "note": ""} for m in QUALITY]
    rows.append({"metric": "registration_failed", "value": float(bool(wrong)), "note": ", ".join(wrong)})
    return [*rows, {"metric": "outlier", "value": float(outlier), "note": "; ".join(why) if outlier else ""}]


def _missing(metric: str, wrong: list[str]) -> str:
    """Say why a pair has no value."""
    if metric.endswith("_registered") or metric == "separation":
        return ", ".join(wrong) or "no patch that both scans show, or no other patient's scan"
    return (
        "no patch that both scans show" if metric.endswith("_unregistered") else "no other patient's scan at its place"
    )


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each measure over pairs, those without a value left out."""
    return _scores.means(rows)


def picture(settings: Settings, case: CaseFile, prediction: Path) -> Figure | None:
    """Draw coronal planes of a pair: the first scan, and how the second differs before and after registration."""
    facts = read(prediction, case.case)[1]
    matrix = facts.get("registration", {}).get("matrix")
    if matrix is None:
        return None
    first, second = (store.open_volume(path).load() for path in (case.image, case.label))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    z, _, x = first.spacing
    shown = {"first scan": first.array.astype(np.float32)}
    for title, place in (("difference as placed", np.eye(4)), ("difference after registration", np.asarray(matrix))):
        there = registration.moved(second, first.shape, first.affine, place).array
        shown[title] = there.astype(np.float32) - first.array
    for axis, (title, array) in zip(axes, shown.items(), strict=True):
        limits = pictures.WINDOW_HU if title == "first scan" else (-500.0, 500.0)
        axis.imshow(pictures.window(pictures.planes(array)[1], limits), cmap="gray", aspect=z / x, vmin=0, vmax=255)
        axis.set_title(title, fontsize=8)
        axis.set_axis_off()
    figure.suptitle(f"{case.case}: the second scan on the first", fontsize=9)
    return figure
