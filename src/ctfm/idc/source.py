"""Where a selection's series come from: one view of series, whatever it is made of.

A user's own index, the installed index, two releases of the Imaging Data Commons, or what the paper's own query chose.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from ctfm import resources
from ctfm.config import Corpus, Select
from ctfm.errors import UserError
from ctfm.files import need_file
from ctfm.idc import geometry_index, releases
from ctfm.idc.releases import PACKAGE, Table

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
OPTIONAL = ("SliceThickness", "sop_class_name", "source_DOI")
# What our own queries add.
ADDED = (
    "held",  # by the release of the criteria
    "place_known",  # the newest release tells where the files are
    # What headers say; these hold, and nothing is guessed from descriptions, where `headers_known` is true.
    "headers_known",
    "slice_thickness_min",
    "slice_thickness_max",
    "localizer",
    "unique_positions",
)
# What the tables of two releases must have, beside the columns needed.
RELEASE_COLUMNS = {
    "listing": ("source_DOI",),
    "newest": ("crdc_series_uuid", "series_revised_idc_version", "sop_class_name"),
}
PRIOR_COLUMNS = ("SeriesInstanceUID", "crdc_series_uuid", "series_aws_url", "min_idc_version", "max_idc_version")


@dataclass(frozen=True)
class Source:
    """What the view ``source`` is made of."""

    name: str  # for messages
    columns: list[str]  # that are not null throughout
    tables: dict[str, Table]
    sql: dict[str, str]  # digests of the queries, by file
    folder: Path | None = None  # that file: locations are relative to
    funnel: list[dict[str, Any]] = field(default_factory=list)  # of the paper's query
    query: dict[str, Any] | None = None  # facts of the paper's query


def is_query(corpus: Corpus, select: Select) -> bool:
    """Whether the paper's own query makes the selection; an index of one's own goes first."""
    return not corpus.index and (select.backend == "bigquery" or bool(corpus.dicom_all))


def tables(corpus: Corpus, select: Select, where: str) -> dict[str, Table]:
    """Return the tables of idc-index-data that a corpus needs, by role; missing ones are fetched.

    Args:
        corpus: which releases, and whether the geometry tables are wanted.
        select: the engine.
        where: key of the corpus in the configuration, for messages.

    Raises:
        UserError: one can't be had.
    """
    if is_query(corpus, select):
        return {}
    found: dict[str, Table] = {}
    if not corpus.index and corpus.releases:
        found = releases.pair(corpus.releases, where)
    elif not corpus.index:
        found["listing"] = releases.installed().table(releases.INDEX)
    if corpus.geometry_index:
        found |= geometry_index.tables(corpus.geometry_index, where)
    return found


def open_source(connection: duckdb.DuckDBPyConnection, corpus: Corpus, select: Select, where: str) -> Source:
    """Make the view ``source`` with the columns of ``NEEDED``, ``OPTIONAL`` and ``ADDED``; null where there are none.

    Raises:
        UserError: a table is missing, no parquet file, or lacks columns.
    """
    if is_query(corpus, select):
        return _from_query(connection, corpus, select, where)
    own = {"listing": Table(need_file(corpus.index, f"set {where}.index"))} if corpus.index else {}
    found = own | tables(corpus, select, where)
    columns = {role: _open(connection, role, table) for role, table in found.items()}
    origin, sql = "FROM listing", {}
    _need(found["listing"].path, columns["listing"], NEEDED)
    if "newest" in found:
        _need_release_columns(found, columns)
        assert corpus.releases
        origin, sql["idc_releases.sql"] = _sql("idc_releases.sql", statistics=corpus.releases[0])
    _view(connection, "origin", origin)
    theirs = (*NEEDED, *OPTIONAL, *(ADDED if "newest" in found else ()))
    listed = [column for column in connection.sql("FROM origin").columns if column in theirs]
    _view(connection, "listed", _as_text(listed))
    geometry = "FROM listed"
    if corpus.geometry_index:
        for role, needed in geometry_index.COLUMNS.items():
            _need(found[role].path, columns[role], needed)
        geometry, sql["geometry_index.sql"] = _sql("geometry_index.sql")
        listed.append("unique_positions")
    _view(connection, "source", geometry)
    folder = found["listing"].path.resolve().parent if corpus.index else None
    return Source(str(found["listing"].path), listed, found, sql, folder)


def _from_query(connection: duckdb.DuckDBPyConnection, corpus: Corpus, select: Select, where: str) -> Source:
    from ctfm.idc import paper_query  # loads what parses SQL, and Google's client

    rows = paper_query.run(corpus, select, where)
    frame = rows.frame.assign(headers_known=True)
    connection.register("origin", frame)
    _view(connection, "source", _as_text(list(frame.columns)))
    return Source("the paper's query", list(frame.columns), {}, {}, funnel=rows.funnel, query=rows.facts)


def _open(connection: duckdb.DuckDBPyConnection, role: str, table: Table) -> list[str]:
    """Make a view of a table and return its columns."""
    quoted = str(table.path).replace("'", "''")
    try:
        _view(connection, role, f"FROM read_parquet('{quoted}')")
    except duckdb.Error as error:
        raise UserError(f"{table.path}: not a parquet table ({str(error).splitlines()[0]})") from error
    return connection.sql(f"FROM {role}").columns


def _need(path: Path, columns: list[str], needed: tuple[str, ...]) -> None:
    missing = [column for column in needed if column not in columns]
    if missing:
        raise UserError(
            f"{path}: this table needs the columns {', '.join(missing)}; "
            f"add them as {PACKAGE} has them (null where unknown)"
        )


def _need_release_columns(found: dict[str, Table], columns: dict[str, list[str]]) -> None:
    needed = {role: (*NEEDED, *more) for role, more in RELEASE_COLUMNS.items()} | {"prior": PRIOR_COLUMNS}
    for role, names in needed.items():
        missing = [name for name in names if name not in columns[role]]
        if missing:
            raise UserError(
                f"{PACKAGE} {found[role].version}: {found[role].path.name} has no {', '.join(missing)}, which tells "
                f"what older releases held; pip install --upgrade {PACKAGE}, or set `releases: null` of the corpus"
            )


def _as_text(columns: list[str]) -> str:
    # As text: a column that is null throughout, or holds numbers only, has another type in the file.
    expressions = {c: f'"{c}"' if c in columns else "NULL" for c in (*NEEDED, *OPTIONAL, *ADDED)}
    chosen = ", ".join(f'{expression}::VARCHAR AS "{c}"' for c, expression in expressions.items())
    return f"SELECT {chosen} FROM origin"


def _view(connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    connection.execute(f"CREATE TEMP VIEW {name} AS {query}").fetchall()


def _sql(file: str, **values: int) -> tuple[str, str]:
    """Return a query of ``resources/sql`` with its values, and the digest of its text."""
    text = resources.path("sql", file).read_text()
    return text.format(**values), hashlib.sha256(text.encode()).hexdigest()
