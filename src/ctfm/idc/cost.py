"""What a corpus will cost, before anything is fetched: transfer, disk, processor and GPU time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ctfm.config import Machine, Prepare
from ctfm.errors import UserError

MB, GB, TB = 1e6, 1e9, 1e12
# Prepared volumes at 3x1x1 mm (int16, zstd): 7 MB for a series of 89.4 MB, the mean of the paper's corpus.
VOLUME_MB, DICOM_MB = 7.0, 89.4
PAPER_SPACING_MM3 = 3.0
# A slice of 512 x 512 voxels of 16 bit, for an index that does not tell sizes.
SLICE_MB = 0.53
# The preparation keeps so many series as DICOM on disk: one batch in work, one on its way.
IN_FLIGHT = 16
# Jobs of a corpus besides its shards: its selection, this plan, and joining the shards.
OTHER_JOBS = 3
VIEWS = 2  # of each crop
PASSES = 3  # a backward pass costs twice a forward one: gradients of inputs and of weights


def estimate(series: pd.DataFrame, settings: Prepare, machine: Machine, seconds_per_gb: float) -> dict[str, Any]:
    """Estimate the cost of preparing a ``series`` table.

    Args:
        series: the table.
        settings: of the preparation.
        machine: whether the DICOM of all shards stays on disk.
        seconds_per_gb: one core's time for a GB of DICOM (see ``measure.seconds_per_gb``).

    Returns:
        Numbers with their unit in the key (TB is 10^12 bytes), and the assumptions behind them in words.
    """
    sizes = series["series_size_MB"].fillna(series["num_instances"] * SLICE_MB)
    z, y, x = settings.spacing_mm
    download = float(sizes.sum()) * MB
    volumes = download * VOLUME_MB / DICOM_MB * PAPER_SPACING_MM3 / (z * y * x)
    final = volumes + (download if machine.keep_dicom else 0)
    in_flight = 0 if machine.keep_dicom else float(sizes.nlargest(IN_FLIGHT).sum()) * MB
    shards = int(series["shard"].nunique())
    return {
        "series": len(series),
        "files": int(series["num_instances"].sum()),
        "shards": shards,
        "jobs": shards + OTHER_JOBS,
        "download_TB": download / TB,
        "final_disk_TB": final / TB,
        "peak_disk_TB": (final + in_flight) / TB,
        "cpu_seconds_per_GB": seconds_per_gb,
        "cpu_hours": download / GB * seconds_per_gb / 3600,
        "assumptions": _assumptions(int(series["series_size_MB"].isna().sum()), machine.keep_dicom, seconds_per_gb),
    }


def training(entry: Mapping[str, Any], forward_flop: float | None, machine: Machine) -> dict[str, Any]:
    """Estimate the work of one pre-training run.

    Args:
        entry: its settings (``Pretrain``).
        forward_flop: of one crop through the encoder (see ``measure.forward_flop``), or None.
        machine: what its GPUs sustain.

    Returns:
        Optimiser steps, GFLOP of one crop, EFLOP of the run, GPU-hours; the last three are None when not known.
    """
    steps = entry["epochs"] * entry["steps_per_epoch"]
    found: dict[str, Any] = {"steps": steps, "forward_GFLOP": None, "EFLOP": None, "gpu_hours": None}
    if forward_flop is not None:
        crops = entry["global_batch"] * entry["crops_per_scan"] * VIEWS
        flop = forward_flop * PASSES * crops * steps
        hours = flop / (machine.gpu_tflops * 1e12) / 3600
        found |= {"forward_GFLOP": forward_flop / 1e9, "EFLOP": flop / 1e18, "gpu_hours": hours}
    return found


def with_training(plan: dict[str, Any], runs: dict[str, dict[str, Any]], machine: Machine) -> dict[str, Any]:
    """Add the pre-training runs (see ``training``) to a plan, and what is assumed of them."""
    if not runs:
        return plan
    known = all(run["gpu_hours"] is not None for run in runs.values())
    assumed = (
        f"the encoder alone, counted; {PASSES} forward passes for forward and backward; "
        f"a GPU sustains {machine.gpu_tflops:g} TFLOP/s (machine.gpu_tflops)"
        if known
        else "not counted: torch is not installed here"
    )
    return plan | {"pretrain": runs, "assumptions": plan["assumptions"] | {"gpu": assumed}}


def _assumptions(unknown: int, keep_dicom: bool, seconds_per_gb: float) -> dict[str, str]:
    volumes = f"{VOLUME_MB:g} MB for {DICOM_MB} MB of DICOM at 3x1x1 mm, scaled by size and by voxel volume"
    work = f"the final disk and the DICOM of the {IN_FLIGHT} largest series; those times the shards at once"
    return {
        "download": f"series_size_MB of the index; {SLICE_MB} MB a slice where it is null ({unknown} series)",
        "final_disk": f"{volumes}; and all DICOM (machine.keep_dicom)" if keep_dicom else volumes,
        "peak_disk": "the final disk" if keep_dicom else work,
        "cpu": f"measured here: {seconds_per_gb:.1f} s of one core for a GB of DICOM, on a synthetic series; "
        "without waiting for the transfer",
    }


def free_disk(folder: Path) -> int:
    """Return the free bytes on the disk that holds ``folder``, which need not exist yet."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_disk(plan: dict[str, Any], folder: Path) -> None:
    """Refuse a plan that does not fit.

    Raises:
        UserError: ``plan["peak_disk_TB"]`` is more than ``plan["free_disk_TB"]``.
    """
    if plan["peak_disk_TB"] > plan["free_disk_TB"]:
        raise UserError(
            f"{folder}: {_size(plan['peak_disk_TB'])} are needed at the peak and {_size(plan['free_disk_TB'])} "
            "are free; free some, choose another outdir, or take fewer series (max_series)"
        )


def check_room(series: pd.DataFrame, shard: int, settings: Prepare, machine: Machine, folder: Path) -> None:
    """Refuse to begin a shard when its volumes and those of the shards that have not begun don't fit on the disk.

    Args:
        series: the table of the whole corpus.
        shard: the one to begin.
        settings: of the preparation.
        machine: whether the DICOM of all shards stays on disk.
        folder: of the corpus' volumes; a shard that has begun has a folder in it.

    Raises:
        UserError: more is needed than is free.
    """
    begun = {int(path.name.removeprefix("shard=")) for path in folder.glob("shard=*")} - {shard}
    needed = estimate(series[~series["shard"].isin(begun)], settings, machine, seconds_per_gb=0)["final_disk_TB"]
    check_disk({"peak_disk_TB": needed, "free_disk_TB": free_disk(folder) / TB}, folder)


def as_json(plan: dict[str, Any]) -> str:
    """Return the plan as JSON text."""
    return json.dumps(plan, indent=2, sort_keys=True)


def as_text(plan: dict[str, Any]) -> str:
    """Return the plan for people."""
    lines = {
        "series": f"{plan['series']:,} in {plan['shards']:,} shards",
        "files": f"{plan['files']:,}",
        "jobs": f"{plan['jobs']:,}",
        "download": _size(plan["download_TB"]),
        "final disk": _size(plan["final_disk_TB"]),
        "peak disk": f"{_size(plan['peak_disk_TB'])} ({_size(plan['free_disk_TB'])} free)",
        "processor": f"{plan['cpu_hours']:,.3g} core-hours",
    }
    for name, run in plan.get("pretrain", {}).items():
        work = "not counted" if run["EFLOP"] is None else f"{run['EFLOP']:.3g} EFLOP, {run['gpu_hours']:,.3g} GPU-hours"
        lines[f"pre-training {name}"] = f"{run['steps']:,} steps, {work}"
    width = max(map(len, lines))
    assumed = [f"  {key}: {text}" for key, text in plan["assumptions"].items()]
    return "\n".join([*(f"{key:<{width}} {text}" for key, text in lines.items()), "assumed:", *assumed])


def _size(terabytes: float) -> str:
    for unit, factor in (("TB", 1.0), ("GB", 1e3)):
        if terabytes * factor >= 1:
            return f"{terabytes * factor:.1f} {unit}"
    return f"{terabytes * 1e6:.1f} MB"
