"""One training step of pre-training: one encoder call against 2N, memory order, precision, compile, and scaling.

Prints seconds a step (forward, loss, backward, AdamW), the share of the device's measured matrix peak (MFU), how the
cost grows with crops, patch and scans, and the days that the paper's run would take on four such devices.

    python bench/pretrain_step.py [--device cuda] [--filters 32] [--scans 1] [--crops 2] [--patch 24 128 128]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from ctfm.encoders import segresnet
from ctfm.ssl import simclr
from ctfm.training import seeds

STEPS, SCANS, CROPS, DEVICES, PAPER_DAYS = 250_000, 16, 20, 4, 24
Shape = tuple[int, int, tuple[int, int, int]]  # scans, crops, patch


class Step:
    """An encoder with SimCLR and its optimiser."""

    def __init__(
        self, filters: int, device: str, order: torch.memory_format, dtype: torch.dtype, compiled: bool
    ) -> None:
        with seeds.seeded(0):
            self.encoder = segresnet.build(segresnet.Settings(init_filters=filters))
            self.method = simclr.Method(simclr.Settings(), self.encoder.channels[-1])
        self.encoder.to(device, memory_format=order)
        self.method.to(device)
        self.run = torch.compile(self.encoder) if compiled else self.encoder
        self.optimizer = torch.optim.AdamW([*self.encoder.parameters(), *self.method.parameters()], lr=1e-4)
        self.device, self.dtype = device, dtype

    def one_call(self, views: torch.Tensor) -> None:
        """Take a step with one encoder call over all views."""
        self._finish(lambda: self.method.loss(self.run, views)[0])

    def many_calls(self, views: torch.Tensor) -> None:
        """Take a step as published: one encoder call for each crop and view, over the scans."""

        def loss() -> torch.Tensor:
            parts = [[self.run(views[:, n, v])[-1] for v in (0, 1)] for n in range(views.shape[1])]
            maps = torch.stack([torch.stack(pair, 1) for pair in parts], 1).flatten(0, 2)
            return self.method.loss(lambda _: [maps], views)[0]

        self._finish(loss)

    def _finish(self, loss: Callable[[], torch.Tensor]) -> None:
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            value = loss()
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        self.optimizer.step()


def seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """Return the median time of ``work``, after one call that warms up."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def random_views(shape: Shape, device: str) -> torch.Tensor:
    scans, crops, patch = shape
    return torch.rand(scans, crops, 2, 1, *patch, generator=torch.Generator().manual_seed(0)).to(device)


def teraflop(filters: int, shape: Shape) -> float:
    """Return the arithmetic of a step's forward and backward pass, TFLOP."""
    encoder = segresnet.build(segresnet.Settings(init_filters=filters)).to("meta")
    with FlopCounterMode(display=False) as counter:
        encoder(torch.empty(1, 1, *shape[2], device="meta"))
    return 3 * counter.get_total_flops() * 2 * shape[0] * shape[1] / 1e12


def peak(device: str, dtype: torch.dtype) -> float:
    """Return the measured speed of a large matrix product, TFLOP/s."""
    n = 8192 if device == "cuda" else 1024
    a = torch.rand(n, n, device=device, dtype=dtype)
    return 2 * n**3 / seconds(lambda: a @ a, 5, device) / 1e12


def variants(device: str) -> list[tuple[str, torch.memory_format, torch.dtype, bool]]:
    plain, last = torch.contiguous_format, torch.channels_last_3d
    return [
        ("float32, contiguous", plain, torch.float32, False),
        ("float32, channels last", last, torch.float32, False),
        ("bfloat16, contiguous", plain, torch.bfloat16, False),
        ("bfloat16, channels last", last, torch.bfloat16, False),
        ("bfloat16, channels last, compiled", last, torch.bfloat16, True),
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--filters", type=int, default=32)
    options.add_argument("--scans", type=int, default=1)
    options.add_argument("--crops", type=int, default=2)
    options.add_argument("--patch", type=int, nargs=3, default=(24, 128, 128))
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    chosen = options.parse_args()
    device, shape = chosen.device, (chosen.scans, chosen.crops, tuple(chosen.patch))
    best = best_variant(chosen, device, shape)
    calls(chosen, device, best)
    scaling(chosen, device, best)


def best_variant(chosen: argparse.Namespace, device: str, shape: Shape) -> tuple:
    work, views = teraflop(chosen.filters, shape), random_views(shape, device)
    print(f"{device}: {shape[0]} scans x {shape[1]} crops x 2 views of {shape[2]}, {work:.2f} TFLOP a step")
    times = {}
    for variant in variants(device):
        if variant[3] and chosen.no_compile:
            continue
        took = seconds(partial(Step(chosen.filters, device, *variant[1:]).one_call, views), chosen.repeats, device)
        limit = peak(device, variant[2])
        times[variant] = took
        share = work / took / limit
        print(f"  {variant[0]:<34} {took:8.3f} s, {work / took:7.2f} of {limit:.2f} TFLOP/s: MFU {share:.0%}")
    return min(times, key=times.__getitem__)


def calls(chosen: argparse.Namespace, device: str, best: tuple) -> None:
    """Compare one encoder call with 2N."""
    views = random_views((chosen.scans, 2 * chosen.crops, tuple(chosen.patch)), device)
    step = Step(chosen.filters, device, *best[1:])
    one, many = (seconds(partial(work, views), chosen.repeats, device) for work in (step.one_call, step.many_calls))
    print(f"one call against {4 * chosen.crops} calls ({best[0]}): {one:.3f} s, {many:.3f} s: {many / one:.2f} times")


def scaling(chosen: argparse.Namespace, device: str, best: tuple) -> None:
    """Show the cost of more crops, larger patches and more scans, and extrapolate the paper's run."""
    z, y, x = chosen.patch
    base = (chosen.scans, chosen.crops, (z, y, x))
    shapes = [base, (base[0], 2 * base[1], base[2]), (2 * base[0], *base[1:]), (*base[:2], (2 * z, y, x))]
    step, first, rate = Step(chosen.filters, device, *best[1:]), 0.0, 0.0
    print("scaling, over the first:")
    for shape in shapes:
        took = seconds(partial(step.one_call, random_views(shape, device)), chosen.repeats, device)
        work = teraflop(chosen.filters, shape)
        first, rate = first or took, max(rate, work / took)
        print(f"  {shape[0]} scans x {shape[1]} crops of {shape[2]}: {took / first:.2f}, {work / took:.2f} TFLOP/s")
    whole = teraflop(32, (SCANS, CROPS, (24, 128, 128))) * STEPS
    days = whole / rate / DEVICES / 86_400
    print(
        f"the paper's run is {whole / 1e6:.0f} EFLOP: {days:,.1f} days on {DEVICES} such devices at {rate:.2f} TFLOP/s"
    )
    print(f"each, where the paper took {PAPER_DAYS} on 4 Quadro RTX 8000")


if __name__ == "__main__":
    main()
