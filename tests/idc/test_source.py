"""What a selection is made of: two releases rebuilt from three tables, headers' tables, the paper's query."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctfm import resources
from ctfm.config import Corpus, Select
from ctfm.errors import UserError
from ctfm.idc import query, releases
from tests.idc import dicom_all
from tests.idc.index_maker import install, listed, newest, pin, prior, write_index

FUNNEL = ["step", "series", "studies", "patients"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a package of release 25 beside which release 18 is cached; five series, each a case."""
    current = [
        newest("1.1", "moved"),
        newest("1.2", "young", series_revised_idc_version=15),
        newest("1.3", "now", series_revised_idc_version=20),
        newest("1.4", "raw", sop_class_name="Raw Data Storage"),
        newest("1.6", "after", series_revised_idc_version=19),
        newest("1.7", license_short_name="CC BY-NC 4.0"),
    ]
    before = (
        prior("1.3", "then", 5, 19),  # was revised: release 18 lists this version
        prior("1.3", "then", 5, 18),  # rows may repeat
        prior("1.5", "gone", 14, 18),  # was removed
        prior("1.2", "other", 16, 17),  # was not there in 14
    )
    install(monkeypatch, tmp_path / "package", current, before)
    old = [("1.1", "moved"), ("1.2", "young"), ("1.3", "then"), ("1.4", "raw"), ("1.5", "gone"), ("1.7", "lost")]
    write_index(tmp_path / "old.parquet", *[listed(*names) for names in old])
    known = pin(monkeypatch, tmp_path / "old.parquet")
    cached = tmp_path / "cache/idc-index-data" / known.version
    cached.mkdir(parents=True)
    (tmp_path / "old.parquet").rename(cached / known.file)
    monkeypatch.setenv("CTFM_MACHINE", json.dumps({"cache": str(tmp_path / "cache")}))
    return tmp_path / "package"


def test_membership_and_places_of_two_releases(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = query.select(Corpus())
    assert dict(chosen.series[["SeriesInstanceUID", "series_aws_url"]].values.tolist()) == {
        "1.1": "s3://idc-open-data/moved/*",  # another bucket now
        "1.3": "s3://idc-open-data/then/*",  # the version that the listing holds
        "1.5": "s3://idc-open-data/gone/*",
        "1.7": "s3://idc-open-data-old/lost/*",  # no table knows this version
    }
    assert chosen.facts["places_not_found"] == 1
    assert any("where 1 series are; they keep their old location" in message for message in caplog.messages)
    assert chosen.series.set_index("SeriesInstanceUID")["license"]["1.7"] == "CC BY-NC 4.0"
    assert chosen.funnel[["step", "series"]].values.tolist()[:5] == [
        ["all series listed by IDC release 18", 6],
        ["modality CT", 6],
        ["held by IDC release 14", 5],
        ["at least 51 instances", 5],
        ["objects of class CT Image Storage", 4],
    ]


def test_other_releases(package: Path) -> None:
    def chosen(*pair: int) -> list[str]:
        return query.select(Corpus(releases=pair)).series["SeriesInstanceUID"].tolist()

    assert chosen(25, 18) == ["1.1", "1.2", "1.3", "1.7"]
    assert chosen(14, 25) == ["1.1", "1.3", "1.7"]
    assert chosen(19, 25) == ["1.1", "1.2", "1.3", "1.6", "1.7"]
    newest_alone = query.select(Corpus(releases=None))
    assert newest_alone.series["SeriesInstanceUID"].tolist() == ["1.1", "1.2", "1.3", "1.6", "1.7"]
    assert set(newest_alone.facts["tables"]) == {"listing", "collections"}


def test_a_release_that_holds_nothing_is_named(package: Path) -> None:
    with pytest.raises(UserError, match=r"'held by IDC release 14' \(1 before it\); change corpora\.x\.releases"):
        query.select(Corpus(series=("1.2",)), where="corpora.x")


def test_tables_are_pinned(package: Path) -> None:
    facts = query.select(Corpus()).facts
    assert {role: table["version"] for role, table in facts["tables"].items()} == {
        "listing": "18.2.0",
        "newest": "25.0.5",
        "prior": "25.0.5",
        "collections": "25.0.5",
    }
    assert set(facts["sql_sha256"]) == {"select_index.sql", "idc_releases.sql"}


def test_a_package_that_remembers_nothing_is_named(package: Path) -> None:
    table = pd.read_parquet(package / releases.INDEX)
    table.drop(columns="series_revised_idc_version").to_parquet(package / releases.INDEX)
    with pytest.raises(UserError, match=r"idc-index-data 25\.0\.5: idc_index\.parquet has no series_revised_idc_vers"):
        query.select(Corpus())


def headers(folder: Path, **series: tuple[float | None, list[str], bool | None]) -> str:
    """Write the two tables of headers: thickness, image type, and whether positions are unique (None: no row)."""
    rows = [(uid.replace("_", "."), *facts) for uid, facts in series.items()]
    ct = {
        "SeriesInstanceUID": pa.array([row[0] for row in rows], pa.string()),
        "SliceThickness": pa.array([row[1] for row in rows], pa.float64()),
        "ImageType": pa.array([row[2] for row in rows], pa.list_(pa.string())),
    }
    pq.write_table(pa.table(ct), folder / "ct_index.parquet")
    told = [row for row in rows if row[3] is not None]
    geometry = {
        "SeriesInstanceUID": pa.array([row[0] for row in told], pa.string()),
        "unique_slice_positions": pa.array([row[3] for row in told], pa.bool_()),
    }
    pq.write_table(pa.table(geometry), folder / "volume_geometry_index.parquet")
    return str(folder)


AXIAL, SCOUT = ["ORIGINAL", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def test_headers_replace_guesses(tmp_path: Path) -> None:
    guesses = ["AX 7.5 mm", "AX 3 mm", "scout view", "AX", "AX", "AX 7.5 mm", "AX 2 mm", "AX 7.5 mm"]
    index = write_index(tmp_path / "index.parquet", *[{"SeriesDescription": text} for text in guesses])
    folder = headers(
        tmp_path,
        **{
            "1_1": (2.5, AXIAL, True),  # said to be thick
            "1_2": (0.6, AXIAL, True),  # said to be thick enough
            "1_3": (2.5, AXIAL, True),  # said to be a scout
            "1_4": (2.5, SCOUT, None),
            "1_5": (2.5, AXIAL, False),
            "1_6": (None, AXIAL, True),  # headers hold no thickness: they decide when the series is read
        },
    )
    chosen = query.select(Corpus(index=index, geometry_index=folder))
    thickness = chosen.series.set_index("SeriesInstanceUID")["slice_thickness_max"]
    assert thickness.fillna(-1).to_dict() == {"1.1": 2.5, "1.3": 2.5, "1.6": -1, "1.7": 2.0}
    assert chosen.funnel[["step", "series"]].values.tolist()[3:] == [
        ["no localizers", 7],
        ["slice thickness 1 to 5 mm where known", 5],
        ["one position for every instance where known", 4],
    ]
    assert {"listing", "ct", "geometry"} <= set(chosen.facts["tables"])
    assert "geometry_index.sql" in chosen.facts["sql_sha256"]
    assert str(tmp_path) not in json.dumps(chosen.facts)
    kept = query.select(Corpus(index=index, geometry_index=folder, unique_positions=False))
    assert "1.5" in set(kept.series["SeriesInstanceUID"])
    assert "one position for every instance where known" not in set(kept.funnel["step"])


def test_repeated_positions_name_their_key(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index.parquet", {})
    folder = headers(tmp_path, **{"1_1": (2.5, AXIAL, False)})
    with pytest.raises(UserError, match=r"'one position .*' \(1 before it\); change corpora\.x\.unique_positions"):
        query.select(Corpus(index=index, geometry_index=folder), where="corpora.x")


def test_tables_of_headers_need_their_columns(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index.parquet", {})
    folder = headers(tmp_path, **{"1_1": (2.5, AXIAL, True)})
    pd.DataFrame({"SeriesInstanceUID": ["1.1"]}).to_parquet(tmp_path / "ct_index.parquet")
    with pytest.raises(UserError, match=r"ct_index\.parquet: .* needs the columns SliceThickness, ImageType"):
        query.select(Corpus(index=index, geometry_index=folder))


def test_columns_of_headers_in_an_own_index_are_not_taken_for_ours(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index.parquet", {"held": False, "headers_known": True, "localizer": True})
    assert len(query.select(Corpus(index=index)).series) == 1


@pytest.fixture
def instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Return small tables of instances, by release."""
    install(monkeypatch, tmp_path / "package", [newest("1.1")])
    return dicom_all.write(tmp_path)


def test_the_papers_query_on_tables_of_instances(instances: dict[int, str], tmp_path: Path) -> None:
    corpus = Corpus(dicom_all=instances)
    chosen = query.select(corpus)
    assert sorted(chosen.series["SeriesInstanceUID"]) == sorted(dicom_all.chosen((14, 18)))
    assert chosen.funnel[FUNNEL[1:]].values.tolist() == [list(left) for left in dicom_all.funnel(14, 18)]
    assert chosen.facts["query"]["releases"] == [14, 18]
    assert str(tmp_path) not in json.dumps(chosen.facts)
    assert chosen.series["slice_thickness_min"].between(1, 5).all()


def test_steps_of_the_corpus_follow_the_papers_query(instances: dict[int, str]) -> None:
    corpus = Corpus(dicom_all=instances, max_series=3, min_instances=52)
    funnel = query.select(corpus).funnel
    before = len(dicom_all.funnel(14, 18))
    assert funnel["step"].tolist()[before:] == ["at least 52 instances", "random subset of 3"]
    assert funnel["series"].iloc[-1] == 3


@pytest.mark.parametrize(
    ("looser", "key"),
    [
        ({"modality": "MR"}, "modality"),
        ({"min_instances": 50}, "min_instances"),
        ({"thickness_mm": None}, "thickness_mm"),
        ({"thickness_mm": (1, 6)}, "thickness_mm"),
        ({"exclude_localizers": False}, "exclude_localizers"),
        ({"unique_positions": False}, "unique_positions"),
    ],
)
def test_criteria_looser_than_the_query_are_refused(
    instances: dict[int, str], looser: dict[str, Any], key: str
) -> None:
    with pytest.raises(UserError, match=rf"corpora\.x\.{key}: the paper's query asks for .* looser"):
        query.select(Corpus(dicom_all=instances, **looser), where="corpora.x")


def test_an_own_index_goes_before_bigquery(tmp_path: Path) -> None:
    index = write_index(tmp_path / "index.parquet", {})
    assert len(query.select(Corpus(index=index), select=Select(backend="bigquery")).series) == 1


@pytest.fixture(scope="module")
def paper() -> query.Selection:
    """Return the paper's corpus, chosen from the real tables of two releases."""
    (pinned,) = (known for known in releases.pins() if known.release == 18)
    if not (releases.cache() / pinned.version / pinned.file).is_file():
        pytest.skip("release 18 is not in the cache of index tables ('ctfm fetch-index' brings it)")
    if releases.installed().version != "25.0.5":
        pytest.skip("the counts are those of idc-index-data 25.0.5")
    return query.select(Corpus())


def test_real_releases_give_the_papers_corpus(paper: query.Selection) -> None:
    """Check against the published counts, and those that another query gave on the same tables."""
    last = paper.funnel.iloc[-1]
    assert last[FUNNEL[1:]].tolist() == [154_214, 82_313, 33_196]
    assert paper.funnel["series"].tolist()[:4] == [897_106, 243_260, 241_499, 155_832]
    counts = paper.collections.set_index("collection_id")
    published = pd.read_csv(resources.path("paper_collections.csv")).set_index("collection_id")["n"]
    excess = counts["series"].reindex(published.index) - published
    assert (excess >= 0).all()
    assert (excess == 0).sum() == 21
    assert set(counts.index) - set(published.index) == {"ct_lymph_nodes", "pancreas_ct"}
    assert counts["series"].sum() <= 1.04 * published.sum()
    assert counts["series"]["nlst"] == 130_126
    assert round(paper.series["series_size_MB"].sum() / 1e6, 3) == 13.768


def test_real_places_are_those_of_the_newest_release(paper: query.Selection) -> None:
    assert paper.facts["places_not_found"] == 0
    moved = paper.series[paper.series["collection_id"] == "phantom_fda"]["series_aws_url"]
    assert len(moved) == 3576
    assert moved.str.startswith("s3://idc-open-data/").all()
    assert not paper.licenses["license"].eq("unknown").any()
    assert len(paper.overlap) == 4
    for collection in paper.collections["collection_id"]:
        assert f"(`{collection}`)" in paper.attribution
    assert paper.attribution.count("https://doi.org/") >= 2 * 71 + 1  # a DOI and a citation of each, and IDC's


def test_real_pairs_of_rider_and_a_corpus_without_them(paper: query.Selection) -> None:
    """63 series of 32 patients, as the paper counts them; all but one patient have two."""
    rider = query.select(Corpus(collections=("rider_lung_ct",))).series
    assert len(rider) == 63 and rider.groupby("PatientID").size().value_counts().to_dict() == {2: 31, 1: 1}
    assert set(rider["SeriesInstanceUID"]) <= set(paper.series["SeriesInstanceUID"])
    clean = query.select(Corpus(exclude_downstream=True)).series
    assert not set(rider["SeriesInstanceUID"]) & set(clean["SeriesInstanceUID"])
