"""Reading and writing of tables; both check the columns (``ctfm.schemas``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ctfm.errors import UserError
from ctfm.files import atomic, need_file
from ctfm.schemas import SCHEMAS


def write(table: pd.DataFrame, name: str, path: Path | str, facts: dict[str, Any] | None = None) -> None:
    """Write a table atomically as parquet, with exactly the columns of its schema.

    Args:
        table: the rows.
        name: a key of ``SCHEMAS``.
        path: where to.
        facts: JSON-like provenance kept in the file's own metadata (see ``facts``).

    Raises:
        ValueError: a column is missing, unknown or of the wrong type (a fault of the program).
    """
    with writer(name, path, facts) as add:
        add(table)


@contextmanager
def writer(
    name: str, path: Path | str, facts: dict[str, Any] | None = None
) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Yield a function that adds rows to a table, which is there, whole, only at the end. Arguments as in ``write``."""
    schema = SCHEMAS[name].with_metadata({b"ctfm": json.dumps(facts or {}, sort_keys=True).encode()})
    lists = [field.name for field in schema if pa.types.is_list(field.type)]  # an empty one would look like numbers

    def add(table: pd.DataFrame) -> None:
        if set(table.columns) != set(schema.names):
            raise ValueError(f"table '{name}': columns differ: {sorted(set(table.columns) ^ set(schema.names))}")
        rows = table[schema.names].astype(dict.fromkeys(lists, object))
        arrow = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
        made.write_table(arrow.replace_schema_metadata(schema.metadata))

    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema) as made:
        yield add


def read(name: str, path: Path | str) -> pd.DataFrame:
    """Read a table and check its columns.

    Raises:
        UserError: the file is missing, is no parquet file, or lacks a column.
    """
    path = need_file(path, f"it is a '{name}' table; make it with the stage before this one")
    try:
        table = pd.read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a parquet table ({str(error).splitlines()[0]})") from error
    missing = [column for column in SCHEMAS[name].names if column not in table.columns]
    if missing:
        raise UserError(f"{path}: a '{name}' table needs the columns {', '.join(missing)}; make it anew")
    return table


def facts(path: Path | str) -> dict[str, Any]:
    """Return the provenance that ``write`` kept in the file."""
    return json.loads((pq.read_schema(path).metadata or {}).get(b"ctfm", b"{}"))


def of(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Make a table of rows; columns that a row lacks are null."""
    return pd.DataFrame(rows, columns=SCHEMAS[name].names)
