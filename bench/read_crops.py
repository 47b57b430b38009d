"""Read 20 random training crops: from the volume store against the published way, side by side.

The published way, on every visit of a scan: decode a gzipped file, orient, resample the whole volume to 3x1x1 mm, crop.
Ours: the volume was resampled once; a visit decodes only the blocks of its crops.

    python bench/read_crops.py [--slices 300] [--matrix 512] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import monai.transforms as mt
import numpy as np

from ctfm.imaging import store
from ctfm.imaging.resample import resample
from ctfm.imaging.volume import orient, read_image, write_nifti
from ctfm.phantom.anatomy import case

PATCH, CROPS, SPACING = (24, 128, 128), 20, (3.0, 1.0, 1.0)


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--slices", type=int, default=300)
    options.add_argument("--matrix", type=int, default=512)
    options.add_argument("--repeats", type=int, default=5)
    chosen = options.parse_args()
    shape = (chosen.slices, chosen.matrix, chosen.matrix)
    image, _ = case(np.random.default_rng(0), shape, (1.25, 360 / chosen.matrix, 360 / chosen.matrix))
    published = mt.Compose(
        [
            mt.LoadImage(image_only=True, ensure_channel_first=True),
            mt.Orientation("SPL"),
            mt.Spacing(SPACING, mode="bilinear"),
            mt.RandSpatialCropSamples(PATCH, num_samples=CROPS, random_size=False),
        ]
    )
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        nifti, stored = Path(folder) / "scan.nii.gz", Path(folder) / "scan.b2nd"
        write_nifti(image, nifti)
        store.save(resample(orient(read_image(nifti)), SPACING), stored)

        def ours() -> list[np.ndarray]:
            volume = store.open_volume(stored)
            room = np.maximum(np.subtract(volume.shape, PATCH), 0) + 1
            return [volume.crop(tuple(rng.integers(0, room).tolist()), PATCH) for _ in range(CROPS)]

        slow, fast = [], []
        for _ in range(chosen.repeats):  # in turn, so that a slow minute of the machine hits both
            slow += seconds(lambda: published(str(nifti)), 1)
            fast += seconds(ours, 1)
    ratio = statistics.median(a / b for a, b in zip(slow, fast, strict=True))
    print(f"volume {shape}, {CROPS} crops of {PATCH}, median of {chosen.repeats} pairs")
    print(f"published {statistics.median(slow):.3f} s, volume store {statistics.median(fast):.4f} s: {ratio:.0f} times")


if __name__ == "__main__":
    main()
