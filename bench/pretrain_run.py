"""The training loop as it is, at the paper's size: reading, views, encoder, loss, checkpoints; on synthetic volumes.

Writes volumes of a trunk at 3x1x1 mm into a store and pre-trains on them with the defaults of `pretrain` (16 scans x 20
crops x 2 views of 24x128x128 in a step, 77.8 million parameters), for each number of scans at once. Prints, of the
last epoch, seconds a step, the share of it that waited for data, the most memory on the GPU, and the share of the
measured matrix peak.

    python bench/pretrain_run.py [--volumes 12] [--steps 4] [--micro 1 4] [--compile] [--workers 8]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pretrain_step import peak, teraflop

from ctfm import files, schemas, tables
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume
from ctfm.phantom import anatomy
from ctfm.spec import MACHINE_VARIABLE
from ctfm.stages.pretrain import pretrain

SPACING, EPOCHS = (3.0, 1.0, 1.0), 3


def corpus(folder: Path, count: int, shape: tuple[int, int, int]) -> Path:
    """Write ``count`` volumes and their index; return it."""
    rows = []
    for number in range(count):
        rng = np.random.default_rng([0, number])
        body = anatomy.draw(rng)
        image, _ = anatomy.case(rng, shape, SPACING, "trunk", body)
        path = folder / f"{number}.b2nd"
        store.save(Volume(image.array, image.affine), path)
        row = dict.fromkeys(schemas.SCHEMAS["volumes"].names)
        row |= {"SeriesInstanceUID": str(number), "shard": 0, "status": "ok", "reason": "", "path": path.name}
        row |= {"shape": list(shape), "spacing_out": list(SPACING), "bytes": path.stat().st_size}
        rows.append(row | {"sha256": files.sha256(path)})
    tables.write(tables.of("volumes", rows), "volumes", folder / "index.parquet")
    return folder / "index.parquet"


def run(index: Path, out: Path, chosen: argparse.Namespace, micro: int) -> pd.Series:
    """Pre-train; return the row of the last epoch."""
    settings = {"corpus": "none", "epochs": EPOCHS, "steps_per_epoch": chosen.steps, "patch": list(chosen.patch)}
    settings |= {"global_batch": chosen.scans, "crops_per_scan": chosen.crops, "checkpoint_every": EPOCHS}
    settings |= {"warmup_epochs": 1, "encoder_options": {"init_filters": chosen.filters}}
    machine = {"micro_batch": micro, "loader_workers": chosen.workers, "compile": chosen.compile}
    os.environ[MACHINE_VARIABLE] = json.dumps(machine)
    config = out.with_suffix(".yaml")
    config.write_text(json.dumps({"pretrain": {"one": settings}, "corpora": {"none": {}}}))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    pretrain(config=[config], volumes=index, out=out, encoder="one")
    return pd.read_csv(out / "metrics.csv").iloc[-1]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--volumes", type=int, default=12)
    options.add_argument("--shape", type=int, nargs=3, default=(120, 330, 380))
    options.add_argument("--steps", type=int, default=4, help="of an epoch; the last of three epochs counts")
    options.add_argument("--scans", type=int, default=16)
    options.add_argument("--crops", type=int, default=20)
    options.add_argument("--patch", type=int, nargs=3, default=(24, 128, 128))
    options.add_argument("--filters", type=int, default=32)
    options.add_argument("--micro", type=int, nargs="+", default=(1, 4), help="scans at once")
    options.add_argument("--workers", type=int, default=8)
    options.add_argument("--compile", action="store_true")
    chosen = options.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    work = teraflop(chosen.filters, (chosen.scans, chosen.crops, tuple(chosen.patch)))
    limit = peak(device, torch.bfloat16 if device == "cuda" else torch.float32)
    print(f"{work:.3g} TFLOP a step; matrix peak of {device} {limit:.3g} TFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        index = corpus(Path(folder), chosen.volumes, tuple(chosen.shape))
        for micro in chosen.micro:
            try:
                row = run(index, Path(folder) / f"run{micro}", chosen, micro)
            except UserError as error:
                print(f"{micro} scans at once: {error}", flush=True)
                continue
            step = row["seconds"] / chosen.steps
            print(
                f"{micro} scans at once: {step:.2f} s a step, {row['data_stall']:.0%} of it waiting for data, "
                f"{row['memory_GB']:.1f} GB, MFU {work / step / limit:.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
