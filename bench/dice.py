"""Dice of 118 classes in one case: the joint histogram against MONAI's DiceMetric, side by side, one thread.

    OMP_NUM_THREADS=1 python bench/dice.py [--shape 250 300 300] [--classes 118] [--rounds 5]

MONAI gets label maps (its thrifty way: one class after the other) or, with --one-hot, the one-hot maps that most
pipelines give it, made of the same label maps (some 6 GB for the default shape).
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
from pathlib import Path

import numpy as np
import torch
from monai.metrics import DiceMetric
from monai.networks import one_hot

from ctfm.metrics import overlap

BLOCK = 25


def pair(shape: tuple[int, ...], classes: int) -> np.ndarray:
    """Return truth and prediction: blocks of labels, the other map moved by two voxels and a twentieth of it random."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, classes, [-(-n // BLOCK) for n in shape], dtype=np.uint8)
    truth = np.kron(coarse, np.ones((BLOCK,) * 3, np.uint8))[tuple(slice(n) for n in shape)]
    moved = np.roll(truth, 2, axis=(0, 1, 2))
    noise = rng.integers(0, classes, shape, dtype=np.uint8)
    return np.stack([truth, np.where(rng.random(shape, np.float32) < 0.05, noise, moved)])


def ours(truth: np.ndarray, prediction: np.ndarray, classes: int) -> list[float]:
    ids = {str(i): i for i in range(1, classes)}
    rows = overlap.rows(overlap.joint_histogram(truth, prediction), ids, {}, 1.0)
    return [row["value"] for row in rows if row["metric"] == "dice"]


def monai_labels(truth: np.ndarray, prediction: np.ndarray, classes: int) -> list[float]:
    metric = DiceMetric(include_background=False, reduction="none", num_classes=classes)
    return metric(torch.from_numpy(prediction)[None, None], torch.from_numpy(truth)[None, None])[0].tolist()


def monai_one_hot(truth: np.ndarray, prediction: np.ndarray, classes: int) -> list[float]:
    maps = [one_hot(torch.from_numpy(m)[None, None], classes, dtype=torch.uint8) for m in (prediction, truth)]
    return DiceMetric(include_background=False, reduction="none")(*maps)[0].tolist()


WAYS = {"ours": ours, "MONAI, label maps": monai_labels, "MONAI, one-hot": monai_one_hot}


def memory(key: str) -> int:
    """Return a line of this process' status, in kB."""
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def once(name: str, file: Path, classes: int) -> None:
    """Print the memory that one way needs at most beyond the two label maps, in MB."""
    maps = np.load(file)
    WAYS[name](*maps[:, :8, :8, :8], classes)  # what is loaded at first use is no part of it
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = memory("VmRSS")
    WAYS[name](*maps, classes)
    print((memory("VmHWM") - before) / 1024)


def peak_megabytes(name: str, file: Path, classes: int) -> float:
    command = [sys.executable, __file__, "--once", name, "--maps", str(file), "--classes", str(classes)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def seconds(name: str, maps: np.ndarray, classes: int) -> tuple[float, float, list[float]]:
    """Return the time that passed, the time that the processor worked for it, and the values."""
    passed, worked = time.perf_counter(), time.process_time()
    values = WAYS[name](*maps, classes)
    return time.perf_counter() - passed, time.process_time() - worked, values


def compare(maps: np.ndarray, file: Path, classes: int, rounds: int, ways: list[str]) -> None:
    runs: dict[str, list[tuple[float, float, list[float]]]] = {name: [] for name in ways}
    for _ in range(rounds):  # in turn, so that a slow minute of the machine hits all
        for name in ways:
            runs[name].append(seconds(name, maps, classes))
    peaks = {name: peak_megabytes(name, file, classes) for name in ways}
    print(f"{'':20s}{'passed s':>9s}{'ratio':>7s}{'core s':>9s}{'ratio':>7s}{'peak MB':>9s}{'ratio':>7s}{'apart':>9s}")
    for name in ways:
        cells = ""
        for kind in (0, 1):
            ratio = statistics.median(run[kind] / our[kind] for run, our in zip(runs[name], runs["ours"], strict=True))
            cells += f"{statistics.median(run[kind] for run in runs[name]):9.3f}{ratio:7.0f}"
        values, wanted = runs[name][0][2], runs["ours"][0][2]
        np.testing.assert_allclose(values, wanted, atol=1e-6)  # NaN in the same places
        apart = np.nanmax(np.abs(np.subtract(values, wanted)))
        print(f"{name:20s}{cells}{peaks[name]:9.1f}{peaks[name] / peaks['ours']:7.0f}{apart:9.0e}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shape", type=int, nargs=3, default=(250, 300, 300))
    options.add_argument("--classes", type=int, default=118, help="background included")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--one-hot", action="store_true", help="measure MONAI on one-hot maps too")
    options.add_argument("--once", choices=WAYS, help=argparse.SUPPRESS)
    options.add_argument("--maps", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: both sides are measured on one thread")
    if chosen.once:
        return once(chosen.once, chosen.maps, chosen.classes)
    ways = [name for name in WAYS if chosen.one_hot or name != "MONAI, one-hot"]
    with tempfile.TemporaryDirectory() as folder:
        maps, file = pair(tuple(chosen.shape), chosen.classes), Path(folder) / "maps.npy"
        np.save(file, maps)
        compare(maps, file, chosen.classes, chosen.rounds, ways)


if __name__ == "__main__":
    main()
