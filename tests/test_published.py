"""The numbers of the paper: complete, well formed, and shown only beside the same data."""

from __future__ import annotations

import csv
import re
from decimal import ROUND_HALF_UP, Decimal

import pytest

from ctfm import published
from tests.conftest import ROOT
from tests.paper_text import claims


def test_rows_are_unique_and_intervals_hold_their_value():
    table = published.table()
    assert table.id.is_unique
    assert not table.duplicated(["dataset", *published.KEY]).any()
    assert (table[["place", "dataset", "metric", "source"]] != "").all(axis=None)
    bounded = table.dropna(subset=["low"])
    assert ((bounded.low <= bounded.value) & (bounded.value <= bounded.high)).all()


def paper_numbers():
    with (ROOT / "tests/paper_numbers.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def same(printed: str, value: float) -> bool:
    """Return whether a value, rounded as it is printed, is the printed one; shares may be printed as percent."""
    digits = Decimal(1).scaleb(-len(printed.partition(".")[2]))
    written = {Decimal(str(abs(v))).quantize(digits, ROUND_HALF_UP) for v in (value, round(100 * value, 6))}
    return Decimal(printed) in written


def test_every_number_of_the_text_has_its_row():
    """The list holds the numbers of the text one by one, read by rules of its own (tests/paper_text.py)."""
    table = published.table().set_index("id")
    numbers = paper_numbers()
    for entry in numbers:
        assert same(entry["number"], table.loc[entry["row"], entry["cell"]]), entry
    printed = set(table.index[(table.source == "paper") | table.source.str.contains("quoted by the paper")])
    said_in_words = {"totalsegmentator-spacing-y", "totalsegmentator-spacing-x", "spacing-x"}  # cubic, in-plane
    assert printed - {entry["row"] for entry in numbers} == said_in_words
    bounded = {
        (row, cell) for row in printed for cell in ("low", "high") if table.loc[row, cell] == table.loc[row, cell]
    }
    assert bounded == {(entry["row"], entry["cell"]) for entry in numbers if entry["cell"] != "value"}


def test_the_list_is_that_of_the_text():
    text = ROOT.parent / "shared" / "paper.txt"
    if not text.is_file():
        pytest.skip("the text of the paper is not beside this checkout")
    assert claims(text.read_text()) == [entry["number"] for entry in paper_numbers()]


def test_longer_numbers_stand_in_the_text_with_three_digits():
    text = ROOT.parent / "shared" / "paper.txt"
    if not text.is_file():
        pytest.skip("the text of the paper is not beside this checkout")
    words = set(re.findall(r"\d+(?:\.\d+)?", text.read_text()))
    table = published.table()
    found = table[table.source.str.contains("the text has three digits")]
    assert len(found) == 14
    for row in found.itertuples():
        assert str(Decimal(str(row.value)).quantize(Decimal("0.001"), ROUND_HALF_UP)) in words, row.id


def test_the_colon_row_that_the_paper_copied_from_the_liver_is_corrected():
    rows = published.table()
    rows = rows[(rows.encoder == "3d_mir_baseline") & rows.metric.str.startswith(("precision_at_3", "average_prec"))]
    value = {(row.group, row.metric): row.value for row in rows.itertuples()}
    for metric in ("precision_at_3_published", "average_precision_at_10_published"):
        cohorts = [
            value[f"label:lesion_flag, {c}", f"{metric}_by_cohort"] for c in ("liver", "colon", "pancreas", "lung")
        ]
        assert sum(cohorts) / 4 == pytest.approx(value["lesion_flag", metric], abs=1e-4)
        assert cohorts[0] != cohorts[1]
    colon = rows[rows.group == "label:lesion_flag, colon"]
    assert (
        colon.source.str.startswith("corrected").all() and colon.caveat.str.contains("the paper drew the liver's").all()
    )
    assert value["label:lesion_flag, colon", "precision_at_3_published_by_cohort"] == pytest.approx(61 / 72, abs=1e-4)


def test_comparable_needs_the_name_and_the_number_of_cases():
    assert published.values("phantoms", 248) == {}
    assert published.values("totalsegmentator", 3) == {}
    assert published.values("totalsegmentator", 248)["ctfm", "", "all", "all", "dice"] == 0.8981


def test_arms_answer_to_the_papers_names():
    assert published.arm("ctfm_published") == "ctfm"
    assert published.arm("random") == "random"
    assert published.arm("ctfmx") == "ctfmx"


def test_quoted_rows_need_something_comparable():
    assert published.quoted("phantoms", 248, {"dice"}).empty
    assert published.quoted("totalsegmentator", 3, {"dice"}).empty
    rows = published.quoted("totalsegmentator", 248, {"dice"})
    assert {"auto3dseg", "vista3d", "nnunet_totalsegmentator", "ctfm"} <= set(rows.encoder)
    assert rows.id.is_unique
    assert set(published.quoted("totalsegmentator", 248, {"dice_win_rate"}).encoder) == {"ctfm"}
    official = published.quoted("totalsegmentator_official", 89, {"dice", "micro_dice"})
    assert "simclr_intra" not in set(official.encoder)
