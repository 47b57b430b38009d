"""Cost of a selection, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ctfm.errors import UserError
from ctfm.idc import cost

SPACING = (3.0, 1.0, 1.0)


def table(sizes: list[float | None], shards: list[int] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {"num_instances": 100, "series_size_MB": sizes, "shard": shards or [0] * len(sizes)}, dtype=float
    )


def test_numbers_follow_from_the_sizes() -> None:
    plan = cost.estimate(table([89.4] * 1000, [n % 10 for n in range(1000)]), SPACING, keep_dicom=False)
    assert plan["series"] == 1000
    assert plan["files"] == 100_000
    assert plan["shards"] == 10
    assert plan["download_TB"] == pytest.approx(0.0894)
    assert plan["volumes_TB"] == pytest.approx(0.007)
    assert plan["peak_disk_TB"] == pytest.approx(0.007 + 16 * 89.4e-6)
    assert plan["cpu_hours"] == pytest.approx(89.4 * 11.3 / 3600)


def test_paper_corpus_needs_about_a_terabyte() -> None:
    """Compare with the store's own measurement: 1.03 TB for 148,000 series."""
    plan = cost.estimate(table([89.4] * 148_000), SPACING, keep_dicom=False)
    assert plan["volumes_TB"] == pytest.approx(1.03, abs=0.02)
    assert plan["download_TB"] == pytest.approx(13.2, abs=0.1)


def test_kept_dicom_and_finer_voxels_take_more() -> None:
    rows = table([89.4] * 10)
    assert cost.estimate(rows, SPACING, keep_dicom=True)["peak_disk_TB"] == pytest.approx(70e-6 + 894e-6)
    assert cost.estimate(rows, (1.5, 1.0, 1.0), keep_dicom=False)["volumes_TB"] == pytest.approx(140e-6)


def test_unknown_sizes_are_estimated_and_said() -> None:
    plan = cost.estimate(table([None, 47.0]), SPACING, keep_dicom=False)
    assert plan["download_TB"] == pytest.approx(100e-6)
    assert "(1 series)" in plan["assumptions"]["download"]


def test_text_names_every_number_and_assumption() -> None:
    plan = cost.estimate(table([89.4] * 1000), SPACING, keep_dicom=False) | {"free_disk_TB": 2.5}
    text = cost.as_text(plan)
    for part in (
        "1,000 in 1 shards",
        "100,000",
        "89.4 GB",
        "7.0 GB",
        "2.5 TB free",
        "0.28 core-hours",
        "scaled by size",
    ):
        assert part in text
    assert json.loads(cost.as_json(plan)) == plan
    assert cost._size(12e-6) == "12.0 MB"


def test_short_disk_is_refused() -> None:
    cost.check_disk({"peak_disk_TB": 1.0, "free_disk_TB": 1.0}, Path("out"))
    with pytest.raises(UserError, match=r"out: 1\.5 TB are needed at the peak and 500\.0 GB are free; free some"):
        cost.check_disk({"peak_disk_TB": 1.5, "free_disk_TB": 0.5}, Path("out"))


def test_free_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert cost.free_disk(tmp_path / "a" / "b") == pytest.approx(cost.free_disk(tmp_path), rel=0.05)
