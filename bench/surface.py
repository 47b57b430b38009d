"""Surface distances of one case: ours against MONAI's metrics, side by side, one thread.

    OMP_NUM_THREADS=1 python bench/surface.py [--size 300] [--rounds 3] [--labels 1 5 10 51 52 79 200]

The truth is a phantom at 1.5 mm, with four lesions in the liver (200); the prediction a smooth deformation of it. Each
label is measured by itself: one metric at a time, then all four; last, ours measures all labels of the case at once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from ctfm.metrics import surface
from ctfm.phantom import anatomy

SPACING, TOLERANCE = (1.5, 1.5, 1.5), 3.0
LESIONS = 200
NAMES = ("asd", "assd", "hd95", "nsd")
Way = Callable[[np.ndarray, np.ndarray], list[float]]


def pair(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return truth and prediction, uint8 ids."""
    rng = np.random.default_rng(0)
    truth = anatomy.case(rng, (size,) * 3, SPACING)[1].array
    liver = np.argwhere(truth == anatomy.labels()["liver"])
    for spot in liver[rng.integers(len(liver), size=4)]:
        low = np.maximum(spot - 12, 0)
        part = truth[tuple(slice(a, b + 12) for a, b in zip(low, spot, strict=True))]
        away = sum((axis + a - s) ** 2 for axis, a, s in zip(np.indices(part.shape), low, spot, strict=True))
        part[(away < rng.integers(16, 100)) & (part == anatomy.labels()["liver"])] = LESIONS
    coarse = rng.normal(0, 1.2, (3, 10, 10, 10))
    shifts = [ndimage.zoom(axis, size / 10, order=1) for axis in coarse]
    grid = np.meshgrid(*[np.arange(size)] * 3, indexing="ij", sparse=True)
    place = tuple(np.clip(np.rint(g + s).astype(int), 0, size - 1) for g, s in zip(grid, shifts, strict=True))
    return truth, truth[place]


def ours(*wanted: str) -> Way:
    def measure(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
        found = surface.distances(truth, prediction, SPACING)
        return [surface.nsd(found, TOLERANCE) if n == "nsd" else getattr(surface, n)(found) for n in wanted]

    return measure


def monai(*wanted: str) -> Way:
    options = {"include_background": True, "spacing": SPACING}
    known = {
        "asd": lambda given, true: compute_average_surface_distance(given, true, **options),
        "assd": lambda given, true: compute_average_surface_distance(given, true, symmetric=True, **options),
        "hd95": lambda given, true: compute_hausdorff_distance(given, true, percentile=95, **options),
        "nsd": lambda given, true: compute_surface_dice(given, true, [TOLERANCE], **options),
    }

    def measure(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
        maps = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
        return [float(known[name](*maps)) for name in wanted]

    return measure


def seconds(way: Way, masks: tuple[np.ndarray, np.ndarray]) -> tuple[float, list[float]]:
    """Return the time that the processor worked, and the values."""
    start = time.process_time()
    values = way(*masks)
    return time.process_time() - start, values


def compare(masks: tuple[np.ndarray, np.ndarray], rounds: int) -> str:
    cells = ""
    for wanted in (*((name,) for name in NAMES), NAMES):
        fast, slow = [], []
        for _ in range(rounds):  # in turn, so that a slow minute of the machine hits both
            runs = [seconds(way(*wanted), masks) for way in (ours, monai)]
            np.testing.assert_allclose(runs[0][1], runs[1][1], rtol=1e-4)
            for times, (took, _values) in zip((fast, slow), runs, strict=True):
                times.append(took)
        ratio = statistics.median(a / b for a, b in zip(slow, fast, strict=True))
        cells += f"{statistics.median(fast):9.3f}{statistics.median(slow):9.3f}{ratio:6.1f}"
    return cells


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", type=int, default=300)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--labels", type=int, nargs="+", default=[1, 5, 10, 51, 52, 79, LESIONS])
    chosen = options.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: both sides are measured on one thread")
    warnings.simplefilter("ignore")
    truth, prediction = pair(chosen.size)
    print("core seconds: ours, MONAI, ratio; for " + ", ".join(NAMES) + " and for all four")
    for label in chosen.labels:
        masks = truth == label, prediction == label
        points = sum(int(surface.border(mask).sum()) for mask in masks)
        print(f"label {label:3d}, {points:7d} border voxels:{compare(masks, chosen.rounds)}", flush=True)
    ids = {str(i): i for i in np.unique(truth).tolist() if i}
    start = time.process_time()
    rows = surface.rows(truth, prediction, ids, {}, SPACING, TOLERANCE)
    print(f"all {len(ids)} labels at once, ours: {time.process_time() - start:.2f} s, {len(rows)} rows")


if __name__ == "__main__":
    main()
