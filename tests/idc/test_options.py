"""Each option of a corpus: which series it keeps, its row in the funnel, and the key it names when nothing is left."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ctfm.config import Corpus
from ctfm.errors import UserError
from ctfm.idc import options, query
from tests.idc.index_maker import GOOD, write_index

Index = Callable[..., str]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Return a function that writes an index of rows; what a row does not say is that of a good series."""
    return lambda *rows, **columns: write_index(tmp_path / "index.parquet", *rows, **columns)


def chosen(index: str, **settings: Any) -> list[str]:
    return sorted(query.select(Corpus(index=index, **settings)).series["SeriesInstanceUID"])


@pytest.mark.parametrize(
    ("licence", "commercial"),
    [
        ("CC BY 3.0", True),
        ("CC BY 4.0", True),
        ("cc by 4.0", True),
        ("CC BY-SA 4.0", True),
        ("CC0", True),
        ("CC0 1.0", True),
        ("CC BY-NC 3.0", False),
        ("CC BY-NC 4.0", False),
        ("CC BY-NC-SA 4.0", False),
        ("CC BY 4.0 and others", False),
        ("National Library of Medicine Terms and Conditions; May 21, 2019", False),
        ("", False),
        (None, False),
    ],
)
def test_licences_for_commercial_use(index: Index, licence: str | None, commercial: bool) -> None:
    file = index(GOOD, {"license_short_name": licence})
    assert chosen(file, licenses="commercial") == (["1.1", "1.2"] if commercial else ["1.1"])
    assert chosen(file, licenses="any") == ["1.1", "1.2"]


def test_patients_of_each_collection(tmp_path: Path, index: Index) -> None:
    rows = [{"PatientID": f"p{n // 3}", "collection_id": "a" if n < 30 else "b"} for n in range(60)]
    file = index(*rows, {"collection_id": None, "PatientID": "alone"})
    table = query.select(Corpus(index=file, patients_per_collection=2), seed=4).series
    expected = {}
    for collection, patients in {"a": range(10), "b": range(10, 20)}.items():
        digests = {f"p{n}": hashlib.sha256(f"4:p{n}".encode()).hexdigest() for n in patients}
        expected[collection] = set(sorted(digests, key=digests.__getitem__)[:2])
    drawn = table.dropna(subset="collection_id").groupby("collection_id")["PatientID"].agg(set).to_dict()
    assert drawn == expected
    assert len(table) == 2 * 2 * 3 + 1  # with all of their series, and the one of no collection
    pd.read_parquet(file).sample(frac=1, random_state=2).to_parquet(file)
    again = query.select(Corpus(index=file, patients_per_collection=2), seed=4).series
    assert again.equals(table)
    assert chosen(file, patients_per_collection=99) == chosen(file)


def test_patients_are_drawn_from_what_the_criteria_left(index: Index) -> None:
    rows = [{"PatientID": f"p{n}", "instanceCount": 10 if n % 2 else 100} for n in range(20)]
    table = query.select(Corpus(index=index(*rows), patients_per_collection=5)).series
    assert len(table) == 5 and table["PatientID"].str[1:].astype(int).mod(2).eq(0).all()


def test_series_are_drawn_from_the_patients_drawn(index: Index) -> None:
    rows = [{"PatientID": f"p{n // 4}"} for n in range(40)]
    settings = {"patients_per_collection": 3, "max_series": 5}
    table = query.select(Corpus(index=index(*rows), **settings))
    assert len(table.series) == 5 and table.series["PatientID"].nunique() <= 3
    assert table.funnel[["step", "series"]].values.tolist()[-2:] == [
        ["random 3 patients of each collection", 12],
        ["random subset of 5", 5],
    ]


def test_the_seed_of_a_corpus_goes_before_that_of_the_run(index: Index) -> None:
    file = index(*[GOOD] * 30)

    def drawn(run: int, own: int | None = None) -> list[str]:
        corpus = Corpus(index=file, max_series=9, seed=own)
        return query.select(corpus, seed=run).series["SeriesInstanceUID"].tolist()

    assert drawn(1, own=7) == drawn(2, own=7) == drawn(7)
    assert drawn(1) != drawn(2)
    assert query.select(Corpus(index=file, seed=7), seed=1).facts["seed"] == 7


def test_overlap_is_told_and_can_be_left_out(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    names = ["rider_lung_ct", "rider_lung_ct", "nsclc_radiomics", "4d_lung"]
    thin = {"collection_id": "lidc_idri", "SliceThickness": 0.5}
    file = index(*[{"collection_id": name, "PatientID": "one"} for name in names], thin)
    kept = query.select(Corpus(index=file), where="corpora.x")
    table = kept.overlap.set_index("collection_id")
    assert set(table.index) == {"rider_lung_ct", "nsclc_radiomics"}  # no LIDC, whose series was too thin anyway
    assert table.loc["rider_lung_ct", ["series", "patients", "excluded"]].tolist() == [2, 1, False]
    assert "test-retest" in table.loc["rider_lung_ct", "used_for"]
    (message,) = caplog.messages
    assert "rider_lung_ct (2 series" in message and "nsclc_radiomics (1 series" in message
    caplog.clear()
    left = query.select(Corpus(index=file, exclude_downstream=True), where="corpora.x")
    assert left.series["collection_id"].tolist() == ["4d_lung"]
    assert left.overlap.drop(columns="excluded").equals(kept.overlap.drop(columns="excluded"))
    assert left.overlap["excluded"].tolist() == [True, True]
    assert left.funnel[["step", "series"]].values.tolist()[-1] == ["no collections of downstream evaluations", 1]
    assert not caplog.messages


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"license_short_name": None}, {"licenses": "commercial"}, r"'licences for .*change corpora\.x\.licenses"),
        (
            {"collection_id": "lidc_idri"},
            {"exclude_downstream": True},
            r"'no collections of downstream .*change corpora\.x\.exclude_downstream",
        ),
        ({"sop_class_name": "Raw Data Storage"}, {}, r"'objects of class CT Image Storage'.*corpora\.x\.modality"),
    ],
)
def test_an_option_that_leaves_nothing_is_named(
    index: Index, row: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        query.select(Corpus(index=index(row), **settings), where="corpora.x")


def test_all_steps_stand_in_the_order_of_the_query(index: Index) -> None:
    settings = {"licenses": "commercial", "exclude_downstream": True, "patients_per_collection": 1, "max_series": 1}
    file = index(GOOD, {"sop_class_name": "CT Image Storage"})
    funnel = query.select(Corpus(index=file, collections=("4d_lung",), **settings)).funnel
    assert funnel["step"].tolist() == [
        "all series",
        "modality CT",
        "collections and series named",
        "at least 51 instances",
        "objects of class CT Image Storage",
        "no localizers",
        "slice thickness 1 to 5 mm where known",
        "licences for commercial use",
        "no collections of downstream evaluations",
        "random 1 patients of each collection",
        "random subset of 1",
    ]
    assert funnel["series"].is_monotonic_decreasing


def test_downstream_collections_are_of_the_papers_corpus(root: Path) -> None:
    paper = set(pd.read_csv(root / "resources/paper_collections.csv")["collection_id"])
    table = options.downstream()
    assert set(table["collection_id"]) <= paper
    assert table["used_for"].str.len().gt(10).all() and table["collection_id"].is_unique
    told = (root / "resources/downstream.md").read_text()
    assert all(f"`{name}`" in told for name in table["collection_id"])
