"""What is done at the end of each step and epoch: counting, log lines, rows, checkpoints, stopping."""

from __future__ import annotations

import csv
import logging
import math
import signal
import time
from pathlib import Path
from typing import Any

import lightning
import torch

from ctfm.errors import UserError
from ctfm.files import atomic
from ctfm.training import checkpoints, seeds, trackers
from ctfm.training.checkpoints import Progress
from ctfm.training.feed import Feed
from ctfm.training.meter import Meter
from ctfm.training.plan import Plan, Validate

LINE_EVERY_SECONDS = 15.0
SAVE_EVERY_SECONDS = 15 * 60.0  # what a run that is killed loses at most, however long its epochs are
MOST_OVERFLOWS = 30  # steps in a row; the scaler of half precision then starts over at one
log = logging.getLogger(__name__)


class Keeper(lightning.Callback):
    """Keeps count, and at the end of an epoch writes the row and the checkpoints.

    To Lightning a run is one epoch of unknown length: its own bookkeeping inside of an epoch can't be resumed
    exactly when gradients are accumulated.
    """

    def __init__(self, plan: Plan, progress: Progress, feed: Feed) -> None:
        self.plan, self.progress = plan, progress
        self.meter = Meter(plan.steps, progress, feed)
        self.trackers: list[trackers.Tracker] = []
        self.stop = False
        self.names: list[str] = []  # of the batch
        self.seen: list[str] = []  # in the step
        self.lr = self.norm = 0.0
        self.overflows = 0
        self.line = self.saved = time.monotonic()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put our progress in place of Lightning's."""
        checkpoint.pop("loops")
        checkpoint[checkpoints.KEY] = self.progress.stored()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Set the step, take over SIGTERM, start the clock."""
        counter = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
        counter.total.ready = counter.total.completed = self.progress.step
        signal.signal(signal.SIGTERM, self._on_sigterm)
        if trainer.is_global_zero:
            self.trackers = trackers.started(self.plan.folder, self.plan.fingerprint, self.progress.step)
        self.meter.start(show=trainer.is_global_zero)
        self.line = self.saved = time.monotonic()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Seed layers such as dropout, which draw from the global generator."""
        part = batch_idx % self.plan.accumulate
        torch.manual_seed(seeds.number(self.plan.fingerprint, self.progress.step, part, trainer.global_rank))
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]
        self.names = list(batch.get("names", ())) if isinstance(batch, dict) else []
        self.seen = self.names if part == 0 else self.seen + self.names

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        """Stop before a loss that is not finite spoils the weights."""
        if not torch.isfinite(loss):
            raise self._not_finite("loss", self.names)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Measure the gradient before it is clipped, and stop before one that is not finite spoils the weights.

        With a scaler such a gradient is expected now and then: the scaler passes over the step and scales less.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.norm = float(torch.nn.utils.get_total_norm(gradients))
        self.overflows = 0 if math.isfinite(self.norm) else self.overflows + 1
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if self.overflows > (MOST_OVERFLOWS if scaled else 0):
            raise self._not_finite("gradient", self.seen)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count; at the end of a step log, save and stop as needed."""
        scalars = {key: float(value) for key, value in outputs.items()}
        weight = scalars.pop("weight", 1.0)
        self._add("loss", scalars.pop("loss") * self.plan.accumulate, weight)  # Lightning has divided it
        for key, value in scalars.items():
            self._add(key, value * weight, weight)
        self._count(batch, trainer.world_size)
        if trainer.global_step == self.progress.step:
            return
        self.progress.step = trainer.global_step
        if math.isfinite(self.norm):
            self._add("grad_norm", self.norm, 1.0)
        self.meter.step()
        self._say()
        self._end_step(trainer, pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the bar and the trackers."""
        self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the bar and the trackers."""
        self.meter.bar.close()
        for tracker in self.trackers:
            tracker.close()
        self.trackers = []

    def _count(self, batch: Any, processes: int) -> None:
        skipped = batch.get("skipped", {}) if isinstance(batch, dict) else {}
        for name, why in skipped.items():
            if name not in self.progress.skipped:
                log.warning("%s contributes nothing: %s", name, why)
        self.progress.skipped.update(skipped)
        self._add("skipped", len(skipped), 0.0)
        self.meter.count((len(self.names) + len(skipped)) * processes)

    def _end_step(self, trainer: Any, module: Any) -> None:
        finished = self.progress.step >= self.plan.steps
        overdue = time.monotonic() - self.saved > SAVE_EVERY_SECONDS
        read, stop, save = _any(trainer, [bool(self.seen), self.stop and not finished, overdue])
        if not read and self.progress.skipped:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.progress.skipped.items())
            raise UserError(f"no scan of step {self.progress.step} can be read: {reasons}")
        if self.plan.ends_epoch(self.progress.step):
            self._end_epoch(trainer, module)
        elif stop or save:
            self._save(trainer)
        if stop:
            text = "asked to stop: saved step %d of %d; start it again to go on"
            log.warning(text, self.progress.step, self.plan.steps)
            raise SystemExit(128 + signal.SIGTERM)

    def _end_epoch(self, trainer: Any, module: Any) -> None:
        epoch = math.ceil(self.progress.step / self.plan.steps_per_epoch) - 1
        row = self._row(trainer, epoch)
        if self.plan.validate and self.plan.due(epoch, self.plan.validate_every):
            row.update(_validated(trainer, module, self.plan.validate))
        improved = self._improved(row)
        self.progress.history.append(row)
        log.info("epoch %d of %d: %s", epoch + 1, self.plan.epochs, _shown(row))
        warning = self.plan.watch and self.plan.watch(row)
        if warning:
            log.warning("epoch %d: %s", epoch + 1, warning)
        self._track(row)
        self._save(trainer)
        if trainer.is_global_zero:
            folder, last = self.plan.checkpoints, self.plan.checkpoints / checkpoints.LAST
            if self.plan.due(epoch, self.plan.checkpoint_every):
                checkpoints.copy(last, folder / checkpoints.name(epoch))
            if improved:
                checkpoints.copy(last, folder / checkpoints.BEST)
            write_history(self.progress.history, self.plan.folder)

    def _row(self, trainer: Any, epoch: int) -> dict[str, float]:
        self._merge(trainer)
        sums, self.progress.sums = self.progress.sums, {}
        skipped = round(sums.pop("skipped")[0] * trainer.world_size)
        self.progress.lost += skipped
        means = {key: total / weight if weight else math.nan for key, (total, weight) in sums.items()}
        timed = self.meter.columns()
        own = {"epoch": epoch, "step": self.progress.step, "loss": means.pop("loss"), "lr": self.lr}
        return {**own, "seconds": timed.pop("seconds"), **means, "skipped": skipped, **timed}

    def _improved(self, row: dict[str, float]) -> bool:
        key = self.plan.best
        if key is None or key not in row or math.isnan(row[key]):
            return False
        return all(row[key] > old.get(key, -math.inf) or math.isnan(old[key]) for old in self.progress.history)

    def _save(self, trainer: Any) -> None:
        self._merge(trainer)
        checkpoints.save(trainer, self.plan.checkpoints)
        self.saved = time.monotonic()

    def _merge(self, trainer: Any) -> None:
        """Bring together what the processes have counted: each then goes on from the same."""
        if trainer.world_size == 1:
            return
        mine = (self.progress.sums, self.progress.skipped)
        every: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(every, mine)
        for key in self.progress.sums:
            columns = zip(*(sums.get(key, [0.0, 0.0]) for sums, _ in every), strict=True)
            self.progress.sums[key] = [sum(column) / trainer.world_size for column in columns]
        self.progress.skipped = {name: why for _, skipped in every for name, why in skipped.items()}

    def _add(self, key: str, total: float, weight: float) -> None:
        sums = self.progress.sums.setdefault(key, [0.0, 0.0])
        sums[0] += total
        sums[1] += weight

    def _say(self) -> None:
        if time.monotonic() - self.line < LINE_EVERY_SECONDS:
            return
        self.line, step = time.monotonic(), self.progress.step
        total, weight = self.progress.sums["loss"]
        now = {"loss": total / max(weight, 1.0), "lr": self.lr, "grad_norm": self.norm}
        self._track({f"now/{key}": value for key, value in now.items()})
        if self.meter.bar.disable:
            epoch = (step - 1) // self.plan.steps_per_epoch + 1
            text = "epoch %d of %d, step %d of %d: loss %.4f, %s"
            log.info(text, epoch, self.plan.epochs, step, self.plan.steps, now["loss"], self.meter.speed())

    def _track(self, values: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(values, self.progress.step)

    def _not_finite(self, what: str, names: list[str]) -> UserError:
        return UserError(
            f"the {what} is not finite at step {self.progress.step} with {', '.join(names) or 'this batch'}; "
            f"look at these volumes, or lower the learning rate; the checkpoints are from before it"
        )

    def _on_sigterm(self, *_: Any) -> None:
        self.stop = True


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


def _any(trainer: Any, flags: list[bool]) -> list[bool]:
    """Tell for each flag whether it is set in any of the processes."""
    if trainer.world_size == 1:
        return flags
    counts = torch.tensor(flags, dtype=torch.float32, device=trainer.strategy.root_device)
    return [count > 0 for count in trainer.strategy.reduce(counts, reduce_op="sum").tolist()]


def _shown(row: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key not in ("epoch", "step"))
