"""Dense embeddings of a scan: exact and fast, against a plain sliding window that embeds patch by patch.

The plain window reads, scales and embeds one patch after the other with the encoder as MONAI makes it, in the same
precision. Of a large scan it takes some patches, spread evenly, and its time is multiplied. Prints arithmetic and
seconds of each, as a Markdown table, and how far the vectors differ.

    python bench/dense.py [--device cuda] [--shape 125 300 400] [--patch 24 128 128] [--sample 64]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch.utils.flop_counter import FlopCounterMode

from ctfm import weights
from ctfm.embedding import dense, pool, read
from ctfm.embedding.encode import Encoder
from ctfm.encoders import segresnet
from ctfm.imaging import store
from ctfm.imaging.preprocess import Preprocess
from ctfm.imaging.volume import Volume
from ctfm.options import Patches
from ctfm.training import loop, seeds

SPACING_MM = (3.0, 1.0, 1.0)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    options.add_argument("--encoder", type=Path, help="folder of an encoder; default: CT-FM's, with random weights")
    options.add_argument("--filters", type=int, default=32)
    options.add_argument("--shape", type=int, nargs=3, default=(125, 300, 400))
    options.add_argument("--patch", type=int, nargs=3, default=(24, 128, 128))
    options.add_argument("--overlap", type=float, default=0.625)
    options.add_argument("--sample", type=int, default=0, help="patches of the plain window; default: 8, on a GPU all")
    options.add_argument("--repeats", type=int, default=0, help="default: 1, on a GPU 3")
    options.add_argument("--scan", type=Path, help="a scan; default: a made-up one")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        encoder = Encoder(chosen.encoder or random_encoder(Path(folder) / "encoder", chosen.filters))
        if chosen.device != "auto":
            encoder.device = torch.device(chosen.device)
            encoder.module.to(encoder.device)
        volume = chosen.scan or made_up(tuple(chosen.shape), Path(folder) / "given.b2nd")
        scan = read.prepare(volume, encoder.preprocess, Path(folder), crop="body" if chosen.scan else "volume")
        compare(encoder, scan, Patches(patch=tuple(chosen.patch), overlap=chosen.overlap), chosen)


def compare(encoder: Encoder, scan: read.Scan, settings: Patches, chosen: argparse.Namespace) -> None:
    cut, cuda = encoder.grid(scan, settings), encoder.device.type == "cuda"
    count = min(len(cut), chosen.sample or (len(cut) if cuda else 8))
    some, repeats = np.unique(np.linspace(0, len(cut) - 1, count).astype(int)), chosen.repeats or (3 if cuda else 1)
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{device}; torch {torch.__version__}, {loop.precision()}; scan {scan.shape}, {len(cut)} patches of {cut.patch}"
    )
    plain_net = encoder.module.to(memory_format=torch.contiguous_format)
    plain(encoder, plain_net, scan, cut, some[:1])  # a warm-up
    wanted, slow, work = measured(lambda: plain(encoder, plain_net, scan, cut, some), repeats, encoder.device)
    whole = len(cut) / len(some)
    rows = [("plain", slow * whole, work * whole, wanted)]
    encoder.module.to(memory_format=torch.channels_last_3d)
    for mode in dense.MODES:
        run = partial(dense.embed, encoder, scan, settings, mode)
        found, took, work = measured(run, repeats, encoder.device)
        rows.append((mode, took, work, found.vectors[some]))
    print("\n| | s | times plain | TFLOP | largest difference | cosine, median (least) |\n|---|---|---|---|---|---|")
    for name, took, arithmetic, vectors in rows:
        differs, alike = np.abs(vectors - wanted).max() / np.abs(wanted).max(), cosine(vectors, wanted)
        print(
            f"| {name} | {took:.2f} | {rows[0][1] / took:.1f} | {arithmetic / 1e12:.1f} | {differs:.1e} "
            f"| {np.median(alike):.6f} ({alike.min():.6f}) |"
        )


def plain(encoder: Encoder, network: torch.nn.Module, scan: read.Scan, cut, some: np.ndarray) -> np.ndarray:
    """Embed patch by patch."""
    vectors = []
    for k in some:
        image = torch.from_numpy(scan.read(cut.corners[k], cut.patch))[None, None].to(encoder.device)
        with torch.inference_mode(), loop.autocast(encoder.device):
            vectors.append(pool.OVER_MAP["avg"](network(image)[-1].float()).cpu().numpy())
    return np.concatenate(vectors)


def measured(work: Callable[[], Any], repeats: int, device: torch.device) -> tuple[Any, float, int]:
    """Return the result, the median time and the arithmetic, FLOP.

    Of a CPU it is the processor's time, which the machine's other work then changes less. There the arithmetic is
    counted in the first run that counts; on a GPU before, as a warm-up.
    """
    clock, times = time.perf_counter if device.type == "cuda" else time.process_time, []
    with FlopCounterMode(display=False) as counter:
        start = clock()
        result = work()
        if device.type == "cpu":
            times.append(clock() - start)
    while len(times) < repeats:
        start = clock()
        work()
        times.append(clock() - start)
    return result, statistics.median(times), counter.get_total_flops()


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def random_encoder(folder: Path, filters: int) -> Path:
    """Write CT-FM's architecture with random weights and BatchNorm at rest as if it had been trained."""
    options = segresnet.Settings(init_filters=filters)
    with seeds.seeded(0):
        state = segresnet.build(options).state_dict()
        for name, tensor in state.items():
            if name.endswith("running_var") or (".norm" in name and name.endswith("weight")):
                tensor.uniform_(0.5, 2)
            elif name.endswith("running_mean") or (".norm" in name and name.endswith("bias")):
                tensor.normal_(0, 0.1)
    given = options.model_dump(mode="json")
    weights.save_encoder(
        folder, name="random", kind="segresnet", options=given, state=state, facts={}, preprocess=Preprocess()
    )
    return folder


def made_up(shape: tuple[int, int, int], path: Path) -> Path:
    """Store smooth random HU."""
    noise = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    smooth = sum(ndimage.gaussian_filter(noise, s) * s**1.5 for s in (1, 4, 16))
    array = (-200 + 400 * smooth / smooth.std()).clip(-1024, 2048).astype(np.int16)
    affine = np.diag([*SPACING_MM, 1.0])[[2, 1, 0, 3]]
    store.save(Volume(array, affine), path)
    return path


if __name__ == "__main__":
    main()
