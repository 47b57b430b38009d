"""Tables of instances under BigQuery's names."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from sqlglot import exp

from ctfm.errors import UserError
from ctfm.files import sha256
from ctfm.idc import instances

WHERE = "corpora.mine.dicom_all"
TABLE = "`bigquery-public-data.idc_v18.dicom_all`"


def parse(query: str) -> exp.Select:
    tree = sqlglot.parse_one(query, read="bigquery")
    assert isinstance(tree, exp.Select)
    return tree


def write(path: Path, **columns: list[object]) -> str:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"SeriesInstanceUID": ["1.1", "1.2"], **columns}), path)
    return str(path)


def run(query: str, tables: dict[int, str]) -> list[tuple[object, ...]]:
    (frame,), _ = instances.run([parse(query)], tables, WHERE)
    return list(frame.itertuples(index=False, name=None))


def test_columns_are_told_apart_by_table() -> None:
    query = parse(
        f"WITH a AS (SELECT x, MAX(y) AS top FROM `p.idc_v14.dicom_all` WHERE z = 1 GROUP BY x) "
        f"SELECT b.x, b.w FROM {TABLE} AS b JOIN a ON a.x = b.x WHERE top > 2"
    )
    found = {table.db: names for table, names in instances.columns([query]).items()}
    assert {db: sorted(names) for db, names in found.items()} == {"idc_v14": ["x", "y", "z"], "idc_v18": ["w", "x"]}


def test_columns_of_several_queries_are_joined() -> None:
    queries = [parse(f"SELECT x FROM {TABLE}"), parse(f"SELECT q.y, q.x FROM {TABLE} AS q")]
    ((_, names),) = instances.columns(queries).items()
    assert names == ["x", "y"]


def test_a_file_or_a_folder_of_files(tmp_path: Path) -> None:
    count = f"SELECT COUNT(SeriesInstanceUID) FROM {TABLE}"
    one = write(tmp_path / "parts" / "0.parquet")
    assert run(count, {18: one}) == [(2,)]
    write(tmp_path / "parts" / "1.parquet")
    (tmp_path / "parts" / "notes.txt").write_text("no table")
    assert run(count, {18: str(tmp_path / "parts")}) == [(4,)]
    assert run(count, {18: one, 14: "not/used.parquet"}) == [(2,)]


def test_facts_tell_what_was_read_and_no_folders(tmp_path: Path) -> None:
    file = write(tmp_path / "it's one.parquet")
    _, facts = instances.run([parse(f"SELECT SeriesInstanceUID FROM {TABLE}")], {18: file}, WHERE)
    assert facts == {"tables": {"18": {"files": 1, "bytes": Path(file).stat().st_size, "sha256": sha256(file)}}}


def test_a_null_array_is_empty_as_in_bigquery(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", ImageType=pa.array([None, ["A", "B"]], pa.list_(pa.string())))
    query = f"SELECT ARRAY_TO_STRING(ImageType, '/') FROM {TABLE} ORDER BY SeriesInstanceUID"
    assert run(query, {18: file}) == [("",), ("A/B",)]


def test_missing_release(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=rf"^{WHERE}: no table of release 18; .*there are: 14, 23"):
        run(f"SELECT SeriesInstanceUID FROM {TABLE}", {23: file, 14: file})


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"nowhere: no such file or folder; set {WHERE} to a parquet file, or"):
        run(f"SELECT SeriesInstanceUID FROM {TABLE}", {18: str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match=r"no \*\.parquet in this folder"):
        run(f"SELECT SeriesInstanceUID FROM {TABLE}", {18: str(tmp_path)})


def test_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("SeriesInstanceUID\n1.1\n")
    with pytest.raises(UserError, match=r"t\.parquet: not a parquet table"):
        run(f"SELECT SeriesInstanceUID FROM {TABLE}", {18: str(tmp_path / "t.parquet")})


def test_missing_columns_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", Modality=["CT", "CT"])
    query = f"SELECT SeriesInstanceUID, access, aws_url FROM {TABLE} WHERE modality = 'CT'"
    with pytest.raises(UserError, match=r"columns access, aws_url; export it anew from `bigquery-public-data\.idc_v18"):
        run(query, {18: file})


def test_wrong_types_are_the_users_to_mend(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", ImageType=["ORIGINAL\\PRIMARY", "LOCALIZER"])
    with pytest.raises(UserError, match=rf"^{WHERE}: the query can't run on these tables .*lists of text"):
        run(f"SELECT SeriesInstanceUID FROM {TABLE} WHERE 'LOCALIZER' IN UNNEST(ImageType)", {18: file})


def test_what_cannot_be_translated_raises() -> None:
    assert duckdb.sql(instances.duckdb_text(parse("SELECT SAFE_CAST('x' AS float64) IS NULL"))).fetchall() == [(True,)]
    with pytest.raises(sqlglot.UnsupportedError):
        instances.duckdb_text(parse("SELECT ARRAY_AGG(x IGNORE NULLS LIMIT 2) FROM t"))
