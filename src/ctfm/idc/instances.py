"""Tables of DICOM instances (BigQuery's ``dicom_all``) on this machine, for the paper's query on DuckDB."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from sqlglot import ErrorLevel, exp
from sqlglot.optimizer.scope import traverse_scope

from ctfm.errors import UserError
from ctfm.files import need_file, sha256


def run(queries: list[exp.Select], tables: dict[int, str], where: str) -> tuple[list[pd.DataFrame], dict[str, Any]]:
    """Run queries on DuckDB, with parquet files under the names that the queries call tables by.

    Args:
        queries: parsed from BigQuery's dialect; their tables are ``<project>.idc_v<release>.dicom_all``.
        tables: a parquet file, or a folder of them, for each release.
        where: key of the tables in the configuration, for messages.

    Returns:
        The rows of each query, and facts: the files of each release.

    Raises:
        UserError: a release, a file or a column is missing, or is not what the query needs.
    """
    used = columns(queries)
    facts = {}
    with duckdb.connect() as connection:
        for table, names in used.items():
            release = int(table.db.removeprefix("idc_v"))
            if release not in tables:
                raise UserError(
                    f"{where}: no table of release {release}; add `{release}: FILE`, the instances of {table.db} as "
                    f"parquet, or choose other `releases` (there are: {', '.join(map(str, sorted(tables))) or 'none'})"
                )
            files = _files(tables[release], where)
            _view(connection, table, files, names)
            facts[str(release)] = _facts(files)
        try:
            frames = [connection.execute(duckdb_text(query)).df() for query in queries]
        except duckdb.Error as error:
            raise UserError(
                f"{where}: the query can't run on these tables ({_first_line(error)}); export them from BigQuery with "
                "its own types (ImageType and ImagePositionPatient are lists of text)"
            ) from error
    return frames, {"tables": facts}


def duckdb_text(query: exp.Expr) -> str:
    """Return a query in DuckDB's dialect; what sqlglot can't translate raises."""
    return query.sql("duckdb", pretty=True, unsupported_level=ErrorLevel.RAISE)


def columns(queries: list[exp.Select]) -> dict[exp.Table, list[str]]:
    """Return the columns that queries read of each table."""
    found: dict[exp.Table, list[str]] = {}
    for scope in (scope for query in queries for scope in traverse_scope(query)):
        for alias, (_, source) in scope.selected_sources.items():
            if isinstance(source, exp.Table):
                names = found.setdefault(_bare(source), [])
                alone = len(scope.selected_sources) == 1
                read = [c.name for c in scope.columns if c.table == alias or (alone and not c.table)]
                names.extend(name for name in dict.fromkeys(read) if name not in names)
    return found


def _bare(table: exp.Table) -> exp.Table:
    return exp.table_(table.name, db=table.db, catalog=table.catalog, quoted=True)


def _files(path: str, where: str) -> list[Path]:
    root = need_file(path, f"set {where} to a parquet file, or a folder of them")
    files = sorted(root.glob("*.parquet")) if root.is_dir() else [root]
    if not files:
        raise UserError(f"{root}: no *.parquet in this folder; set {where} to a parquet file, or a folder of them")
    return files


def _view(connection: duckdb.DuckDBPyConnection, table: exp.Table, files: list[Path], needed: list[str]) -> None:
    names = [str(file) for file in files]
    try:
        parquet = connection.read_parquet(names)
    except duckdb.Error as error:
        raise UserError(
            f"{files[0].parent if len(files) > 1 else files[0]}: not a parquet table ({_first_line(error)})"
        ) from error
    there = {name.lower() for name in parquet.columns}
    missing = [name for name in needed if name.lower() not in there]
    if missing:
        raise UserError(
            f"{files[0]}: a table of instances needs the columns {', '.join(missing)}; "
            f"export it anew from `{table.catalog}.{table.db}.{table.name}`"
        )
    project = exp.to_identifier(table.catalog, quoted=True).sql("duckdb")
    connection.execute(f"ATTACH IF NOT EXISTS ':memory:' AS {project}")
    connection.execute(f"CREATE SCHEMA {project}.{table.db}")
    listed = exp.array(*map(exp.Literal.string, names)).sql("duckdb")
    lists = [name for name, kind in zip(parquet.columns, parquet.types, strict=True) if kind.id == "list"]
    # A column of BigQuery holds no null array: it becomes an empty one.
    read = ", ".join(f'coalesce("{name}", []) AS "{name}"' if name in lists else f'"{name}"' for name in needed)
    connection.execute(f"CREATE VIEW {table.sql('duckdb')} AS SELECT {read} FROM read_parquet({listed})")


def _facts(files: list[Path]) -> dict[str, Any]:
    """Return what tells one export from another, whatever the folder's name."""
    digests = sorted(sha256(file) for file in files)
    together = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return {"files": len(files), "bytes": sum(file.stat().st_size for file in files), "sha256": together}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
