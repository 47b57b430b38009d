"""Saliency by occlusion: changes followed through the network against the naive loop, on one crop in one process.

The naive loop makes one forward pass for each occluded block. A random sample of the blocks is timed, each way, and the
whole map is that by proportion; their number and what both ways say of the same blocks are printed. It needs torch,
numpy, monai and this checkout.
Use: OMP_NUM_THREADS=1 python bench/saliency.py [--shape 96 96 96] [--naive 8] [--ours 96] [--device auto]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import nn

from ctfm.embedding import changes, occlusion, winograd

FILTERS, BLOCKS = 32, (1, 2, 2, 4, 4)  # CT-FM's


def encoder(device: str) -> SegResEncoder:
    """Return a random network of CT-FM's size in which no norm is the identity."""
    torch.manual_seed(0)
    made = SegResEncoder(init_filters=FILTERS, blocks_down=BLOCKS)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.3)
    return made.eval().requires_grad_(False).to(device, memory_format=torch.channels_last_3d)


def clock(device: str) -> float:
    """Return processor seconds, which other work on a machine changes little; on a GPU seconds, when it is done."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(work: Callable[[], np.ndarray], device: str) -> tuple[np.ndarray, float]:
    start = clock(device)
    made = work()
    return made, clock(device) - start


class Ways:
    """The ways to embed occluded images, each for some of the blocks."""

    def __init__(self, module: SegResEncoder, image: np.ndarray, plan: occlusion.Plan, device: str) -> None:
        self.module, self.image = module, torch.from_numpy(image).to(device)
        self.starts = occlusion.corners(image.shape, plan.block, plan.overlap)
        self.change = occlusion._occluded(self.image, self.starts, plan.block, plan)
        self.network = changes.Network(module, self.image)
        self.embedding = self.network.embedding.cpu().double().numpy()

    def naive(self, some: np.ndarray) -> np.ndarray:
        """Return the shifts of some blocks, one pass each."""
        made = []
        for n in some:
            image = self.image.clone()
            image[tuple(slice(s, s + b) for s, b in zip(self.starts[n], self.change.shape[1:], strict=True))] += (
                self.change[n]
            )
            made.append(self.module(image[None, None])[-1].mean((2, 3, 4))[0].cpu().double().numpy() - self.embedding)
        return np.asarray(made)

    def batched(self, some: np.ndarray) -> np.ndarray:
        """Return them by batches of whole images."""
        return occlusion._embedded(self.module, self.image, self.change[some], self.starts[some])[1]

    def followed(self, some: np.ndarray) -> np.ndarray:
        """Return them by changes that are followed."""
        with mock.patch.object(changes, "Network", lambda *_: self.network):  # its maps are made once for all blocks
            return occlusion._followed(self.module, self.image, self.change[some], self.starts[some])[1]


def sample(ways: Ways, count: int, at_once: int) -> np.ndarray:
    """Return blocks at random in runs of ``at_once`` that reach about as far, as they are computed of the whole map."""
    boxes = changes.Boxes(ways.starts, ways.starts + ways.change.shape[1:], ways.network.shape)
    order = np.lexsort(ways.network.extents(boxes).T)
    runs = np.array_split(order, max(1, len(order) // at_once))
    chosen = np.random.default_rng(0).permutation(len(runs))[: max(1, count // at_once)]
    return np.concatenate([runs[k] for k in chosen])


def compare(ways: Ways, given: argparse.Namespace, device: str) -> None:
    total, at_once = len(ways.starts), occlusion.AT_ONCE[device]
    some = sample(ways, given.ours or total, at_once)
    few = np.random.default_rng(1).choice(some, min(given.naive, len(some)), replace=False)
    todo = {
        "naive loop": (ways.naive, few),
        "batches of whole images": (ways.batched, few),
        "ours": (ways.followed, some),
    }
    if not given.batched:
        del todo["batches of whole images"]
    found, seconds = {}, {name: [] for name in todo}
    for name, (way, blocks) in todo.items():
        way(blocks[: at_once if name == "ours" else 1])  # filters are made, kernels chosen
    for _ in range(given.rounds):
        for name, (way, blocks) in todo.items():
            found[name], taken = timed(lambda way=way, blocks=blocks: way(blocks), device)
            seconds[name].append(taken / len(blocks))
    naive = statistics.median(seconds["naive loop"])
    print(
        f"{total} blocks of {given.block}^3 in {tuple(given.shape)} voxels, {device}, {torch.get_num_threads()} threads"
    )
    for name, values in seconds.items():
        middle, count = statistics.median(values), len(todo[name][1])
        times = ", ".join(f"{n / v:.1f}" for n, v in zip(seconds["naive loop"], values, strict=True))
        print(
            f"  {name:<24} {middle * 1e3:9.2f} ms a block ({count} timed), map {middle * total:8.1f} s, "
            f"{naive / middle:5.1f} times the naive loop (rounds: {times})"
        )
    bounds(ways, some, at_once)
    places = [int(np.flatnonzero(some == n)[0]) for n in few]
    one, other = (occlusion.distances(ways.embedding, moved) for moved in (found["naive loop"], found["ours"][places]))
    print(f"  largest difference of distances {np.abs(one - other).max():.1e}, largest distance {one.max():.1e}")


def bounds(ways: Ways, some: np.ndarray, at_once: int) -> None:
    """Print how many multiplications the convolutions need for a block (those of the tiles' transforms left out)."""
    convolutions = [layer for layer in ways.module.modules() if isinstance(layer, nn.Conv3d)]
    whole = boxed = tiled = 0.0
    for first in range(0, len(some), at_once):
        low = ways.starts[some[first : first + at_once]]
        boxes = changes.Boxes(low, low + ways.change.shape[1:], ways.network.shape)
        for conv in convolutions:
            boxes, pairs = boxes.after(conv), len(low) * conv.in_channels * conv.out_channels / len(some)
            whole += 27 * pairs * math.prod(boxes.shape)
            boxed += 27 * pairs * math.prod(boxes.size)
            if max(conv.stride) == 1 and conv.in_channels >= changes.WIDE:
                m = winograd.best(boxes.size)
                tiled += pairs * math.prod(math.ceil(size / m) * (m + 2) for size in boxes.size)
            else:
                tiled += 27 * pairs * math.prod(boxes.size)
    print(
        f"  multiplications a block: {whole / 1e9:.1f}e9 whole, {boxed / 1e9:.1f}e9 in boxes (bound {whole / boxed:.1f}"
        f" times), {tiled / 1e9:.1f}e9 with Winograd's filters (bound {whole / tiled:.1f} times)"
    )
    kept = [*ways.network._filters.values(), *ways.network._before.values()]
    print(f"  kept: {sum(values.numel() * values.element_size() for values in kept) / 1e9:.2f} GB of maps and filters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=[96, 96, 96])
    parser.add_argument("--block", type=int, default=8)
    parser.add_argument("--overlap", type=float, default=0.0)
    parser.add_argument("--naive", type=int, default=8, help="blocks that the naive loop answers")
    parser.add_argument("--ours", type=int, default=96, help="blocks that ours answers; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batched", action="store_true", help="time batches of whole images too")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    image = np.random.default_rng(0).random(given.shape, np.float32)
    plan = occlusion.Plan((given.block,) * 3, given.overlap)
    with torch.inference_mode(), occlusion._exact():
        ways = Ways(encoder(device), image, plan, device)
        compare(ways, given, device)


if __name__ == "__main__":
    main()
