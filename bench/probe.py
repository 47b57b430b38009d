"""Probing one checkpoint: decoders trained on kept maps of fixed crops, against the encoder run in every step.

Several decoders (seeds) learn from the same few cases with `ctfm.tasks.segment.fit`, twice: with the encoder's maps
computed once, and with `machine.cache_features: false`. Prints the seconds of both (medians), the median ratio of
pairs, the bytes kept, and by how much the decoders' weights differ.

    OMP_NUM_THREADS=1 python bench/probe.py [--filters 8] [--patch 48 32 48] [--epochs 4] [--pairs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ctfm import plugins, weights
from ctfm.imaging import store
from ctfm.imaging.volume import Volume
from ctfm.tasks import CaseFile, segment
from ctfm.training import seeds
from ctfm.training.pool import Pool

LABELS = 10


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filters", type=int, default=8, help="32: CT-FM's encoder")
    parser.add_argument("--blocks", type=int, nargs=5, default=(1, 1, 1, 1, 1), help="1 2 2 4 4: CT-FM's encoder")
    parser.add_argument("--patch", type=int, nargs=3, default=(48, 32, 48))
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--crops", type=int, default=4, help="of each case")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=16, help="in an epoch")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--mapped", action="store_true", help="keep the maps in a file")
    return parser.parse_args()


def cases(folder: Path, count: int, patch: tuple[int, ...]) -> list[CaseFile]:
    """Store scans of noise, a third larger than a crop, with boxes as labels."""
    names = {f"label_{n}": n for n in range(1, LABELS + 1)}
    shape, made = tuple(n * 4 // 3 for n in patch), []
    for number in range(count):
        rng = np.random.default_rng(number)
        image, label = rng.normal(0, 200, shape).astype(np.int16), np.zeros(shape, np.uint8)
        for n in names.values():
            start = [int(rng.integers(0, edge * 3 // 4)) for edge in shape]
            box = tuple(slice(s, s + edge // 4) for s, edge in zip(start, shape, strict=True))
            label[box], image[box] = n, image[box] + 100 * n
        paths = folder / f"s{number}.b2nd", folder / f"s{number}_label.b2nd"
        store.save(Volume(image, np.eye(4)), paths[0])
        store.save(Volume(label, np.eye(4)), paths[1], {"ids": names, "groups": {}})
        made.append(CaseFile(f"s{number}", f"s{number}", *paths))
    return made


def encoder(folder: Path, chosen: argparse.Namespace) -> Path:
    """Write a random encoder."""
    plugin = plugins.get("encoders", "segresnet")
    settings = plugin.Settings(init_filters=chosen.filters, blocks_down=tuple(chosen.blocks))
    with seeds.seeded(0):
        state = plugin.build(settings).state_dict()
    weights.save_encoder(folder, name="e", kind="segresnet", options=settings.model_dump(), state=state, facts={})
    return folder


def clock() -> float:
    """Return the time, s; on a CPU the process's own, which others on the machine don't touch."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def probe(chosen: argparse.Namespace, train: list[CaseFile], made: Path, out: Path) -> tuple[float, float]:
    """Train all decoders of a checkpoint; return the seconds, and the gigabytes kept."""
    settings = segment.Settings(
        patch=tuple(chosen.patch), epochs=chosen.epochs, steps_per_epoch=chosen.steps, batch=chosen.batch
    )
    pool, start = Pool(chosen.crops, out), clock()
    for seed in range(chosen.seeds):
        segment.fit(settings, made, train, [], out / str(seed), seed=seed, frozen=pool)
    return clock() - start, sum(shelf.block.nbytes for shelf in pool.shelves) / 1e9


def difference(one: Path, other: Path, count: int) -> float:
    """Return the largest difference of two runs' weights."""
    worst = 0.0
    for seed in range(count):
        a, b = (weights.read_tensors(f / str(seed) / "model/model.safetensors") for f in (one, other))
        worst = max(worst, *(float((a[key].double() - b[key].double()).abs().max()) for key in a))
    return worst


def main() -> None:
    chosen = options()
    ways = {"kept": {"cache_gigabytes": 0 if chosen.mapped else 1000}, "anew": {"cache_features": False}}
    times: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as place:
        folder, size = Path(place), 0.0
        train, made = cases(folder / "cases", chosen.cases, tuple(chosen.patch)), encoder(folder / "encoder", chosen)
        for pair in range(chosen.pairs):
            for way, machine in ways.items():
                os.environ["CTFM_MACHINE"] = json.dumps({"loader_workers": 0, "tensorboard": False, **machine})
                seconds, gigabytes = probe(chosen, train, made, folder / f"{way}{pair}")
                times[way].append(seconds)
                size = gigabytes if way == "kept" else size
        worst = difference(folder / "kept0", folder / "anew0", chosen.seeds)
    kept, anew = (statistics.median(times[way]) for way in ways)
    ratio = statistics.median(b / a for a, b in zip(times["kept"], times["anew"], strict=True))
    visits = chosen.epochs * chosen.steps * chosen.batch * chosen.seeds
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"{device}: {chosen.seeds} decoders, {visits} visits to {chosen.cases * chosen.crops} crops")
    print(f"  maps kept {kept:.2f} s, anew {anew:.2f} s: {ratio:.2f} times; {size:.3f} GB kept")
    print(f"  largest difference of the decoders' weights: {worst:g}")


if __name__ == "__main__":
    main()
