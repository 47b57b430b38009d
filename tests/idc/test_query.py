"""Selection against expectations worked out by hand, and against counts of the real index."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ctfm.config import Corpus
from ctfm.errors import UserError
from ctfm.idc import query
from tests.idc.index_maker import GOOD, write_index

Index = Callable[..., str]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Return a function that writes an index of rows; what a row does not say is that of a good series."""
    return lambda *rows, **options: write_index(tmp_path / "index.parquet", *rows, **options)


def chosen(index: str, **settings: Any) -> list[str]:
    return sorted(query.select(Corpus(index=index, **settings)).series["SeriesInstanceUID"])


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"Modality": "MR"}, False),
        ({"Modality": None}, False),
        ({"instanceCount": 50}, False),
        ({"instanceCount": 51}, True),
        ({"instanceCount": None}, False),
        ({"sop_class_name": "CT Image Storage"}, True),
        ({"sop_class_name": "Raw Data Storage"}, False),
        ({"sop_class_name": None}, True),
        ({"SeriesDescription": "Topogram 0.6 T80s"}, False),
        ({"SeriesDescription": "CT Localiser"}, False),
        ({"SeriesDescription": "SCOUT"}, False),
        ({"SeriesDescription": "Thorax 5.0 B30f"}, True),
        ({"SeriesDescription": "Thorax 5.1 B30f"}, False),
        ({"SeriesDescription": "Thorax 0.75 B60f"}, False),
        ({"SeriesDescription": "LUNG 5 MM"}, True),
        ({"SeriesDescription": "lung 0.625mm"}, False),
        ({"SeriesDescription": "AX 7.5 mm"}, False),
        ({"SeriesDescription": "AX 1,25 MM"}, True),
        ({"SeriesDescription": "AX 0,6 MM"}, False),
        ({"SeriesDescription": "CHEST .625mm"}, False),
        ({"SeriesDescription": "AX STANDARD"}, True),
        ({"SliceThickness": 0.999}, False),
        ({"SliceThickness": 1.0}, True),
        ({"SliceThickness": 5.0}, True),
        ({"SliceThickness": 5.001}, False),
        ({"SliceThickness": 3.0, "SeriesDescription": "AX 7.5 mm"}, True),
        ({"SliceThickness": float("nan")}, True),
        ({"collection_id": "nlst", "SeriesDescription": "2,OPA,SE,VZOOM,B30f,352,2,120,75,40,na"}, True),
        ({"collection_id": "nlst", "SeriesDescription": "2,OPL,SE,VZOOM,T20s,352,2,120,75,40,na"}, False),
        ({"collection_id": "nlst", "SeriesDescription": "2,OPA,SE,VZOOM,B30f,352,7,120,75,40,na"}, False),
        ({"collection_id": "nlst", "SeriesDescription": "2,OPA,SE,VZOOM,B30f,352,na,120,75,40,na"}, True),
        ({"collection_id": "nlst", "SeriesDescription": "2,OPA,SE,SEN16,UNK,310,999,120,na,na,na"}, True),
        ({"collection_id": "nlst", "SeriesDescription": None}, True),
        ({"collection_id": "phantom_fda", "SeriesDescription": "Kernel-B30f_SliceTh-1.5_x"}, True),
        ({"collection_id": "phantom_fda", "SeriesDescription": "Kernel-B30f_SliceTh-0.75_x"}, False),
    ],
)
def test_each_criterion(index: Index, changes: dict[str, Any], kept: bool) -> None:
    assert chosen(index(GOOD, changes)) == (["1.1", "1.2"] if kept else ["1.1"])


def test_criteria_can_be_changed_and_switched_off(index: Index) -> None:
    file = index(
        GOOD, {"instanceCount": 20}, {"SliceThickness": 0.5}, {"SeriesDescription": "scout"}, {"Modality": "MR"}
    )
    assert chosen(file, min_instances=20) == ["1.1", "1.2"]
    assert chosen(file, thickness_mm=None) == ["1.1", "1.3"]
    assert chosen(file, thickness_mm=(0.5, 5)) == ["1.1", "1.3"]
    assert chosen(file, exclude_localizers=False) == ["1.1", "1.4"]
    assert chosen(file, modality="MR") == ["1.5"]
    assert chosen(file, modality=None) == ["1.1", "1.5"]


def test_collections_and_series_by_name(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    file = index({"collection_id": "nlst"}, {"collection_id": "tcga_kirc"}, {"collection_id": None}, {})
    assert chosen(file, collections=("nlst", "tcga_kirc")) == ["1.1", "1.2"]
    assert chosen(file, exclude_collections=("nlst",)) == ["1.2", "1.3", "1.4"]
    assert chosen(file, series=("1.4", "1.2")) == ["1.2", "1.4"]
    assert chosen(file, collections=("nlst",), series=("1.1", "1.2")) == ["1.1"]
    assert not caplog.messages
    assert chosen(file, series=("1.4", "9.9"), exclude_collections=("nslt",)) == ["1.4"]
    assert any("9.9 is not in the index" in message for message in caplog.messages)
    assert any("did you mean 'nlst'" in message for message in caplog.messages)
    with pytest.raises(UserError, match=r"corpora\.x\.collections: 'nslt' is not in the index; did you mean 'nlst'"):
        query.select(Corpus(index=file, collections=("nslt",)), where="corpora.x")


def test_funnel_counts_what_each_step_leaves(index: Index) -> None:
    same = {"PatientID": "p", "StudyInstanceUID": "2.0"}
    file = index(
        same,
        same,
        {"PatientID": "p"},
        {"Modality": "MR"},
        {"collection_id": "other"},
        {"instanceCount": 3},
        {"SeriesDescription": "scout"},
        {"SliceThickness": 9.0},
        {"sop_class_name": "Raw Data Storage"},
    )
    funnel = query.select(Corpus(index=file, exclude_collections=("other",), max_series=2)).funnel
    assert funnel[["step", "series"]].values.tolist() == [
        ["all series", 9],
        ["modality CT", 8],
        ["collections and series named", 7],
        ["at least 51 instances", 6],
        ["objects of class CT Image Storage", 5],
        ["no localizers", 4],
        ["slice thickness 1 to 5 mm where known", 3],
        ["random subset of 2", 2],
    ]
    assert funnel.iloc[6][["studies", "patients"]].tolist() == [2, 1]
    assert funnel.iloc[0][["studies", "patients"]].tolist() == [8, 7]


def test_steps_that_are_off_are_not_listed(index: Index) -> None:
    settings = Corpus(index=index(GOOD), modality=None, thickness_mm=None, exclude_localizers=False)
    assert query.select(settings).funnel["step"].tolist() == ["all series", "at least 51 instances"]


def test_row_holds_what_the_index_says(index: Index) -> None:
    file = index({"SeriesDescription": "LUNG 2.5 mm"}, {"series_size_MB": None})
    first, second = query.select(Corpus(index=file)).series.to_dict("records")
    assert first == {
        "SeriesInstanceUID": "1.1",
        "StudyInstanceUID": "2.1.1",
        "PatientID": "patient-1.1",
        "collection_id": "4d_lung",
        "num_instances": 100,
        "slice_thickness_min": 2.5,
        "slice_thickness_max": 2.5,
        "series_size_MB": 52.5,
        "series_aws_url": "s3://idc-open-data/1.1/*",
        "license": "CC BY 4.0",
        "shard": 0,
    }
    assert pd.isna([second["slice_thickness_min"], second["slice_thickness_max"], second["series_size_MB"]]).all()


def test_types_of_a_hand_made_index_are_forgiven(index: Index) -> None:
    file = index(GOOD, PatientID=7, instanceCount="60", series_size_MB=None, license_short_name=None)
    (only,) = query.select(Corpus(index=file)).series.to_dict("records")
    assert (only["PatientID"], only["num_instances"], only["license"]) == ("7", 60, None)


def test_random_subset_does_not_depend_on_order(tmp_path: Path, index: Index) -> None:
    file = index(*[GOOD] * 40)
    first = chosen(file, max_series=10)
    pd.read_parquet(file).sample(frac=1, random_state=1).to_parquet(file)
    assert chosen(file, max_series=10) == first
    digests = {f"1.{n}": hashlib.sha256(f"0:1.{n}".encode()).hexdigest() for n in range(1, 41)}
    assert first == sorted(sorted(digests, key=digests.__getitem__)[:10])
    other = query.select(Corpus(index=file, max_series=10), seed=1).series["SeriesInstanceUID"]
    assert sorted(other) != first


def test_new_series_move_no_other_to_another_shard(index: Index) -> None:
    few = query.select(Corpus(index=index(*[GOOD] * 20), shards=4)).series
    many = query.select(Corpus(index=index(*[GOOD] * 60), shards=4)).series
    before, after = (table.set_index("SeriesInstanceUID")["shard"] for table in (few, many))
    assert (after[before.index] == before).all()
    assert set(after) == {0, 1, 2, 3}
    assert after["1.7"] == int(hashlib.sha256(b"1.7").hexdigest()[:8], 16) % 4


def test_collections_beside_the_paper(index: Index) -> None:
    file = index(
        {"collection_id": "nlst"},
        {"collection_id": "mine", "license_short_name": "CC0"},
        {"collection_id": "mine"},
        {"collection_id": "tcga_read", "license_short_name": None},
    )
    table = query.select(Corpus(index=file)).collections
    assert table["collection_id"].tolist() == ["mine", "nlst", "tcga_read"]
    assert table["series"].tolist() == [2, 1, 1]
    assert table["paper_series"].fillna(-1).tolist() == [-1, 128037, 3]
    assert table["license"].tolist() == ["CC BY 4.0, CC0", "CC BY 4.0", ""]


def test_local_files_become_relative_to_the_current_folder(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = index({"series_aws_url": "file:dicom/1.1/*"}, GOOD)
    folder = tmp_path / "elsewhere" / "deep"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert query.select(Corpus(index=os.path.relpath(file))).series["series_aws_url"].tolist() == [
        "file:../../dicom/1.1/*",
        "s3://idc-open-data/1.2/*",
    ]


def test_same_inputs_give_the_same_facts(index: Index) -> None:
    file = index(*[GOOD] * 5)
    first, again = (query.select(Corpus(index=file), seed=3).facts for _ in range(2))
    assert first == again
    assert first["tables"]["listing"] == {
        "file": "index.parquet",
        "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest(),
    }
    assert str(Path(file).parent) not in json.dumps(first)
    other = query.select(Corpus(index=index(*[GOOD] * 6)), seed=3).facts
    assert other["rows_sha256"] != first["rows_sha256"]
    assert other["sql_sha256"] == first["sql_sha256"]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"Modality": "MR"}], {}, r"step 'modality CT' \(1 before it\); change corpora\.x\.modality"),
        ([GOOD], {"series": ("9.9",)}, r"'collections and series named'.*change corpora\.x\.series"),
        ([{"instanceCount": 9}, {"Modality": "MR"}], {}, r"'at least 51 instances' \(1 before it\).*min_instances"),
        ([{"SeriesDescription": "scout"}], {}, r"'no localizers'.*corpora\.x\.exclude_localizers"),
        ([{"SliceThickness": 8.0}], {}, r"'slice thickness 1 to 5 mm where known'.*corpora\.x\.thickness_mm"),
        ([{"series_aws_url": "gs://bucket/x"}], {}, r"series '1\.1' has no series_aws_url"),
        ([{"series_aws_url": None}], {}, r"series '1\.1' has no series_aws_url"),
        ([{"series_aws_url": "s3://b/x' && rm /*"}], {}, r"series '1\.1' has no series_aws_url"),
        ([{"SeriesInstanceUID": "../../x"}], {}, r"'\.\./\.\./x' is no valid UID"),
        ([{"SeriesInstanceUID": "1.1"}, GOOD, {"SeriesInstanceUID": "1.1"}], {}, r"'1\.1' stands in more than one row"),
    ],
)
def test_bad_input_names_what_to_mend(
    index: Index, rows: list[dict[str, Any]], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        query.select(Corpus(index=index(*rows), **settings), where="corpora.x")


def test_empty_index_is_named(index: Index) -> None:
    file = index(GOOD)
    pd.read_parquet(file).iloc[:0].to_parquet(file)
    with pytest.raises(UserError, match=r"'all series' \(0 before it\); change corpora\.index"):
        query.select(Corpus(index=file))


def test_missing_columns_are_named(index: Index) -> None:
    with pytest.raises(UserError, match=r"index\.parquet: .* needs the columns Modality, series_aws_url"):
        query.select(Corpus(index=index(GOOD, drop=("series_aws_url", "Modality"))))


def test_wrong_or_absent_file(tmp_path: Path) -> None:
    (tmp_path / "index.parquet").write_text("not parquet")
    with pytest.raises(UserError, match="not a parquet table"):
        query.select(Corpus(index=str(tmp_path / "index.parquet")))
    with pytest.raises(UserError, match=r"nowhere\.parquet: no such file.*set corpora\.index"):
        query.select(Corpus(index="nowhere.parquet"))


def test_real_index_gives_known_counts() -> None:
    """Check against counts of release 25.0.5 that were made with other queries; other releases hold more."""
    chosen = query.select(Corpus(releases=None))
    funnel = chosen.funnel.set_index("step")
    if chosen.facts["tables"]["listing"]["version"] == "25.0.5":
        assert funnel.loc["all series", "series"] == 1_044_191
        assert funnel.loc["at least 51 instances"].tolist() == [178_517, 91_397, 38_792]
        assert funnel.iloc[-1].tolist() == [176_284, 91_081, 38_744]
        assert (chosen.series["collection_id"] == "nlst").sum() == 130_150
        assert round(chosen.series["series_size_MB"].sum() / 1e6, 3) == 16.372
    assert 148_000 <= len(chosen.series) <= 300_000
    assert chosen.collections["paper_series"].notna().sum() == 69
    assert chosen.collections["paper_series"].sum() == 148_394
    assert chosen.series["series_aws_url"].str.startswith("s3://").all()
    assert "idc_index" not in sys.modules
