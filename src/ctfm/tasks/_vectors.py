"""What retrieval and clustering share: every scan to one vector, kept with what is known of the scan.

Nothing is trained. A folder of vectors has one table ``embeddings`` for each way in which the patches of a scan become
one vector (``<aggregation>.parquet``), and ``cases.json``: patient and cohorts of each scan. Scans that are no CT in HU
(the cubes of OrganMNIST3D) are shown to the encoder whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctfm import files, logs, tables
from ctfm.config import Embed, Patches
from ctfm.embedding import read
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.tasks import CaseFile

AGGREGATIONS = ("min", "mean", "max")
ABOUT, CASES, ENCODER, TABLE = "model.json", "cases.json", "encoder", "embeddings"


@dataclass(frozen=True)
class Vectors:
    """The scans of a folder, in one order.

    Attributes:
        cases: their names.
        about: of each, ``patient`` and ``cohorts`` (see ``ctfm.datasets.Case``).
        arrays: (scans, channels) by aggregation.
    """

    cases: list[str]
    about: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


def fit(
    task: str, settings: Patches, encoder: Path, train: list[CaseFile], val: list[CaseFile], out: Path, **more: Any
) -> dict[str, Any]:
    """Embed cases into ``out/model``, unless the same is there already; the encoder is kept with them.

    Args:
        task: name of the kind of task.
        settings: how the encoder is shown a scan.
        encoder: folder of its weights.
        train: training cases.
        val: validation cases, embedded too.
        out: gets ``model``.
        more: further settings that ``predict`` needs.

    Returns:
        Facts for run.json.

    Raises:
        UserError: there is no case, or its data set has no cohorts.
    """
    cases = [*train, *val]
    if not cases:
        raise UserError("there is no case to search in; check the data set's split and its excluded cases")
    from ctfm import weights  # torch: measuring needs none of it

    shown = Embed(**settings.model_dump(include=set(Patches.model_fields)))
    known = [[case.case, store.open_volume(case.image).meta.get("key")] for case in cases]
    model = files.sha256(encoder / weights.WEIGHTS)
    about = {"task": task, "encoder": encoder.name, "embed": shown.model_dump(mode="json"), **more}
    about["fingerprint"] = files.digest([about, known, model])
    folder = out / "model"
    if not (folder / ABOUT).is_file() or files.read_json(folder / ABOUT) != about:
        shutil.rmtree(folder, ignore_errors=True)
        link(encoder, folder / ENCODER)
        _embed(folder / ENCODER, encoder.name, shown, cases, folder)
        files.write_json(about, folder / ABOUT)
    facts = {"fingerprint": about["fingerprint"], "frozen": True, "model": model[:12], "searched": len(cases)}
    return facts | {"train": [case.case for case in train], "val": [case.case for case in val]}


def predict(model: Path, cases: Sequence[CaseFile], out: Path) -> dict[str, Any]:
    """Embed cases and write them to ``out`` with those of ``fit``; return what model.json says."""
    about = files.read_json(model / ABOUT)
    with tempfile.TemporaryDirectory(dir=files.ensure_folder(out)) as folder:
        new, known = Path(folder), files.read_json(model / CASES)
        todo = [case for case in cases if case.case not in known]
        _embed(model / ENCODER, about["encoder"], Embed(**about["embed"]), todo, new)
        known |= files.read_json(new / CASES)
        for aggregation in AGGREGATIONS:
            parts = [tables.read(TABLE, part / f"{aggregation}.parquet") for part in (model, new)]
            filled = [part for part in parts if len(part)]
            tables.write(pd.concat(filled, ignore_index=True), TABLE, out / f"{aggregation}.parquet")
        files.write_json(known, out / CASES)
    return about


def load(folder: Path) -> Vectors:
    """Read what ``predict`` wrote.

    Raises:
        UserError: a file is missing or malformed, or an embedding holds values that are not finite.
    """
    about = files.read_json(files.need_file(folder / CASES, "run 'ctfm adapt' first"))
    arrays: dict[str, np.ndarray] = {}
    for aggregation in AGGREGATIONS:
        table = tables.read(TABLE, folder / f"{aggregation}.parquet").set_index("case")["embedding"]
        try:
            array = np.stack([np.asarray(table[case], float) for case in about])
        except (KeyError, ValueError) as error:
            raise UserError(f"{folder / aggregation}.parquet: not one vector for each scan; run adapt anew") from error
        if not np.isfinite(array).all():
            bad = list(about)[int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])]
            raise UserError(f"{folder / aggregation}.parquet: the vector of '{bad}' is not finite; check the encoder")
        arrays[aggregation] = array
    return Vectors(list(about), list(about.values()), arrays)


def _embed(encoder: Path, name: str, settings: Embed, cases: Sequence[CaseFile], out: Path) -> None:
    """Write one table for each aggregation, and ``cases.json``."""
    known = {case.case: {"patient": case.patient, "cohorts": _cohorts(case)} for case in cases}
    rows: dict[str, list[pd.DataFrame]] = {aggregation: [] for aggregation in AGGREGATIONS}
    for found in _rows(encoder, name, settings, cases):
        for aggregation, table in found.items():
            rows[aggregation].append(table)
    for aggregation, parts in rows.items():
        joined = pd.concat(parts, ignore_index=True) if parts else tables.of(TABLE, [])
        tables.write(joined, TABLE, out / f"{aggregation}.parquet")
    files.write_json(known, out / CASES)


def _rows(encoder: Path, name: str, settings: Embed, cases: Sequence[CaseFile]) -> Iterator[dict[str, pd.DataFrame]]:
    """Yield the row of each case by aggregation."""
    from ctfm.embedding import encode, pool, table  # torch

    used = encode.Encoder(encoder)
    for case in logs.progress(cases, "scans", len(cases)):
        with tempfile.TemporaryDirectory() as folder:
            scan = read.prepare(case.image, used.preprocess, Path(folder), crop=settings.crop)
            shown = settings.model_copy(update={"patch": scan.shape}) if scan.is_unit else settings
            found = used.embed_scan(scan, shown)
        common = {"encoder": name, **used.identity, "sha256": read.checksum(case.image)}
        vectors = {how: pool.OVER_PATCHES[how](found.patches) for how in AGGREGATIONS}
        yield {how: table.rows(case.case, replace(found, vector=v), common) for how, v in vectors.items()}


def _cohorts(case: CaseFile) -> dict[str, Any]:
    cohorts = store.open_volume(case.label).meta.get("cohorts")
    if not cohorts:
        raise UserError(
            f"case '{case.case}': its data set does not say what is alike; take one with cohorts, such as of the kind "
            "'organmnist3d' or 'mir3d'"
        )
    return cohorts


def link(encoder: Path, folder: Path) -> None:
    """Put an encoder's files into a folder, without a second copy where the disk allows that."""
    from ctfm import weights  # torch

    files.ensure_folder(folder)
    for name in (weights.CONFIG, weights.PREPROCESSING, weights.CARD, weights.WEIGHTS):
        if (encoder / name).is_file():
            try:
                os.link(encoder / name, folder / name)
            except OSError:
                shutil.copyfile(encoder / name, folder / name)
