"""Prepare one CT series: our path against dicom2nifti and MONAI, side by side, one thread each.

Ours: read, check, orient, resample to 3x1x1 mm, store, read back and verify (what `ctfm prepare` does with a series).
The usual way: dicom2nifti writes a NIfTI file, which MONAI reads, orients and resamples to the same spacing.

    OMP_NUM_THREADS=1 python bench/prepare.py [--slices 300] [--matrix 512] [--pairs 5] [--dicom DIR]

Without --dicom a noisy phantom is scanned, at 1.25x0.7x0.7 mm.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import blosc2
import dicom2nifti
import monai.transforms as mt
import numpy as np
import SimpleITK as sitk
import torch
from pydicom.uid import generate_uid

from ctfm.config import Criteria, Prepare
from ctfm.imaging import convert, dicom
from ctfm.phantom import anatomy
from ctfm.phantom import dicom as phantom

SETTINGS = Prepare(min_slices=2)
CRITERIA = Criteria(min_instances=1, thickness_mm=None, unique_positions=False)


def ours(folder: Path, scratch: Path) -> None:
    volume, facts = convert.convert(folder, SETTINGS, CRITERIA)
    convert.keep(volume, facts, scratch / "ours.b2nd", "key")


def reading(folder: Path, scratch: Path) -> None:
    dicom.read_series(folder, SETTINGS, CRITERIA)


def usual(folder: Path, scratch: Path, suffix: str, save: bool) -> None:
    nifti = scratch / f"scan{suffix}"
    dicom2nifti.dicom_series_to_nifti(str(folder), str(nifti))
    steps = [
        mt.LoadImage(image_only=True, ensure_channel_first=True),
        mt.Orientation("SPL"),
        mt.Spacing(SETTINGS.spacing_mm, mode="bilinear"),
    ]
    if save:
        steps.append(mt.SaveImage(scratch, output_ext=suffix, separate_folder=False, print_log=False))
    mt.Compose(steps)(str(nifti))


PATHS: dict[str, Callable[[Path, Path], None]] = {
    "ours": ours,
    "reading alone": reading,
    "usual": partial(usual, suffix=".nii", save=False),
    "usual, saved": partial(usual, suffix=".nii", save=True),
    "usual, saved, gzipped": partial(usual, suffix=".nii.gz", save=True),
}


def phantom_series(folder: Path, slices: int, matrix: int) -> None:
    """Write a noisy CT of a phantom's trunk as DICOM."""
    pixel = round(360 / matrix, 4)
    image, _ = anatomy.case(np.random.default_rng(0), (slices, matrix, matrix), (1.25, pixel, pixel))
    header = {
        "SeriesInstanceUID": generate_uid(entropy_srcs=["bench"]),
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SliceThickness": 1.25,
    }
    phantom.write_series(folder, phantom.slices_of(image), header)


def seconds(name: str, folder: Path, scratch: Path) -> tuple[float, float]:
    """Return the time that passed and the time that a processor worked, for child processes too."""
    passed, worked = time.perf_counter(), sum(os.times()[:4])
    PATHS[name](folder, scratch)
    return time.perf_counter() - passed, sum(os.times()[:4]) - worked


def peak_megabytes(name: str, folder: Path) -> float:
    """Return the peak memory of a process of its own that goes one path once."""
    command = [sys.executable, __file__, "--dicom", str(folder), "--once", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def one_thread() -> None:
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: both sides are measured on one thread")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def measure(folder: Path, scratch: Path, pairs: int) -> None:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in PATHS}
    for _ in range(pairs):  # in turn, so that a slow minute of the machine hits all
        for name in PATHS:
            times[name].append(seconds(name, folder, scratch))
    print(f"{'':24s}{'passed':>8s}{'ratio':>7s}{'core s':>8s}{'ratio':>7s}{'peak MB':>9s}")
    for name, took in times.items():
        (passed, passed_ratio), (worked, worked_ratio) = (
            (
                statistics.median(one[kind] for one in took),
                statistics.median(one[kind] / our[kind] for one, our in zip(took, times["ours"], strict=True)),
            )
            for kind in (0, 1)
        )
        peak = peak_megabytes(name, folder)
        print(f"{name:24s}{passed:8.2f}{passed_ratio:7.2f}{worked:8.2f}{worked_ratio:7.2f}{peak:9.0f}", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--slices", type=int, default=300)
    options.add_argument("--matrix", type=int, default=512)
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--dicom", type=Path, help="folder of a series of your own")
    options.add_argument("--once", choices=PATHS, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    one_thread()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        if chosen.once:
            seconds(chosen.once, chosen.dicom, scratch)
            print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
            return
        folder = chosen.dicom or scratch / "dicom"
        if not chosen.dicom:
            phantom_series(folder, chosen.slices, chosen.matrix)
        print(f"{len(dicom.series_files(folder))} files, medians of {chosen.pairs} rounds")
        measure(folder, scratch, chosen.pairs)


if __name__ == "__main__":
    main()
