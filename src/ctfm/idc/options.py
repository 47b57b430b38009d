"""The steps of a selection: their names in the funnel, the settings that govern them, and the query's parameters."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import duckdb
import pandas as pd

from ctfm import resources
from ctfm.config import Corpus, Criteria
from ctfm.errors import UserError, nearest
from ctfm.idc.source import Source

log = logging.getLogger(__name__)

# The index calls raw data and screen captures CT too; only this class of object is a scan.
SOP_CLASSES = {"CT": "CT Image Storage"}
KEPT, DOWNSTREAM = 99, 10
NAMED = ("collections", "exclude_collections", "series")


class Step(NamedTuple):
    """One step of the funnel: its number in select_index.sql, its name, and the settings that govern it."""

    number: int
    name: str
    keys: str


def downstream() -> pd.DataFrame:
    """Return the collections that downstream evaluations use: ``collection_id``, ``used_for``."""
    return pd.read_csv(resources.path("downstream.csv"))


def check_names(connection: duckdb.DuckDBPyConnection, corpus: Corpus, where: str) -> None:
    """Check that the collections and series that a corpus names are in the view ``source``.

    Raises:
        UserError: a collection to take is not; anything else is warned about.
    """
    if corpus.collections or corpus.exclude_collections:
        known = {row[0] for row in connection.execute("SELECT DISTINCT collection_id FROM source").fetchall() if row[0]}
        for name in corpus.collections:
            if name not in known:
                raise UserError(f"{where}.collections: '{name}' is not in the index{nearest(name, known)}")
        for name in sorted(set(corpus.exclude_collections) - known):
            log.warning("%s.exclude_collections: '%s' is not in the index%s", where, name, nearest(name, known))
    if corpus.series:
        found = connection.execute(
            "SELECT SeriesInstanceUID FROM source WHERE SeriesInstanceUID IN (SELECT unnest($1::VARCHAR[]))",
            [list(corpus.series)],
        ).fetchall()
        for uid in sorted(set(corpus.series) - {row[0] for row in found}):
            log.warning("%s.series: %s is not in the index and is left out", where, uid)


def after_query(corpus: Corpus, where: str) -> Corpus:
    """Return what is left to do of a corpus once the paper's query has applied its own criteria.

    Raises:
        UserError: a criterion is looser than the paper's, so that it would have no effect.
    """
    paper, mine = Criteria(), corpus.thickness_mm
    assert paper.thickness_mm
    looser = {
        "modality": corpus.modality != paper.modality,
        "min_instances": corpus.min_instances < paper.min_instances,
        "thickness_mm": mine is None or mine[0] < paper.thickness_mm[0] or mine[1] > paper.thickness_mm[1],
        "exclude_localizers": not corpus.exclude_localizers,
        "unique_positions": not corpus.unique_positions,
    }
    for key, wrong in looser.items():
        if wrong:
            raise UserError(
                f"{where}.{key}: the paper's query asks for {getattr(paper, key)}, and this is looser; leave it out, "
                "or choose from the index (select.backend: duckdb, without dicom_all)"
            )
    done: dict[str, Any] = {"modality": None, "exclude_localizers": False, "unique_positions": False}
    if corpus.min_instances == paper.min_instances:
        done["min_instances"] = 1
    if mine == paper.thickness_mm:
        done["thickness_mm"] = None
    return corpus.model_copy(update=done)


def steps(corpus: Corpus, origin: Source) -> list[Step]:
    """Return the steps that are on, in the order of their numbers."""
    low, high = corpus.thickness_mm or (0.0, 0.0)
    named = ", ".join(key for key in NAMED if getattr(corpus, key))
    sop_class, patients = _sop_class(corpus, origin.columns), corpus.patients_per_collection
    unique = corpus.unique_positions and "unique_positions" in origin.columns
    table = {
        Step(1, f"modality {corpus.modality}", "modality"): corpus.modality,
        Step(2, "collections and series named", named): named,
        Step(3, f"held by IDC release {corpus.releases and corpus.releases[0]}", "releases"): "held" in origin.columns,
        Step(4, f"at least {corpus.min_instances} instances", "min_instances"): corpus.min_instances > 1,
        Step(5, f"objects of class {sop_class}", "modality"): sop_class,
        Step(6, "no localizers", "exclude_localizers"): corpus.exclude_localizers,
        Step(7, f"slice thickness {low:g} to {high:g} mm where known", "thickness_mm"): corpus.thickness_mm,
        Step(8, "one position for every instance where known", "unique_positions"): unique,
        Step(9, "licences for commercial use", "licenses"): corpus.licenses == "commercial",
        Step(DOWNSTREAM, "no collections of downstream evaluations", "exclude_downstream"): corpus.exclude_downstream,
        Step(11, f"random {patients} patients of each collection", "patients_per_collection"): patients,
        Step(12, f"random subset of {corpus.max_series}", "max_series"): corpus.max_series,
    }
    return [step for step, on in table.items() if on]


def parameters(corpus: Corpus, seed: int, columns: list[str]) -> dict[str, Any]:
    """Return the parameters of select_index.sql."""
    low, high = corpus.thickness_mm or (None, None)
    return {
        "modality": corpus.modality,
        "collections": list(corpus.collections) or None,
        "exclude_collections": list(corpus.exclude_collections) or None,
        "series": list(corpus.series) or None,
        "min_instances": corpus.min_instances,
        "sop_class": _sop_class(corpus, columns),
        "exclude_localizers": corpus.exclude_localizers,
        "thickness_low": low,
        "thickness_high": high,
        "unique_positions": corpus.unique_positions,
        "commercial": corpus.licenses == "commercial",
        "downstream": downstream()["collection_id"].tolist() if corpus.exclude_downstream else [],
        "patients_per_collection": corpus.patients_per_collection,
        "max_series": corpus.max_series,
        "seed": seed,
        "shards": corpus.shards,
    }


def _sop_class(corpus: Corpus, columns: list[str]) -> str | None:
    return SOP_CLASSES.get(corpus.modality or "") if "sop_class_name" in columns else None
