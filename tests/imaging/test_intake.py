"""What an earlier run left in a shard's folder, and what becomes of one series."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctfm.config import Criteria, Prepare
from ctfm.imaging import convert, intake, store
from tests.imaging import dicom_maker as maker

ANY = Criteria(min_instances=1, thickness_mm=None)
RULES = intake.Rules(Prepare(), ANY, frozenset({"1.1"}))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    folder = tmp_path / "shard=00000"
    for number, uid in enumerate(("1.1", "1.2")):
        maker.write(folder / ".dicom" / uid, maker.body((20, 24, 28), number), seed=uid)
    return folder


def test_a_series_becomes_a_volume_with_its_cross_check(shard: Path) -> None:
    row = intake.one(shard, "1.1", "", "key", RULES)
    assert (row["status"], row["path"], row["converter"]) == ("ok", "shard=00000/1.1.b2nd", "own")
    (check,) = intake.cross_checks(shard, RULES.checked, 3)
    assert (check["SeriesInstanceUID"], check["shard"], check["status"]) == ("1.1", 3, "agrees")
    assert intake.one(shard, "1.2", "", "key", RULES)["status"] == "ok"
    assert intake.cross_checks(shard, frozenset({"1.2", "absent"}), 3) == []


def test_a_fault_of_the_download_is_the_reason(shard: Path) -> None:
    row = intake.one(shard, "1.1", "download_incomplete: 3 of 20 files", "key", RULES)
    assert (row["status"], row["reason"], row["detail"]) == ("quarantined", "download_incomplete", "3 of 20 files")
    assert (shard / "thumbnails/1.1.png").is_file()


def test_only_whole_volumes_of_the_same_key_are_taken_over(shard: Path) -> None:
    for uid in ("1.1", "1.2"):
        intake.one(shard, uid, "", f"key {uid}", RULES)
    rows = intake.reuse(shard, {"1.1": "key 1.1", "1.2": "another"}, ANY)
    assert list(rows) == ["1.1"] and not (shard / "1.2.b2nd").exists()
    assert rows["1.1"] == {
        **convert.describe(shard / "1.1.b2nd", "key 1.1"),
        "path": "shard=00000/1.1.b2nd",
    }


def test_a_volume_that_no_longer_meets_the_criteria_says_so(shard: Path) -> None:
    intake.one(shard, "1.1", "", "key", RULES)
    thickness = store.open_volume(shard / "1.1.b2nd").meta["source"]["slice_thickness_min"]
    rows = intake.reuse(shard, {"1.1": "key"}, Criteria(min_instances=1, thickness_mm=(thickness + 1, 9)))
    assert rows["1.1"]["reason"] == "thickness_below" and not (shard / "1.1.b2nd").exists()
