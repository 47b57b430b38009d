"""Cost of a selection, worked out by hand."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pandas as pd
import pytest

from ctfm.config import Machine, Prepare, Pretrain
from ctfm.errors import UserError
from ctfm.idc import cost

KEPT = Machine(keep_dicom=True)


def table(sizes: list[float | None], shards: list[int] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {"num_instances": 100, "series_size_MB": sizes, "shard": shards or [0] * len(sizes)}, dtype=float
    )


def estimate(rows: pd.DataFrame, machine: Machine | None = None, **settings: object) -> dict:
    return cost.estimate(rows, Prepare(**settings), machine or Machine(), seconds_per_gb=11.3)


def test_numbers_follow_from_the_sizes() -> None:
    plan = estimate(table([89.4] * 1000, [n % 10 for n in range(1000)]))
    assert plan["series"] == 1000
    assert plan["files"] == 100_000
    assert (plan["shards"], plan["jobs"]) == (10, 13)
    assert plan["download_TB"] == pytest.approx(0.0894)
    assert plan["final_disk_TB"] == pytest.approx(0.007)
    assert plan["peak_disk_TB"] == pytest.approx(0.007 + 16 * 89.4e-6)
    assert plan["cpu_hours"] == pytest.approx(89.4 * 11.3 / 3600)
    assert "measured here: 11.3 s" in plan["assumptions"]["cpu"]


def test_the_largest_series_are_in_flight() -> None:
    sizes = [float(n) for n in range(1, 41)]
    plan = estimate(table(sizes))
    assert plan["peak_disk_TB"] - plan["final_disk_TB"] == pytest.approx(sum(range(25, 41)) * 1e-6)


def test_paper_corpus_needs_about_a_terabyte() -> None:
    """Compare with the store's own measurement: 1.03 TB for 148,000 series."""
    plan = estimate(table([89.4] * 148_000))
    assert plan["final_disk_TB"] == pytest.approx(1.03, abs=0.02)
    assert plan["download_TB"] == pytest.approx(13.2, abs=0.1)


def test_kept_dicom_and_finer_voxels_take_more() -> None:
    rows = table([89.4] * 10)
    kept = estimate(rows, KEPT)
    assert kept["final_disk_TB"] == kept["peak_disk_TB"] == pytest.approx(70e-6 + 894e-6)
    assert "keep_dicom" in kept["assumptions"]["final_disk"]
    assert estimate(rows, spacing_mm=(1.5, 1.0, 1.0))["final_disk_TB"] == pytest.approx(140e-6)


def test_unknown_sizes_are_estimated_and_said() -> None:
    plan = estimate(table([None, 47.0]))
    assert plan["download_TB"] == pytest.approx(100e-6)
    assert "(1 series)" in plan["assumptions"]["download"]


def test_work_of_the_papers_training() -> None:
    """640 crops a step and 250,000 steps at 156 GFLOP are 75 EFLOP; at 100 TFLOP/s, 208 hours."""
    entry = Pretrain(corpus="any").model_dump()
    run = cost.training(entry, 156e9, Machine(gpu_tflops=100))
    assert run["steps"] == 250_000
    assert run["EFLOP"] == pytest.approx(75, abs=0.5)
    assert run["gpu_hours"] == pytest.approx(156e9 * 3 * 640 * 250_000 / 1e14 / 3600)
    assert cost.training(entry, 156e9, Machine(gpu_tflops=50))["gpu_hours"] == pytest.approx(2 * run["gpu_hours"])


def test_training_that_could_not_be_counted_is_said() -> None:
    plan = estimate(table([1.0]))
    assert cost.with_training(plan, {}, Machine()) == plan
    run = cost.training(Pretrain(corpus="any").model_dump(), None, Machine())
    whole = cost.with_training(plan, {"ctfm": run}, Machine()) | {"free_disk_TB": 1.0}
    assert whole["assumptions"]["gpu"] == "not counted: torch is not installed here"
    assert "pre-training ctfm 250,000 steps, not counted" in cost.as_text(whole)


def test_text_names_every_number_and_assumption() -> None:
    machine = Machine(gpu_tflops=80)
    plan = estimate(table([89.4] * 1000)) | {"free_disk_TB": 2.5}
    run = cost.training(Pretrain(corpus="any").model_dump(), 156e9, machine)
    plan = cost.with_training(plan, {"ctfm": run}, machine)
    text = cost.as_text(plan)
    for part in (
        "1,000 in 1 shards",
        "100,000",
        "89.4 GB",
        "7.0 GB",
        "8.4 GB (2.5 TB free)",
        "0.281 core-hours",
        "74.9 EFLOP, 260 GPU-hours",
        "80 TFLOP/s",
        *plan["assumptions"].values(),
    ):
        assert part in text
    assert json.loads(cost.as_json(plan)) == plan
    assert cost._size(12e-6) == "12.0 MB"


def test_short_disk_is_refused() -> None:
    cost.check_disk({"peak_disk_TB": 1.0, "free_disk_TB": 1.0}, Path("out"))
    with pytest.raises(UserError, match=r"out: 1\.5 TB are needed at the peak and 500\.0 GB are free; free some"):
        cost.check_disk({"peak_disk_TB": 1.5, "free_disk_TB": 0.5}, Path("out"))


def test_room_is_needed_for_this_shard_and_those_that_have_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table([89.4] * 9, [0] * 2 + [1] * 3 + [2] * 4)  # 14, 21 and 28 MB of volumes
    (tmp_path / "shard=00001").mkdir()
    for megabytes, fits in ((42.1, True), (41.9, False)):
        monkeypatch.setattr(cost, "free_disk", lambda folder, free=megabytes: int(free * 1e6))
        with contextlib.nullcontext() if fits else pytest.raises(UserError, match=r"42\.0 MB are needed at the peak"):
            cost.check_room(rows, 0, Prepare(), Machine(), tmp_path)
    monkeypatch.setattr(cost, "free_disk", lambda folder: int(62.9e6))
    with pytest.raises(UserError, match=r"63\.0 MB"):  # one that has begun counts as well when it is the one to do
        cost.check_room(rows, 1, Prepare(), Machine(), tmp_path)


def test_free_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert cost.free_disk(tmp_path / "a" / "b") == pytest.approx(cost.free_disk(tmp_path), rel=0.05)
