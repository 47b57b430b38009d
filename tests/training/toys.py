"""A tiny Lightning module and its batches, for the tests of the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning
import torch

from ctfm.training import optim, seeds

# Sums depend on the number of threads; every process of a test must have the same.
torch.set_num_threads(1)

STEPS, PER_EPOCH, ACCUMULATE = 12, 4, 2


class Toy(lightning.LightningModule):
    """Has all that could spoil resumption: momentum, a schedule, running statistics, dropout, noise, accumulation."""

    def __init__(self) -> None:
        super().__init__()
        with seeds.seeded(0, "weights"):
            layers = [torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)]
            self.net = torch.nn.Sequential(*layers)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, torch.Tensor]:
        x = batch["x"]
        noise = torch.rand(1, generator=seeds.torch_generator("cpu", 0, self.global_step)).to(x.device)
        loss = (self.net(x) - x.sum(1, keepdim=True) + noise).square().mean()
        return {"loss": loss, "spread": x.std()}

    def configure_optimizers(self) -> Any:
        return optim.with_schedule(optim.optimizer(self, "adamw", 1e-2, 1e-2), 3, STEPS)


def loader(at: Callable[[int, dict[str, Any]], None] = lambda item, batch: None) -> Callable[[int], Iterator[Any]]:
    """Return a loader that calls `at` with the number of each batch, counted over the whole run."""

    def batches(first_step: int) -> Iterator[dict[str, Any]]:
        for item in range(first_step * ACCUMULATE, 10**6):
            x = torch.randn(6, 4, generator=seeds.torch_generator("cpu", "x", item))
            batch = {"x": x, "names": [f"case{item}"]}
            at(item, batch)
            yield batch

    return batches
