"""Tables have exactly the columns of their schema."""

from __future__ import annotations

import pandas as pd
import pytest

from ctfm import schemas, tables
from ctfm.errors import UserError

ROW = {"step": "all", "series": 3, "studies": 2, "patients": 1}


def test_round_trip_with_facts(tmp_path):
    tables.write(pd.DataFrame([ROW]), "funnel", tmp_path / "f.parquet", {"release": 25})
    assert tables.read("funnel", tmp_path / "f.parquet").to_dict("records") == [ROW]
    assert tables.facts(tmp_path / "f.parquet") == {"release": 25}


def test_unknown_or_missing_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match="extra"):
        tables.write(pd.DataFrame([{**ROW, "extra": 1}]), "funnel", tmp_path / "f.parquet")
    pd.DataFrame([{"step": "all"}]).to_parquet(tmp_path / "g.parquet")
    with pytest.raises(UserError, match="series, studies, patients"):
        tables.read("funnel", tmp_path / "g.parquet")


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        tables.read("funnel", tmp_path / "none.parquet")
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(UserError, match="not a parquet table"):
        tables.read("funnel", tmp_path / "x.parquet")


def test_an_empty_table_keeps_its_types(tmp_path):
    tables.write(tables.of("volumes", []), "volumes", tmp_path / "v.parquet")
    assert list(tables.read("volumes", tmp_path / "v.parquet").columns) == schemas.SCHEMAS["volumes"].names
