"""Others read these tables: their columns stay."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ctfm.schemas import SCHEMAS

PROMISED = {
    "series": "SeriesInstanceUID StudyInstanceUID PatientID collection_id num_instances slice_thickness_min "
    "slice_thickness_max series_size_MB series_aws_url license shard",
    "funnel": "step series studies patients",
    "collections": "collection_id series paper_series license",
    "volumes": "status reason path shape spacing_in spacing_out hu_percentiles bytes sha256 seconds",
    "cases": "case patient split status reason image label",
    "scores": "encoder checkpoint epoch seed metric value",
    "metrics": "task dataset encoder shots seed split_hash case_id label metric value note",
    "summary": "task dataset encoder shots group metric estimate low high n method paper",
    "embeddings": "case embedding",
}


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_promised_columns_are_there(name):
    assert set(PROMISED[name].split()) <= set(SCHEMAS[name].names)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_columns_have_types_that_any_reader_of_parquet_knows(name):
    plain = {pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.binary()}
    kinds = [field.type.value_type if pa.types.is_list(field.type) else field.type for field in SCHEMAS[name]]
    assert len(set(SCHEMAS[name].names)) == len(kinds)
    assert set(kinds) <= plain
