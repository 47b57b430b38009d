"""Choice of CT series from the metadata index of the Imaging Data Commons, with DuckDB and no account.

The criteria are the paper's (supplement S1), as far as the index can tell them; the rules stand in
``resources/sql/select_index.sql``. The same index, rules and settings give the same rows in the same order.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pandas as pd

from ctfm import resources, tables
from ctfm.config import Corpus
from ctfm.errors import UserError, nearest
from ctfm.files import need_file, sha256

log = logging.getLogger(__name__)

PACKAGE = "idc-index-data"
SQL = ("sql", "select_index.sql")
NEEDED = (
    "collection_id",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SeriesDescription",
    "instanceCount",
    "license_short_name",
    "series_size_MB",
    "series_aws_url",
)
OPTIONAL = ("SliceThickness", "sop_class_name")
# The index calls raw data and screen captures CT too; only this class of object is a scan.
SOP_CLASSES = {"CT": "CT Image Storage"}
COUNTS = "count(*), count(DISTINCT StudyInstanceUID), count(DISTINCT PatientID)"
KEPT = 99
# A UID names a folder and stands in the command file of the download, so it can't be just any text.
UID = r"^[0-9A-Za-z][0-9A-Za-z._-]*$"
URL = r"^(?:s3://[^\s'\"\\;&|$`<>()]+|file:.+)$"


class Step(NamedTuple):
    """One step of the funnel: its number in the query, its name, and the settings that govern it."""

    number: int
    name: str
    keys: str


@dataclass(frozen=True)
class Selection:
    """What was chosen: the tables ``series``, ``funnel`` and ``collections``, and facts for ``selection.json``."""

    series: pd.DataFrame
    funnel: pd.DataFrame
    collections: pd.DataFrame
    facts: dict[str, Any]


def installed_index() -> Path:
    """Return ``idc_index.parquet`` of the installed idc-index-data package.

    Raises:
        UserError: the package is not installed or lacks the file.
    """
    found = importlib.util.find_spec("idc_index_data")
    file = Path(found.origin).parent / "idc_index.parquet" if found and found.origin else None
    if file is None or not file.is_file():
        raise UserError(f"{PACKAGE} is not installed; 'pip install {PACKAGE}', or set `index` of the corpus to a file")
    return file


def select(corpus: Corpus, seed: int = 0, where: str = "corpora") -> Selection:
    """Choose series.

    Args:
        corpus: the criteria.
        seed: of the random subset, if ``corpus.max_series`` asks for one.
        where: key of the corpus in the configuration, for messages.

    Raises:
        UserError: the index is missing or lacks columns, a named collection is not in it, a row can't be used, or
            no series is left; the message names the step that emptied the selection and its setting.
    """
    index = need_file(corpus.index, f"set {where}.index") if corpus.index else installed_index()
    with duckdb.connect() as connection:
        columns = _open(connection, index)
        _check_names(connection, corpus, where)
        query = resources.path(*SQL).read_text()
        sop_class = SOP_CLASSES.get(corpus.modality or "") if "sop_class_name" in columns else None
        connection.execute(f"CREATE TEMP TABLE series AS {query}", _parameters(corpus, seed, sop_class)).fetchall()
        funnel = _funnel(connection, _steps(corpus, sop_class), where)
        series = connection.execute(
            f"SELECT * EXCLUDE dropped_at FROM series WHERE dropped_at = {KEPT} "
            "ORDER BY collection_id, PatientID, StudyInstanceUID, SeriesInstanceUID"
        ).df()
    _check_rows(series, index)
    series["series_aws_url"] = _from_here(series["series_aws_url"], index)
    facts = _facts(corpus, seed, index, query, series)
    return Selection(series, funnel, _collections(series), facts)


def _open(connection: duckdb.DuckDBPyConnection, index: Path) -> list[str]:
    """Make the view ``source`` of the index and return the columns that the index has."""
    try:
        columns = connection.read_parquet(str(index)).columns
    except duckdb.Error as error:
        raise UserError(f"{index}: not a parquet table ({str(error).splitlines()[0]})") from error
    missing = [column for column in NEEDED if column not in columns]
    if missing:
        raise UserError(
            f"{index}: an index of series needs the columns {', '.join(missing)}; "
            f"add them as {PACKAGE} has them (null where unknown)"
        )
    # As text: a column that is null throughout, or holds numbers only, has another type in the file.
    expressions = {c: f'"{c}"' if c in columns else "NULL" for c in (*NEEDED, *OPTIONAL)}
    chosen = ", ".join(f'{expression}::VARCHAR AS "{c}"' for c, expression in expressions.items())
    quoted = str(index).replace("'", "''")
    connection.execute(f"CREATE TEMP VIEW source AS SELECT {chosen} FROM read_parquet('{quoted}')").fetchall()
    return columns


def _check_names(connection: duckdb.DuckDBPyConnection, corpus: Corpus, where: str) -> None:
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


def _parameters(corpus: Corpus, seed: int, sop_class: str | None) -> dict[str, Any]:
    low, high = corpus.thickness_mm or (None, None)
    return {
        "modality": corpus.modality,
        "collections": list(corpus.collections) or None,
        "exclude_collections": list(corpus.exclude_collections) or None,
        "series": list(corpus.series) or None,
        "min_instances": corpus.min_instances,
        "sop_class": sop_class,
        "exclude_localizers": corpus.exclude_localizers,
        "thickness_low": low,
        "thickness_high": high,
        "max_series": corpus.max_series,
        "seed": seed,
        "shards": corpus.shards,
    }


def _steps(corpus: Corpus, sop_class: str | None) -> list[Step]:
    steps = [Step(0, "all series", "index")]
    if corpus.modality:
        steps.append(Step(1, f"modality {corpus.modality}", "modality"))
    named = [key for key in ("collections", "exclude_collections", "series") if getattr(corpus, key)]
    if named:
        steps.append(Step(2, "collections and series named", ", ".join(named)))
    steps.append(Step(3, f"at least {corpus.min_instances} instances", "min_instances"))
    if sop_class:
        steps.append(Step(4, f"objects of class {sop_class}", "modality"))
    if corpus.exclude_localizers:
        steps.append(Step(5, "no localizers", "exclude_localizers"))
    if corpus.thickness_mm:
        low, high = corpus.thickness_mm
        steps.append(Step(6, f"slice thickness {low:g} to {high:g} mm where known", "thickness_mm"))
    if corpus.max_series:
        steps.append(Step(7, f"random subset of {corpus.max_series}", "max_series"))
    return steps


def _funnel(connection: duckdb.DuckDBPyConnection, steps: list[Step], where: str) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for step in steps:
        source = "source" if step.number == 0 else f"series WHERE dropped_at > {step.number}"
        count = connection.execute(f"SELECT {COUNTS} FROM {source}").fetchall()[0]
        if count[0] == 0:
            before = rows[-1]["series"] if rows else 0
            raise UserError(
                f"{where}: no series is left at the step '{step.name}' ({before} before it); "
                f"change {', '.join(f'{where}.{key}' for key in step.keys.split(', '))}"
            )
        rows.append({"step": step.name, "series": count[0], "studies": count[1], "patients": count[2]})
    return tables.of("funnel", rows)


def _check_rows(series: pd.DataFrame, index: Path) -> None:
    uids, urls = series["SeriesInstanceUID"], series["series_aws_url"]
    faults = {
        "stands in more than one row": uids.duplicated(),
        "is no valid UID (digits and dots)": ~uids.str.match(UID).fillna(False).astype(bool),
        "has no series_aws_url such as s3://bucket/folder/* or file:folder/*": ~urls.str.match(URL)
        .fillna(False)
        .astype(bool),
    }
    for fault, rows in faults.items():
        if rows.any():
            raise UserError(f"{index}: series {uids[rows].iloc[0]!r} {fault} ({int(rows.sum())} such rows); mend it")


def _from_here(urls: pd.Series, index: Path) -> pd.Series:
    """Make ``file:`` locations, which are relative to the index's folder, relative to the current one."""
    local = urls.str.startswith("file:")
    if local.any():
        folder = index.resolve().parent
        urls = urls.copy()
        urls[local] = [f"file:{os.path.relpath(folder / url.removeprefix('file:'))}" for url in urls[local]]
    return urls


def _collections(series: pd.DataFrame) -> pd.DataFrame:
    """Return series per collection, beside the number in the paper's corpus, and the licences."""
    paper = pd.read_csv(resources.path("paper_collections.csv")).set_index("collection_id")["n"]
    groups = series.groupby("collection_id", sort=True, dropna=False)
    table = pd.DataFrame(
        {
            "series": groups.size(),
            "license": groups["license"].agg(lambda values: ", ".join(sorted(values.dropna().unique()))),
        }
    ).reset_index()
    table["paper_series"] = table["collection_id"].map(paper).astype("Int64")
    return table.sort_values(["series", "collection_id"], ascending=[False, True], ignore_index=True)


def _facts(corpus: Corpus, seed: int, index: Path, query: str, series: pd.DataFrame) -> dict[str, Any]:
    rows = series.to_csv(index=False, lineterminator="\n")
    settings = corpus.model_dump(mode="json")
    return {
        "index": {
            "file": index.name,
            "sha256": sha256(index),
            PACKAGE: None if corpus.index else metadata.version(PACKAGE),
        },
        "sql_sha256": hashlib.sha256(query.encode()).hexdigest(),
        "rows_sha256": hashlib.sha256(rows.encode()).hexdigest(),
        "settings": {**settings, "index": index.name if corpus.index else None},
        "seed": seed,
        "series": len(series),
        "named_but_not_chosen": sorted(set(corpus.series) - set(series["SeriesInstanceUID"])),
    }
