"""Peak main memory of `ctfm predict` with 118 classes on a large scan, against `machine.predict_gigabytes`.

A network with random weights segments noise of one size, in a process of its own; the peak is that of the whole
process, libraries and weights included. The real command runs, from a NIfTI file to the label map on its grid.

    OMP_NUM_THREADS=2 python bench/predict_memory.py [--shape 500 350 350] [--filters 4] [--gigabytes 4]

With `--filters 32 --blocks 1 2 2 4 4` the network is CT-FM's, which takes hours on a CPU for a scan of this size.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ctfm import plugins
from ctfm.imaging import tiles
from ctfm.imaging.volume import Volume, read_image, write_nifti
from ctfm.spec import MACHINE_VARIABLE
from ctfm.tasks import _model
from ctfm.training import seeds

COMMAND = """
import resource, sys
from ctfm.cli import main
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(500, 350, 350), help="(z, y, x) voxels at 1.5 mm")
    parser.add_argument("--spacing", type=float, default=1.5, help="of the scan's own grid, mm; the model works at 1.5")
    parser.add_argument("--patch", type=int, nargs=3, default=(96, 160, 160))
    parser.add_argument("--filters", type=int, default=4)
    parser.add_argument("--blocks", type=int, nargs=5, default=(1, 1, 1, 1, 1))
    parser.add_argument("--overlap", type=float, default=0.625)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="machine.predict_gigabytes")
    return parser.parse_args()


def write_model(folder: Path, chosen: argparse.Namespace) -> int:
    """Write a model of all labels of TotalSegmentator with random weights; return the number of its classes."""
    plugin, layout = plugins.get("encoders", "segresnet"), plugins.get("datasets", "totalsegmentator")
    settings = plugin.Settings(init_filters=chosen.filters, blocks_down=tuple(chosen.blocks))
    labels = [{"name": n, "id": number, "group": layout.GROUPS[n]} for n, number in layout.LABELS.items()]
    with seeds.seeded(0):
        net = plugin.segmenter(settings, len(labels) + 1)
    about = {"kind": "segresnet", "options": settings.model_dump(mode="json")}
    model = _model.Model(net, about, plugin.PREPROCESS, labels, tuple(chosen.patch), chosen.overlap, (1.5, 1.5, 1.5))
    folder.mkdir()
    _model.save(model, folder, {})
    return len(labels) + 1


def write_scan(path: Path, chosen: argparse.Namespace) -> tuple[int, ...]:
    """Write noise between air and bone as NIfTI; return its shape at 1.5 mm."""
    size = tuple(round(n * 1.5 / chosen.spacing) for n in chosen.shape)
    array = np.random.default_rng(0).integers(-1000, 1000, size, dtype=np.int16)
    write_nifti(Volume(array, np.diag([chosen.spacing] * 3 + [1.0])[[2, 1, 0, 3]]), path)
    return size


def main() -> None:
    chosen = options()
    environment = {**os.environ, MACHINE_VARIABLE: json.dumps({"predict_gigabytes": chosen.gigabytes})}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classes = write_model(folder / "model", chosen)
        own = write_scan(folder / "scan.nii.gz", chosen)
        start = time.monotonic()
        call = [sys.executable, "-c", COMMAND, "predict", "--model", folder / "model", "--out", folder / "out"]
        done = subprocess.run(
            [*call, folder / "scan.nii.gz"], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        seconds = time.monotonic() - start
        found = read_image(folder / "out/scan.nii.gz")
        assert found.shape == own, "the label map does not lie on the scan's grid"
        kilobytes = int(done.stdout.split()[-1])
    whole = tiles.BYTES * classes * math.prod(chosen.shape) / 1e9
    print(
        f"{classes} classes, {chosen.shape} voxels at 1.5 mm, own grid {own}, {len(np.unique(found.array))} ids found"
    )
    print(
        f"peak {1024 * kilobytes / 1e9:.2f} GB of {chosen.gigabytes:g} allowed; sums of the whole scan {whole:.1f} GB"
    )
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()
