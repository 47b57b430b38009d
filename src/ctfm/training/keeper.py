"""What is done at the end of each step and epoch: counting, log lines, rows, checkpoints, stopping."""

from __future__ import annotations

import csv
import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch

from ctfm.errors import UserError
from ctfm.files import atomic
from ctfm.training import checkpoints, seeds
from ctfm.training.checkpoints import Progress

LINE_EVERY_SECONDS = 15.0
log = logging.getLogger(__name__)

Validate = Callable[[lightning.LightningModule], dict[str, float]]


@dataclass(frozen=True)
class Plan:
    """The arguments of ``fit``.

    Attributes:
        steps: optimiser steps in all.
        steps_per_epoch: an epoch is so many steps: then a row is written and last.ckpt is saved.
        folder: gets ``metrics.csv`` and ``checkpoints/{last,epoch=NNNN,best}.ckpt``.
        fingerprint: digest of settings and data; only checkpoints that carry it are resumed.
        checkpoint_every: keep a checkpoint every so many epochs and at the end; None: last.ckpt alone.
        validate: called on the first rank with the module in evaluation mode, without gradients.
        validate_every: epochs between calls of ``validate``; the last epoch is always validated.
        best: key of ``validate``'s result; the checkpoint of its largest value is kept as best.ckpt.
        accumulate: batches in one optimiser step.
    """

    steps: int
    steps_per_epoch: int
    folder: Path
    fingerprint: str
    checkpoint_every: int | None
    validate: Validate | None
    validate_every: int
    best: str | None
    accumulate: int

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def epochs(self) -> int:
        """Return the number of epochs; the last may be shorter."""
        return math.ceil(self.steps / self.steps_per_epoch)

    def ends_epoch(self, step: int) -> bool:
        """Tell whether an epoch ends after so many steps."""
        return step % self.steps_per_epoch == 0 or step == self.steps

    def due(self, epoch: int, every: int | None) -> bool:
        """Tell whether something done every so many epochs is done after this one (counted from 0)."""
        return every is not None and ((epoch + 1) % every == 0 or epoch + 1 == self.epochs)


class Keeper(lightning.Callback):
    """Keeps count, and at the end of an epoch writes the row and the checkpoints.

    To Lightning a run is one epoch of unknown length: its own bookkeeping inside of an epoch can't be resumed
    exactly when gradients are accumulated.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.plan, self.progress = plan, progress
        self.stop = False
        self.names: list[str] = []
        self.lr = 0.0
        self.begin = self.clock = self.line = self.epoch_clock = time.monotonic()
        self.first = (progress.step, progress.samples)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put our progress in place of Lightning's."""
        checkpoint.pop("loops")
        checkpoint[checkpoints.KEY] = self.progress.stored()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Set the step, take over SIGTERM, start the clock."""
        counter = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
        counter.total.ready = counter.total.completed = self.progress.step
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self.begin = self.clock = self.line = self.epoch_clock = time.monotonic()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Seed layers such as dropout, which draw from the global generator."""
        part = batch_idx % self.plan.accumulate
        torch.manual_seed(seeds.number(self.plan.fingerprint, self.progress.step, part, trainer.global_rank))
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]
        self.names = list(batch.get("names", ())) if isinstance(batch, dict) else []

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        """Stop before a loss that is not finite spoils the weights."""
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is not finite at step {self.progress.step} with {', '.join(self.names) or 'this batch'}; "
                f"look at these volumes, or lower the learning rate; the checkpoints are from before it"
            )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count; at the end of a step log, save and stop as needed."""
        sums = self.progress.sums
        for key, value in outputs.items():
            sums[key] = sums.get(key, 0.0) + float(value)
        sums["batches"] = sums.get("batches", 0) + 1
        self.progress.samples += len(self.names) * trainer.world_size
        if trainer.global_step == self.progress.step:
            return
        self.progress.step = trainer.global_step
        now = time.monotonic()
        self.progress.seconds, self.clock = self.progress.seconds + now - self.clock, now
        self._say(now)
        if self.plan.ends_epoch(self.progress.step):
            self._end_epoch(trainer, pl_module)
        self._stop_if_asked(trainer)

    def _end_epoch(self, trainer: Any, module: Any) -> None:
        epoch = math.ceil(self.progress.step / self.plan.steps_per_epoch) - 1
        row = self._row(trainer, epoch)
        if self.plan.validate and self.plan.due(epoch, self.plan.validate_every):
            row.update(_validated(trainer, module, self.plan.validate))
        improved = self._improved(row)
        self.progress.history.append(row)
        log.info("epoch %d of %d: %s", epoch + 1, self.plan.epochs, _shown(row))
        folder, last = self.plan.checkpoints, self.plan.checkpoints / checkpoints.LAST
        checkpoints.save(trainer, last)
        if trainer.is_global_zero:
            if self.plan.due(epoch, self.plan.checkpoint_every):
                checkpoints.copy(last, folder / checkpoints.name(epoch))
            if improved:
                checkpoints.copy(last, folder / checkpoints.BEST)
            write_history(self.progress.history, self.plan.folder)

    def _row(self, trainer: Any, epoch: int) -> dict[str, float]:
        sums, self.progress.sums = self.progress.sums, {}
        batches = sums.pop("batches")
        means = {key: value / batches for key, value in _over_processes(sums, trainer).items()}
        now = time.monotonic()
        seconds, self.epoch_clock = now - self.epoch_clock, now
        own = {"epoch": epoch, "step": self.progress.step, "loss": means.pop("loss"), "lr": self.lr}
        return {**own, "seconds": round(seconds, 3), **means}

    def _improved(self, row: dict[str, float]) -> bool:
        key = self.plan.best
        if key is None or key not in row or math.isnan(row[key]):
            return False
        return all(row[key] > old.get(key, -math.inf) or math.isnan(old[key]) for old in self.progress.history)

    def _say(self, now: float) -> None:
        if now - self.line < LINE_EVERY_SECONDS:
            return
        self.line, step, loss = now, self.progress.step, self.progress.sums["loss"] / self.progress.sums["batches"]
        each = (now - self.begin) / (step - self.first[0])
        rate = (self.progress.samples - self.first[1]) / (now - self.begin)
        text = "epoch %d of %d, step %d of %d: loss %.4f, %.2f s a step, %.1f samples/s, %s to go"
        epoch = (step - 1) // self.plan.steps_per_epoch + 1
        left = _duration(each * (self.plan.steps - step))
        log.info(text, epoch, self.plan.epochs, step, self.plan.steps, loss, each, rate, left)

    def _on_sigterm(self, *_: Any) -> None:
        self.stop = True

    def _stop_if_asked(self, trainer: Any) -> None:
        finished = self.progress.step >= self.plan.steps
        if finished or not trainer.strategy.reduce_boolean_decision(self.stop, all=False):
            return
        self.progress.sums = _over_processes(self.progress.sums, trainer)
        checkpoints.save(trainer, self.plan.checkpoints / checkpoints.LAST)
        log.warning("asked to stop: saved step %d of %d; start it again to go on", self.progress.step, self.plan.steps)
        raise SystemExit(128 + signal.SIGTERM)


def write_history(history: list[dict[str, float]], folder: Path) -> None:
    """Write ``metrics.csv``: one row for each epoch, empty where a value was not measured."""
    columns = list(dict.fromkeys(column for row in history for column in row))
    with atomic(folder / "metrics.csv") as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns or ["epoch", "step", "loss", "lr", "seconds"])
        writer.writeheader()
        writer.writerows(history)


def _validated(trainer: Any, module: Any, validate: Validate) -> dict[str, float]:
    """Measure on the first rank, and leave every layer in the mode it was in."""
    result: dict[str, float] = {}
    if trainer.is_global_zero:
        modes = {layer: layer.training for layer in module.modules()}
        module.eval()
        with torch.no_grad():
            result = {key: float(value) for key, value in validate(module).items()}
        for layer, mode in modes.items():
            layer.training = mode
    return trainer.strategy.broadcast(result)


def _over_processes(values: dict[str, float], trainer: Any) -> dict[str, float]:
    """Return the means over the processes that train together."""
    if trainer.world_size == 1 or not values:
        return values
    local = torch.tensor(list(values.values()), dtype=torch.float64, device=trainer.strategy.root_device)
    return dict(zip(values, trainer.strategy.reduce(local, reduce_op="mean").tolist(), strict=True))


def _shown(row: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key not in ("epoch", "step"))


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {int(seconds % 60):02d} s"
