"""Views for pre-training: the published chain in MONAI against the volume store and batched augmentation.

Both make two views of each of 20 crops of one scan, on one thread, with the published list of operations (random
resized crop, flip, histogram shift, Gaussian smoothing). The published way decodes, orients and resamples the scan on
every visit and augments view by view; ours reads crops of the stored volume and augments all views at once.

    OMP_NUM_THREADS=1 python bench/pretrain_views.py [--slices 300] [--matrix 512] [--pairs 3]
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
import SimpleITK as sitk
import torch

from ctfm.config import Augment
from ctfm.imaging import store
from ctfm.imaging.preprocess import Preprocess
from ctfm.imaging.resample import resample
from ctfm.imaging.volume import orient, read_image, write_nifti
from ctfm.phantom.anatomy import case
from ctfm.training import augment, data, seeds

PATCH, CROPS, SPACING = (32, 128, 128), 20, (3.0, 1.0, 1.0)
PUBLISHED = Augment(flip_p=(0.5, 0, 0), histogram_p=0.5, smooth_p=0.5)


def published() -> tuple[mt.Compose, mt.Compose]:
    """Return the chain that reads, places and crops a scan, and the one that makes a view of a crop."""
    crops = mt.Compose(
        [
            mt.LoadImage(image_only=True, ensure_channel_first=True),
            mt.Orientation("SPL"),
            mt.Spacing(SPACING, mode="bilinear"),
            mt.CropForeground(allow_smaller=True),
            mt.SpatialPad(PATCH, constant_values=-1024),
            mt.ScaleIntensityRange(-1024, 2048, 0, 1, clip=True),
            mt.RandSpatialCropSamples(PATCH, num_samples=CROPS, random_size=False),
        ]
    )
    view = mt.Compose(
        [
            mt.RandScaleCrop(0.33, 1.0, random_size=True),
            mt.Resize(PATCH, mode="trilinear"),
            mt.RandFlip(prob=0.5, spatial_axis=0),
            mt.RandHistogramShift(num_control_points=5, prob=0.5),
            mt.RandGaussianSmooth((0.25, 1.5), (0.25, 1.5), (0.25, 1.5), prob=0.5),
        ]
    )
    return crops, view


def ours_crops(path: Path, item: int) -> torch.Tensor:
    volume = store.open_volume(path)
    starts = data.corners(volume.shape, volume.meta["body_box"], PATCH, CROPS, seeds.generator(0, item))
    crops = np.stack([volume.crop((z, y, x), PATCH) for z, y, x in starts.tolist()])
    return Preprocess().scale(torch.from_numpy(crops))


def ours_views(crops: torch.Tensor, item: int) -> torch.Tensor:
    twice = crops[:, None, None].expand(-1, 2, 1, -1, -1, -1).reshape(-1, 1, *PATCH)
    return augment.views(twice, PUBLISHED, seeds.torch_generator("cpu", 1, item), SPACING)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--slices", type=int, default=300)
    options.add_argument("--matrix", type=int, default=512)
    options.add_argument("--pairs", type=int, default=3)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    shape = (chosen.slices, chosen.matrix, chosen.matrix)
    image, _ = case(np.random.default_rng(0), shape, (1.25, 360 / chosen.matrix, 360 / chosen.matrix))
    read, view = published()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        nifti, stored = Path(folder) / "scan.nii.gz", Path(folder) / "scan.b2nd"
        write_nifti(image, nifti)
        volume = resample(orient(read_image(nifti)), SPACING)
        start, stop = store.body_box(volume.array)
        store.save(volume, stored, {"body_box": [list(start), list(stop)]})
        for item in range(chosen.pairs):  # in turn, so that a slow minute of the machine hits both
            theirs: list = []
            a = timed(lambda kept=theirs: kept.extend(read(str(nifti))))
            b = timed(lambda kept=theirs: [view(crop) for crop in kept for _ in range(2)])
            mine: list = []
            c = timed(lambda kept=mine, item=item: kept.append(ours_crops(stored, item)))
            d = timed(lambda kept=mine, item=item: ours_views(kept[0], item))
            rows.append((a, b, c, d))
    report(np.array(rows), shape)


def report(times: np.ndarray, shape: tuple[int, ...]) -> None:
    a, b, c, d = np.median(times, axis=0)
    geometry, whole = times[:, 0] / times[:, 2], (times[:, 0] + times[:, 1]) / (times[:, 2] + times[:, 3])
    print(f"volume {shape}, {CROPS} crops x 2 views of {PATCH}, one thread, medians of {len(times)} pairs")
    print(f"published: reading and geometry {a:.2f} s, views {b:.2f} s: {2 * CROPS / (a + b):.1f} views/s")
    print(f"ours:      reading crops {c:.3f} s, views {d:.2f} s: {2 * CROPS / (c + d):.0f} views/s")
    print(f"ratio: reading and geometry {statistics.median(geometry):.0f}, whole chain {statistics.median(whole):.1f}")


if __name__ == "__main__":
    main()
