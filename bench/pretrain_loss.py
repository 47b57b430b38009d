"""The loss of intra-sample SimCLR: one batched form against the published double loop, forward and backward.

python bench/pretrain_loss.py [--scans 16] [--crops 20] [--pairs 20] [--device cuda]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from ctfm.ssl.simclr import ntxent

TEMPERATURE, WIDTH = 0.1, 128


def loops(z: torch.Tensor) -> torch.Tensor:
    """One-sided loss, scan after scan and anchor after anchor, stacking the negatives of each."""
    scans = []
    for scan in F.normalize(z, dim=3):
        terms = []
        for crop in range(len(scan)):
            others = torch.stack([scan[k, v] for k in range(len(scan)) if k != crop for v in (0, 1)])
            logits = torch.cat([scan[crop, 1][None], others]) @ scan[crop, 0] / TEMPERATURE
            terms.append(F.cross_entropy(logits[None], torch.zeros(1, dtype=torch.long, device=z.device)))
        scans.append(torch.stack(terms).mean())
    return torch.stack(scans).mean()


def step(loss, z: torch.Tensor) -> tuple[float, torch.Tensor]:
    leaf = z.clone().requires_grad_()
    _wait(z)
    start = time.perf_counter()
    loss(leaf).backward()
    _wait(z)
    return time.perf_counter() - start, leaf.grad


def _wait(z: torch.Tensor) -> None:
    if z.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scans", type=int, default=16)
    options.add_argument("--crops", type=int, default=20)
    options.add_argument("--pairs", type=int, default=20)
    options.add_argument("--device", default="cpu")
    chosen = options.parse_args()
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(chosen.scans, chosen.crops, 2, WIDTH, generator=generator).to(chosen.device)
    slow, fast, gap = [], [], 0.0
    for _ in range(chosen.pairs + 1):
        a, theirs = step(loops, z)
        b, ours = step(lambda leaf: ntxent(leaf, TEMPERATURE, symmetric=False), z)
        slow, fast, gap = [*slow, a], [*fast, b], max(gap, float((theirs - ours).abs().max()))
    slow, fast = slow[1:], fast[1:]  # the first pair warms up
    ratio = statistics.median(a / b for a, b in zip(slow, fast, strict=True))
    a, b = 1e3 * statistics.median(slow), 1e3 * statistics.median(fast)
    print(f"{chosen.scans} scans x {chosen.crops} crops on {chosen.device}, {chosen.pairs} pairs")
    print(f"loops {a:.1f} ms, batched {b:.2f} ms: {ratio:.0f} times; gradients agree within {gap:.1e}")


if __name__ == "__main__":
    main()
