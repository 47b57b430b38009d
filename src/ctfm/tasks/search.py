"""Task ``search``: where in a scan it looks like an organ of another one (paper, Figure 6b and c).

Nothing is trained. ``fit`` draws scans of the training and validation splits that ask: for each organ, the patch around
its centroid. ``predict`` embeds all patches of each target once and keeps, for every query, the one that is most alike.
``measure`` tells how near that is to the organ (``ctfm.metrics.centroid``). Of several queries a target has the mean.

The scans that may ask stand in one random order, the same for every encoder, and each organ takes the first that show
it: most organs are asked for by the same few scans. A scan that can't be used as query is passed over; a target that
can't be searched has one row ``failed`` that says why (``<case>.failed.json`` in the folder of predictions).
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from ctfm import files, logs, tables
from ctfm.config import Millimetres, Patches
from ctfm.errors import SCAN_FAULTS, Quarantine, UserError, nearest, told
from ctfm.imaging import store
from ctfm.metrics import centroid, localisation
from ctfm.tasks import CaseFile, _heat, _scores, _vectors
from ctfm.tasks._heat import Matches

SUMMARY = "localisation"  # the module of ctfm.metrics that sums up
ABOUT, QUERIES, PATIENTS, TARGETS = "model.json", "queries.parquet", "queries.json", "targets"
FAILED = ".failed.json"

log = logging.getLogger(__name__)


class Settings(Patches):
    """Who asks for what, and how scans are shown to the encoder."""

    organs: tuple[str, ...] = Field((), description="names of labels or of groups; empty: all of the data set")
    queries: int = Field(5, ge=1, description="scans that ask for each organ, drawn by the run's seed")
    scans: tuple[str, ...] = Field((), description="cases that ask, in place of a draw")
    targets: Literal["test", "all"] = Field(
        "test", description="scans that are searched; all: as published, those of training and validation too"
    )
    spacing_mm: Millimetres | None = Field(None, description="(z, y, x) of what is searched; null: the encoder's own")
    orientation: Literal["own", "RAS"] = Field(
        "own", description="RAS: the encoder sees axes that run to R, A, S, as in the published run, whatever it learnt"
    )
    shown: tuple[str, ...] = Field(("heart", "kidney_left"), description="organs that figures show, where there are")


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
    """Embed the queries into ``out/model``, unless the same are there already; returns facts for run.json.

    Args:
        settings: who asks for what.
        encoder: folder of its weights.
        train: scans that may ask.
        val: further ones.
        out: gets ``model``.
        seed: of the order of the scans that may ask.
        frozen: changes nothing.

    Raises:
        UserError: there is no case or no label map, an organ or a named scan is unknown, or nothing can ask.
    """
    pool = [*train, *val]
    if not pool:
        raise UserError("there is no case that could ask; check the data set's split and its excluded cases")
    about = _about(settings, encoder, pool, seed)
    folder = out / "model"
    if not (folder / ABOUT).is_file() or files.read_json(folder / ABOUT) != about:
        shutil.rmtree(folder, ignore_errors=True)
        _vectors.link(encoder, folder / _vectors.ENCODER)
        _ask(settings, _order(settings, pool, seed), encoder.name, folder)
        files.write_json(about, folder / ABOUT)
    if settings.targets == "all":
        _search(folder, pool, folder / TARGETS)
    asked = files.read_json(folder / PATIENTS)
    facts = {"fingerprint": about["fingerprint"], "frozen": True, "model": about["model"]}
    facts |= {"queries": sorted(asked["patients"]), "refused": asked["refused"]}
    return facts | {"train": [case.case for case in train], "val": [case.case for case in val]}


def predict(model: Path, cases: list[CaseFile], out: Path) -> None:
    """Search in cases: ``out`` gets ``<case>.parquet``, or ``<case>.failed.json`` of what can't be searched."""
    _search(model, cases, out)


def measure(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return the rows of each target (``ctfm.metrics.centroid``); of one that could not be searched, a row ``failed``.

    Args:
        settings: the organs to measure.
        cases: with their label maps.
        predictions: folder that ``predict`` wrote.

    Raises:
        UserError: a case was not predicted, or an organ is unknown.
    """
    made: list[dict[str, Any]] = []
    targets = [(case, predictions) for case in cases] + _others(cases, predictions.parent / "model" / TARGETS)
    for case, folder in logs.progress(targets, "measuring", len(targets)):
        made += [{"case_id": case.case, "patient": case.patient, **row} for row in _rows(settings, case, folder)]
    return made


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the means of distance and ``inside`` over all targets, organs and queries."""
    return _scores.means(rows, lambda metric: metric in localisation.COMPARED)


def picture(settings: Settings, case: CaseFile, prediction: Path) -> Figure | None:
    """Draw the query and, on the case, the heat of its similarity and the best match; None without such an organ."""
    return _heat.draw(settings.shown, case, prediction)


def slices(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return planes of a query and of one target for each organ to show, for figures; see ``_heat.rows``."""
    return _heat.rows(settings.shown, cases, predictions)


def organs_of(settings: Settings, case: CaseFile) -> list[dict[str, Any]]:
    """Return name, id and group of the organs to search for, by id.

    Raises:
        UserError: one is unknown, or the data set has no label maps.
    """
    from ctfm.tasks import segment  # torch

    meta = store.open_volume(case.label).meta
    if "ids" not in meta:
        raise UserError(f"case '{case.case}': its data set has no label maps; take one like 'totalsegmentator'")
    return segment.labels_of(settings.organs, meta)


def _about(settings: Settings, encoder: Path, pool: list[CaseFile], seed: int) -> dict[str, Any]:
    """Return what the queries follow from; its ``fingerprint`` stands for all of it."""
    from ctfm import weights  # torch

    model = files.sha256(encoder / weights.WEIGHTS)[:12]
    about = {"task": "search", "encoder": encoder.name, "model": model, "seed": seed}
    about |= {"search": settings.model_dump(mode="json")}
    return about | {"fingerprint": files.digest([about, [[case.case, _key(case)] for case in pool]])}


def _order(settings: Settings, pool: list[CaseFile], seed: int) -> list[CaseFile]:
    """Return the scans that may ask, in the order in which organs take them."""
    known = {case.case: case for case in sorted(pool, key=lambda case: case.case)}
    if unknown := [name for name in settings.scans if name not in known]:
        raise UserError(
            f"scans: '{unknown[0]}' is no case of the training or validation split{nearest(unknown[0], known)}"
        )
    names = list(known)
    return [known[name] for name in settings.scans or np.random.default_rng(seed).permutation(names).tolist()]


def _ask(settings: Settings, order: list[CaseFile], encoder: str, folder: Path) -> None:
    """Write the embedding of each query, and whose they are."""
    from ctfm.tasks import _finding  # torch

    used = _finding.encoder(folder / _vectors.ENCODER, settings)
    rows: list[dict[str, Any]] = []
    patients: dict[str, str] = {}
    refused, counts = {}, Counter[str]()
    for case in order:
        try:
            wanted = [one for one in organs_of(settings, case) if counts[one["name"]] < _most(settings)]
            shown = centroid.locate(store.open_volume(case.label).load(), {one["name"]: one["id"] for one in wanted})
            points = {name: organ.centroid_mm for name, organ in shown.items()}
            found = _finding.queries(used, settings, case, points) if points else []
        except SCAN_FAULTS as fault:
            refused[case.case] = told(fault)
            log.warning("%s can't ask: %s", case.case, refused[case.case])
            continue
        if not wanted:
            break
        rows += [{**row, "encoder": encoder} for row in found]
        counts.update(row["label"] for row in found)
        patients |= {case.case: case.patient} if found else {}
    if not rows:
        raise UserError(f"none of {len(order)} scans can ask for an organ: {refused or 'none of them shows it'}")
    short = sum(count < _most(settings) for count in counts.values())
    log.info("%d organs, asked for by %d scans; %d by fewer than wanted", len(counts), len(patients), short)
    tables.write(tables.of("embeddings", rows), "embeddings", folder / QUERIES)
    files.write_json({"patients": patients, "refused": refused}, folder / PATIENTS)


def _most(settings: Settings) -> int:
    return len(settings.scans) or settings.queries


def _search(model: Path, cases: list[CaseFile], out: Path) -> None:
    """Write the matches of each case that has none yet; one that can't be searched leaves why."""
    from ctfm.tasks import _finding  # torch

    files.ensure_folder(out)
    settings = Settings(**files.read_json(model / ABOUT)["search"])
    queries = tables.read("embeddings", model / QUERIES)
    patients = files.read_json(model / PATIENTS)["patients"]
    used = _finding.encoder(model / _vectors.ENCODER, settings)
    todo = [case for case in cases if not _heat.path(out, case.case).is_file()]
    for case in logs.progress(todo, "scans searched", len(todo)):
        own = queries[queries["case"].map(patients) != case.patient]
        failed = out / f"{case.case}{FAILED}"
        failed.unlink(missing_ok=True)
        try:
            _finding.search(used, settings, case, own, _heat.path(out, case.case))
        except SCAN_FAULTS as fault:
            files.write_json({"patient": case.patient, **told(fault)}, failed)
            log.warning("%s can't be searched: %s", case.case, told(fault))


def _rows(settings: Settings, case: CaseFile, predictions: Path) -> Iterator[dict[str, Any]]:
    failed = predictions / f"{case.case}{FAILED}"
    if failed.is_file():
        why = files.read_json(failed)
        note = f"{why['reason']}: {why['detail']}"
        yield {"label": "", "group": "", "metric": "failed", "value": float("nan"), "note": note}
        return
    found = Matches(predictions, case.case)
    label = store.open_volume(case.label).load()
    yield from centroid.rows(label, organs_of(settings, case), found.points, found.searched)


def _others(cases: list[CaseFile], folder: Path) -> list[tuple[CaseFile, Path]]:
    """Return the targets that ``fit`` searched, which are no test cases; their volumes lie beside those of the others.

    Further data sets have none: their folder of predictions is not beside the model.
    """
    made, known = [], {case.case for case in cases}
    searched = {path.stem: Matches(folder, path.stem).patient for path in folder.glob("*.parquet")}
    failed = {path.name.removesuffix(FAILED): files.read_json(path)["patient"] for path in folder.glob(f"*{FAILED}")}
    for name, patient in sorted({**searched, **failed}.items()):
        if name not in known:
            at = cases[0].image.with_name(f"{name}.b2nd")
            made.append((CaseFile(name, patient, at, at.with_name(f"{name}_label.b2nd")), folder))
    return made


def _key(case: CaseFile) -> str | None:
    """Return what tells stored scans apart; of a damaged one nothing, for the search will say so."""
    try:
        return store.open_volume(case.image).meta.get("key")
    except Quarantine:
        return None
