"""`ctfm phantom`: what it leaves, that it repeats, and what it says of wrong settings."""

from __future__ import annotations

import hashlib
import json

import pandas as pd
import pytest

from ctfm import spec
from ctfm.datasets import cq500, sinoct, totalsegmentator
from ctfm.errors import UserError
from ctfm.spec import check
from ctfm.stages.phantom import layout, phantom

SETTINGS = {"series": 2, "broken": 1, "slices": 16, "matrix": 32, "cases": 3, "case_spacing_mm": 10.0}


def job(**changes):
    return json.dumps(spec.spec(check({"phantom": {**SETTINGS, **changes}, "seed": 3}), "phantom"))


def digests(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom")
    phantom(out, spec=job())
    return out


def test_the_index_names_every_series_and_where_it_is(made):
    table = pd.read_parquet(made / "index.parquet")
    assert len(table) == 3 and set(table["license_short_name"]) == {"CC0"}
    assert set(table["collection_id"]) == {"phantom_chest", "phantom_abdomen"}
    for row in table.itertuples():
        assert row.series_aws_url == f"file:dicom/{row.SeriesInstanceUID}/*"
        files = list((made / "dicom" / row.SeriesInstanceUID).glob("*.dcm"))
        assert len(files) == row.instanceCount
        assert sum(p.stat().st_size for p in files) / 1e6 == pytest.approx(row.series_size_MB)


def test_the_data_set_reader_finds_all_cases(made):
    root = made / "totalsegmentator"
    totalsegmentator.check(root)
    cases = list(totalsegmentator.cases(root))
    assert {case.split for case in cases} == {"train", "val", "test"}
    assert all(case.image.is_file() and len(case.labels) == 117 for case in cases)


def test_a_rerun_makes_the_same_bytes_and_a_new_seed_does_not_mix(made, tmp_path):
    phantom(tmp_path, spec=job())
    assert digests(tmp_path) == digests(made)
    phantom(tmp_path, spec=job(slices=17))
    old, new = (set(pd.read_parquet(p / "index.parquet")["SeriesInstanceUID"]) for p in (made, tmp_path))
    assert len(new) == 3 and not old & new


def test_a_run_that_fails_leaves_no_index(made, tmp_path, monkeypatch):
    phantom(tmp_path, spec=job())
    monkeypatch.setattr("ctfm.phantom.totalsegmentator.write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        phantom(tmp_path, spec=job())
    assert not (tmp_path / "index.parquet").exists()


def test_layouts_are_found_by_file_name():
    assert layout("totalsegmentator").__name__ == "ctfm.phantom.totalsegmentator"
    with pytest.raises(UserError, match="did you mean 'totalsegmentator'"):
        layout("totalsegmentater")
    with pytest.raises(UserError, match="no layout called 'dicom'"):
        layout("dicom")


def test_an_absent_section_is_said():
    with pytest.raises(UserError, match="phantom"):
        spec.spec(check({}), "phantom")


def test_a_layout_may_have_its_own_subjects(tmp_path):
    phantom(tmp_path, spec=job(series=1, broken=0, heads=10, layouts=["cq500", "sinoct"]))
    assert len(list(sinoct.cases(tmp_path / "sinoct"))) == 10
    assert len(list(cq500.cases(tmp_path / "cq500"))) == 5
