"""The numbers of the paper: complete, well formed, and shown only beside the same data."""

from __future__ import annotations

import re

import pytest

from ctfm import published
from tests.conftest import ROOT


def test_rows_are_unique_and_intervals_hold_their_value():
    table = published.table()
    assert table.id.is_unique
    assert not table.duplicated(["dataset", *published.KEY]).any()
    assert (table[["place", "dataset", "metric", "source"]] != "").all(axis=None)
    bounded = table.dropna(subset=["low"])
    assert ((bounded.low <= bounded.value) & (bounded.value <= bounded.high)).all()


def test_printed_numbers_stand_in_the_text():
    text = ROOT.parent / "shared" / "paper.txt"
    if not text.is_file():
        pytest.skip("the text of the paper is not beside this checkout")
    words = set(re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", text.read_text())))
    table = published.table()
    printed = table[(table.source == "paper") | table.source.str.contains("quoted")]
    for row in printed.itertuples():
        written = {f"{row.value:g}", f"{row.value:.3f}", f"{row.value:.2f}", f"{100 * row.value:.1f}"}
        assert words & written, row.id


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
