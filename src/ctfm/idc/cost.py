"""What a selection will cost, before anything is fetched: transfer, disk and processor time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from ctfm.errors import UserError

MB, GB, TB = 1e6, 1e9, 1e12
# Prepared volumes at 3x1x1 mm (int16, zstd): 7 MB for a series of 89.4 MB, the mean of the paper's corpus.
VOLUME_MB, DICOM_MB = 7.0, 89.4
PAPER_SPACING_MM3 = 3.0
# A slice of 512 x 512 voxels of 16 bit, for an index that does not tell sizes.
SLICE_MB = 0.53
# The preparation keeps so many series as DICOM on disk: one batch in work, one on its way.
IN_FLIGHT = 16
# One core, a series of 300 slices (157 MB): reading 0.56 s, resampling 0.30, storing 0.59, statistics and checks 0.32.
CPU_SECONDS_PER_GB = 11.3


def estimate(series: pd.DataFrame, spacing_mm: tuple[float, float, float], keep_dicom: bool) -> dict[str, Any]:
    """Estimate the cost of preparing a ``series`` table.

    Args:
        series: the table.
        spacing_mm: (z, y, x) spacing of the prepared volumes, mm.
        keep_dicom: whether the DICOM of all shards stays on disk.

    Returns:
        Numbers with their unit in the key (TB is 10^12 bytes), and the assumptions behind them in words.
    """
    sizes = series["series_size_MB"].fillna(series["num_instances"] * SLICE_MB)
    finer = PAPER_SPACING_MM3 / (spacing_mm[0] * spacing_mm[1] * spacing_mm[2])
    download = float(sizes.sum()) * MB
    volumes = download * VOLUME_MB / DICOM_MB * finer
    in_flight = float(sizes.nlargest(IN_FLIGHT).sum()) * MB
    return {
        "series": len(series),
        "files": int(series["num_instances"].sum()),
        "download_TB": download / TB,
        "volumes_TB": volumes / TB,
        "peak_disk_TB": (volumes + (download if keep_dicom else in_flight)) / TB,
        "shards": int(series["shard"].nunique()),
        "cpu_hours": download / GB * CPU_SECONDS_PER_GB / 3600,
        "assumptions": {
            "download": f"series_size_MB of the index; {SLICE_MB} MB a slice where it is null "
            f"({int(series['series_size_MB'].isna().sum())} series)",
            "volumes": f"{VOLUME_MB:g} MB for {DICOM_MB} MB of DICOM at 3x1x1 mm, scaled by size and by voxel volume",
            "peak_disk": "all volumes, and "
            + (
                "all DICOM (machine.keep_dicom)"
                if keep_dicom
                else f"the DICOM of the {IN_FLIGHT} largest series; times the shards that run at once"
            ),
            "cpu_hours": f"{CPU_SECONDS_PER_GB} s of one core for a GB of DICOM, measured; without the transfer",
        },
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


def as_json(plan: dict[str, Any]) -> str:
    """Return the plan as JSON text."""
    return json.dumps(plan, indent=2, sort_keys=True)


def as_text(plan: dict[str, Any]) -> str:
    """Return the plan for people."""
    lines = {
        "series": f"{plan['series']:,} in {plan['shards']:,} shards",
        "files": f"{plan['files']:,}",
        "download": _size(plan["download_TB"]),
        "volumes": _size(plan["volumes_TB"]),
        "peak disk": f"{_size(plan['peak_disk_TB'])} ({_size(plan['free_disk_TB'])} free)",
        "processor": f"{plan['cpu_hours']:.2g} core-hours",
    }
    assumed = [f"  {key}: {text}" for key, text in plan["assumptions"].items()]
    return "\n".join([*(f"{key:<10} {text}" for key, text in lines.items()), "assumed:", *assumed])


def _size(terabytes: float) -> str:
    for unit, factor in (("TB", 1.0), ("GB", 1e3)):
        if terabytes * factor >= 1:
            return f"{terabytes * factor:.1f} {unit}"
    return f"{terabytes * 1e6:.1f} MB"
