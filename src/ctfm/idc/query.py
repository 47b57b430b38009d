"""Choice of CT series from the metadata index of the Imaging Data Commons, with DuckDB and no account.

The criteria are the paper's (supplement S1), as far as the index can tell them; the rules stand in
``resources/sql/select_index.sql``. The same tables, rules and settings give the same rows in the same order.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from ctfm import resources, schemas, tables
from ctfm.config import Corpus, Select
from ctfm.errors import UserError
from ctfm.files import atomic, write_json
from ctfm.idc import attribution, options, releases, source
from ctfm.idc.options import KEPT, Step
from ctfm.idc.source import Source

log = logging.getLogger(__name__)

SQL = "select_index.sql"
TABLES = ("series", "funnel", "collections", "licenses", "overlap")
COUNTS = "count(*), count(DISTINCT StudyInstanceUID), count(DISTINCT PatientID)"
# A UID names a folder and stands in the command file of the download, so it can't be just any text.
UID = r"^[0-9A-Za-z][0-9A-Za-z._-]*$"
URL = r"^(?:s3://[^\s'\"\\;&|$`<>()]+|file:.+)$"
IDC_URL = "s3://idc-"


@dataclass(frozen=True)
class Selection:
    """What was chosen: tables (see ``ctfm.tables``), the text of attribution.md, and facts for selection.json."""

    series: pd.DataFrame
    funnel: pd.DataFrame
    collections: pd.DataFrame
    licenses: pd.DataFrame
    overlap: pd.DataFrame
    attribution: str
    facts: dict[str, Any]

    def write(self, out: Path) -> None:
        """Write all of it into a folder."""
        for name in TABLES:
            tables.write(getattr(self, name), name, out / f"{name}.parquet")
        with atomic(out / "attribution.md") as temporary:
            temporary.write_text(self.attribution)
        write_json(self.facts, out / "selection.json")


def select(corpus: Corpus, seed: int = 0, where: str = "corpora", select: Select | None = None) -> Selection:
    """Choose series.

    Args:
        corpus: the criteria.
        seed: of the random subsets, unless the corpus has its own.
        where: key of the corpus in the configuration, for messages.
        select: the engine; DuckDB by default.

    Raises:
        UserError: a table is missing or lacks columns, a named collection is not in it, a row can't be used, or
            no series is left; the message names the step that emptied the selection and its setting.
    """
    select, seed = select or Select(), seed if corpus.seed is None else corpus.seed
    wanted = options.after_query(corpus, where) if source.is_query(corpus, select) else corpus
    query = resources.path("sql", SQL).read_text()
    with duckdb.connect() as connection:
        origin = source.open_source(connection, corpus, select, where)
        options.check_names(connection, corpus, where)
        parameters = options.parameters(wanted, seed, origin.columns)
        connection.execute(f"CREATE TEMP TABLE series AS {query}", parameters).fetchall()
        funnel = _funnel(connection, wanted, origin, where)
        overlap = attribution.overlap(connection)
        chosen = connection.execute(
            f"SELECT * EXCLUDE dropped_at FROM series WHERE dropped_at = {KEPT} "
            "ORDER BY collection_id, PatientID, StudyInstanceUID, SeriesInstanceUID"
        ).df()
    _check_rows(chosen, origin)
    if origin.folder:
        chosen["series_aws_url"] = _from_here(chosen["series_aws_url"], origin.folder)
    _warn(overlap, chosen, where)
    return _described(chosen, funnel, overlap, origin, _facts(corpus, seed, query, chosen))


def _described(
    chosen: pd.DataFrame, funnel: pd.DataFrame, overlap: pd.DataFrame, origin: Source, facts: dict[str, Any]
) -> Selection:
    """Add to the rows chosen what they are made of, and whom they owe thanks."""
    idc = chosen["series_aws_url"].str.startswith(IDC_URL).any()
    about = {"collections": releases.installed().table(releases.COLLECTIONS)} if idc else {}
    facts["sql_sha256"] |= origin.sql
    facts["tables"] = {role: table.facts() for role, table in {**origin.tables, **about}.items()}
    return Selection(
        series=chosen[schemas.SCHEMAS["series"].names],
        funnel=funnel,
        collections=attribution.collections(chosen),
        licenses=attribution.licenses(chosen),
        overlap=overlap,
        attribution=attribution.text(chosen, about.get("collections")),
        facts={**facts, "query": origin.query},
    )


def _funnel(connection: duckdb.DuckDBPyConnection, corpus: Corpus, origin: Source, where: str) -> pd.DataFrame:
    """Count what each step leaves; what the paper's query counted comes first."""
    rows, first = list(origin.funnel), [] if origin.funnel else [Step(0, _name_of_all(corpus), "index")]
    for step in [*first, *options.steps(corpus, origin)]:
        rest = f"series WHERE dropped_at > {step.number}" if step.number else "source"
        count = connection.execute(f"SELECT {COUNTS} FROM {rest}").fetchall()[0]
        if count[0] == 0:
            before = rows[-1]["series"] if rows else 0
            raise UserError(
                f"{where}: no series is left at the step '{step.name}' ({before} before it); "
                f"change {', '.join(f'{where}.{key}' for key in step.keys.split(', '))}"
            )
        rows.append({"step": step.name, "series": count[0], "studies": count[1], "patients": count[2]})
    return tables.of("funnel", rows)


def _name_of_all(corpus: Corpus) -> str:
    listed = not corpus.index and corpus.releases
    return f"all series listed by IDC release {listed[1]}" if listed else "all series"


def _check_rows(chosen: pd.DataFrame, origin: Source) -> None:
    uids, urls = chosen["SeriesInstanceUID"], chosen["series_aws_url"]
    faults = {
        "stands in more than one row": uids.duplicated(),
        "is no valid UID (digits and dots)": ~uids.str.match(UID).fillna(False).astype(bool),
        "has no series_aws_url such as s3://bucket/folder/* or file:folder/*": ~urls.str.match(URL)
        .fillna(False)
        .astype(bool),
    }
    for fault, rows in faults.items():
        if rows.any():
            raise UserError(
                f"{origin.name}: series {uids[rows].iloc[0]!r} {fault} ({int(rows.sum())} such rows); mend it"
            )


def _warn(overlap: pd.DataFrame, chosen: pd.DataFrame, where: str) -> None:
    kept = overlap[~overlap["excluded"].astype(bool)]
    if len(kept):
        log.warning(
            "%s: downstream evaluations use some of these series too; `exclude_downstream: true` leaves them out: %s",
            where,
            "; ".join(f"{row.collection_id} ({row.series} series: {row.used_for})" for row in kept.itertuples()),
        )
    lost = int((~chosen["place_known"]).sum())
    if lost:
        log.warning(
            "%s: the newest release does not tell where %d series are; they keep their old location", where, lost
        )


def _from_here(urls: pd.Series, folder: Path) -> pd.Series:
    """Make ``file:`` locations, which are relative to the index's folder, relative to the current one."""
    local = urls.str.startswith("file:")
    if local.any():
        urls = urls.copy()
        urls[local] = [f"file:{os.path.relpath(folder / url.removeprefix('file:'))}" for url in urls[local]]
    return urls


def _facts(corpus: Corpus, seed: int, query: str, chosen: pd.DataFrame) -> dict[str, Any]:
    rows = chosen[schemas.SCHEMAS["series"].names].to_csv(index=False, lineterminator="\n")
    settings = corpus.model_dump(mode="json")
    settings |= {key: Path(settings[key]).name for key in ("index", "geometry_index") if settings[key]}
    settings["dicom_all"] = {release: Path(file).name for release, file in settings["dicom_all"].items()}
    return {
        "sql_sha256": {SQL: hashlib.sha256(query.encode()).hexdigest()},
        "rows_sha256": hashlib.sha256(rows.encode()).hexdigest(),
        "settings": settings,
        "seed": seed,
        "series": len(chosen),
        "named_but_not_chosen": sorted(set(corpus.series) - set(chosen["SeriesInstanceUID"])),
        "places_not_found": int((~chosen["place_known"]).sum()),
    }
