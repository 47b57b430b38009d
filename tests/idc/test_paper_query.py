"""The paper's query, against expectations worked out by hand, on DuckDB and on a stand-in for BigQuery."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pandas as pd
import pytest
import sqlglot
from sqlglot import exp
from sqlglot.optimizer.qualify import qualify

from ctfm import resources
from ctfm.config import Corpus, Select
from ctfm.errors import UserError
from ctfm.idc import bigquery, paper_query
from tests.idc import bigquery_server, dicom_all

# The listing as it is printed in the supplement.
PRINTED = """
WTTH
idc_instances_per_series AS (
SELECT
   SeriesInstanceUID,
    COUNT(DISTINCT(SOPInstanceUID)) AS num_instances,
    COUNT(DISTINCT(ARRAY_TO_STRING(ImagePositionPatient, "/"))) AS position_count,
    MAX(SAFE_CAST(SliceThickness AS float64)) AS max_SliceThickness,
    MIN(SAFE_CAST(SliceThickness AS float64)) AS min_SliceThickness,
    STRING_AGG(DISTINCT(SAFE_CAST("LOCALIZER" IN UNNEST(ImageType) AS string)), "") AS
has_localizer
FROM
    `bigquery-public-data.idc_v14.dicom_all`
WHERE
   Modality = "CT" and
   access = "Public"
GROUP BY
   SeriesInstanceUID)
SELECT
dicom_all.SeriesInstanceUID,
ANY_VALUE(dicom_all.collection_id) as collection_id,
ANY_VALUE(dicom_all.PatientID) AS PatientID,
ANY_VALUE(idc_instances_per_series.num_instances) AS num_instances,
ANY_VALUE(CONCAT("https://viewer.imaging.datacommons.cancer.gov/viewer/",
dicom_all.StudyInstanceUID, "?seriesInstanceUID=", dicom_all.SeriesInstanceUID)) AS
idc_url
FROM
 `bigquery-public-data.idc_v18.dicom_all` AS dicom_all
JOIN
idc instances per series
ON
dicom all.SeriesInstanceUID = idc instances per series.SeriesInstanceUID
WHERE
idc_instances_per_series.min_SliceThickness >= 1
AND idc instances per series.max SliceThickness <= 5
AND idc instances per series.num instances > 50
AND idc_instances_per_series.num_instances/idc_instances_per_series.position_count = 1
AND has localizer = "false"
GROUP BY
SeriesInstanceUID
"""
# Each fault of the print, and what the query file has.
MENDED = {
    "WTTH": "WITH",
    "idc instances per series": "idc_instances_per_series",
    "dicom all.": "dicom_all.",
    "max SliceThickness": "max_SliceThickness",
    "num instances": "num_instances",
    "has localizer": "has_localizer",
    "GROUP BY\nSeriesInstanceUID": "GROUP BY\ndicom_all.SeriesInstanceUID",
}
RELEASES = [(14, 18), (14, 14)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    return dicom_all.write(tmp_path_factory.mktemp("dicom_all"))


def run(tables: dict[int, str], releases: tuple[int, int] | None = (14, 18)) -> paper_query.PaperRows:
    return paper_query.run(Corpus(dicom_all=tables, releases=releases), Select(), "corpora.mine")


def tree(text: str) -> exp.Select:
    query = sqlglot.parse_one(text, read="bigquery")
    assert isinstance(query, exp.Select)
    for node in query.walk():
        node.pop_comments()
    return query


def test_the_file_is_the_printed_query_mended() -> None:
    """Tables, joins, conditions and grouping are the paper's; its columns are there, and some more."""
    with pytest.raises(sqlglot.ParseError):
        sqlglot.parse_one(PRINTED, read="bigquery")
    mended = PRINTED
    for fault, remedy in MENDED.items():
        assert fault in mended
        mended = mended.replace(fault, remedy)
    theirs, ours = tree(mended), tree(paper_query.text(14, 18, "bigquery"))
    assert ours.ctes[0] == theirs.ctes[0]
    for part in ("from_", "where", "group"):
        assert ours.args[part] == theirs.args[part]
    assert ours.args["joins"][0] == theirs.args["joins"][0]
    for mine, paper in zip(ours.selects, theirs.selects, strict=False):
        assert mine.sql().replace("MIN(", "ANY_VALUE(") == paper.sql()


def test_the_two_releases_are_the_only_parameters() -> None:
    raw = resources.path(*paper_query.SQL).read_text()
    assert set(re.findall(r"\{.*?\}", raw)) == {"{statistics_release}", "{listing_release}"}
    assert "?" not in re.sub(r'"[^"]*"|--.*', "", raw) and "@" not in raw
    text = paper_query.text(14, 18, "bigquery")
    found = [(table.catalog, table.db, table.name) for table in tree(text).find_all(exp.Table) if table.db]
    assert sorted(found) == [("bigquery-public-data", f"idc_v{release}", "dicom_all") for release in (14, 18, 18)]
    assert "idc_v18" not in paper_query.text(14, 14, "bigquery")


@pytest.mark.parametrize("which", ["rows", "funnel"])
def test_bigquery_would_resolve_every_name(which: str) -> None:
    """Names are resolved by BigQuery's rules against the table's own columns."""
    query = paper_query.parse(paper_query.text(14, 18, "bigquery"))
    if which == "funnel":
        query = sqlglot.parse_one(paper_query.funnel(query, 14, 18)[1].sql("bigquery"), read="bigquery")
    columns = dict.fromkeys(dicom_all.SCHEMA.names, "STRING")
    columns |= dict.fromkeys(("ImagePositionPatient", "ImageType"), "ARRAY<STRING>") | {"instance_size": "INT64"}
    releases = {f"idc_v{release}": {"dicom_all": columns} for release in (14, 18)}
    qualify(query, dialect="bigquery", schema={"bigquery-public-data": releases}, validate_qualify_columns=True)


def test_duckdb_text_is_translated_throughout() -> None:
    text = paper_query.text(14, 18, "duckdb")
    assert "TRY_CAST" in text and '"bigquery-public-data"."idc_v14"."dicom_all"' in text
    assert "SAFE_" not in text and "`" not in text and "UNNEST" not in text


@pytest.mark.parametrize("releases", RELEASES)
def test_each_series_by_name(tables: dict[int, str], releases: tuple[int, int]) -> None:
    assert len(dicom_all.CASES) >= 36
    assert run(tables, releases).frame["SeriesInstanceUID"].tolist() == dicom_all.chosen(releases)


@pytest.mark.parametrize("releases", RELEASES)
def test_each_number_of_the_funnel(tables: dict[int, str], releases: tuple[int, int]) -> None:
    steps = run(tables, releases).funnel
    assert [step["step"] for step in steps] == [
        "all series of release 14",
        "Modality = 'CT'",
        "access = 'Public'",
        f"listed in release {releases[1]}",
        "min_SliceThickness >= 1",
        "max_SliceThickness <= 5",
        "num_instances > 50",
        "num_instances / position_count = 1",
        "has_localizer = 'false'",
    ]
    counts = [(step["series"], step["studies"], step["patients"]) for step in steps]
    assert counts == dicom_all.funnel(*releases)
    series = [count[0] for count in counts]
    assert series[3] < series[2] or releases[1] == 14
    assert all(a > b for a, b in itertools.pairwise(series[3:]))  # every condition is put to the test


def test_the_funnel_follows_the_file(tables: dict[int, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another condition in the file is another step, with no change of the program."""
    raw = resources.path(*paper_query.SQL).read_text()
    changed = raw.replace('AND access = "Public"', 'AND access = "Public" AND SliceThickness <> "4"')
    changed = changed.replace("num_instances > 50", "num_instances > 59").replace('AND has_localizer = "false"\n', "")
    (tmp_path / "select_ct.sql").write_text(changed)
    monkeypatch.setattr(resources, "path", lambda *_: tmp_path / "select_ct.sql")
    found = run(tables)
    names = [step["step"] for step in found.funnel]
    assert names[3] == "SliceThickness <> '4'" and "num_instances > 59" in names and "localizer" not in str(names)
    uids = set(found.frame["SeriesInstanceUID"])
    assert len(uids) == found.funnel[-1]["series"]
    assert dicom_all.UIDS["all localizers"] in uids and dicom_all.UIDS["51 instances"] not in uids


def row(found: paper_query.PaperRows, name: str) -> pd.Series:
    return found.frame.set_index("SeriesInstanceUID").loc[dicom_all.UIDS[name]]


def test_columns_of_a_series(tables: dict[int, str]) -> None:
    good = row(run(tables), "thickness mixed, inside")
    number = dicom_all.UIDS["thickness mixed, inside"].rpartition(".")[2]
    assert good["collection_id"] == f"collection_{int(number) % 5}"
    assert good["PatientID"] == f"patient-{int(number) // 3}"
    assert good["StudyInstanceUID"] == f"2.{int(number) // 2}"
    assert good["series_aws_url"] == f"s3://idc-open-data/uuid-{number}/*"
    assert good["idc_url"].endswith(f"/viewer/2.{int(number) // 2}?seriesInstanceUID=1.2.{number}")
    assert (good["Modality"], good["SeriesDescription"]) == ("CT", f"series {number}")
    assert (good["license_short_name"], good["source_DOI"]) == ("CC BY 4.0", "10.7937/example")
    assert (good["slice_thickness_min"], good["slice_thickness_max"]) == (2.5, 4.0)
    assert good["instanceCount"] == good["num_instances"] == 60
    assert good["series_size_MB"] == pytest.approx(sum(map(dicom_all.size, range(60))) / 1e6, abs=1e-9)


def test_a_file_that_stands_in_two_rows_is_counted_once(tables: dict[int, str]) -> None:
    twice = row(run(tables), "51 instances, rows twice")
    assert twice["instanceCount"] == twice["num_instances"] == 51
    assert twice["series_size_MB"] == pytest.approx(sum(map(dicom_all.size, range(51))) / 1e6, abs=1e-9)


def test_what_is_fetched_is_counted_in_the_listing(tables: dict[int, str]) -> None:
    """The criteria are those of one release; files and size are of the other, which the download is checked against."""
    moved = row(run(tables), "60 instances in v14, 40 in v18")
    assert (moved["num_instances"], moved["instanceCount"]) == (60, 40)
    mixed = row(run(tables), "some instances of another modality")
    assert (mixed["num_instances"], mixed["instanceCount"]) == (60, 70)
    thick = row(run(tables), "good in v14, too thick in v18")
    assert thick["slice_thickness_max"] == 2.5


@pytest.mark.parametrize("releases", RELEASES)
def test_bigquery_gives_the_same_rows(
    tables: dict[int, str], releases: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run(tables, releases)
    with bigquery_server.running() as server:
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "who-pays")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        there = paper_query.run(Corpus(releases=releases), Select(backend="bigquery"), "corpora.mine")
        sent = [asked["query"] for asked in server.configurations(dry=False)]
    pd.testing.assert_frame_equal(there.frame, here.frame)
    assert there.funnel == here.funnel
    assert there.facts["sql_sha256"] == here.facts["sql_sha256"]
    assert there.facts["bytes_billed"] == 2 * server.bytes_processed
    assert sent[0] == paper_query.text(*releases, "bigquery")


def test_facts(tables: dict[int, str]) -> None:
    facts = run(tables).facts
    assert (facts["backend"], facts["releases"], list(facts["tables"])) == ("duckdb", [14, 18], ["14", "18"])
    assert facts["sql_sha256"] != run(tables, (14, 14)).facts["sql_sha256"]
    assert run(tables, None).facts["releases"] == [18, 18]


def test_the_newest_release_is_that_of_the_installed_index(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(queries: list[str], select: Select) -> None:
        asked.extend(queries)
        raise UserError("no account here")

    monkeypatch.setattr(bigquery, "run", answer)
    monkeypatch.setattr(paper_query.metadata, "version", {"idc-index-data": "23.10.1"}.__getitem__)
    with pytest.raises(UserError, match="no account here"):
        paper_query.run(Corpus(releases=None), Select(backend="bigquery"), "corpora.mine")
    assert asked[0] == paper_query.text(23, 23, "bigquery")
    assert "idc_v23" in asked[1]


def test_missing_release_and_column(tables: dict[int, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpora\.mine\.dicom_all: no table of release 14"):
        run({18: tables[18]})
    poor = tmp_path / "poor.parquet"
    pd.read_parquet(tables[14]).drop(columns=["access", "PatientID"]).to_parquet(poor)
    with pytest.raises(UserError, match=r"poor\.parquet: .* needs the columns access, PatientID; export it anew"):
        run({14: str(poor), 18: tables[18]})


def test_nothing_left_names_the_step(tables: dict[int, str], tmp_path: Path) -> None:
    thick = tmp_path / "thick.parquet"
    frame = pd.read_parquet(tables[14])
    frame.assign(SliceThickness="7").to_parquet(thick)
    with pytest.raises(UserError, match=r"corpora\.mine: .* at the step 'max_SliceThickness <= 5' \(45 before it\)"):
        run({14: str(thick), 18: tables[18]})


def test_rows_and_funnel_may_not_disagree(tables: dict[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_query, "_conditions", lambda query: [exp.true(), exp.true()])
    with pytest.raises(ValueError, match=r"select_ct\.sql: 22 rows, but 45 in its funnel"):
        run(tables)
