"""What a training run is asked to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning

Validate = Callable[[lightning.LightningModule], dict[str, float]]
Watch = Callable[[dict[str, float]], str | None]


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
        clip_norm: largest norm of the gradient; None: it is not clipped.
        watch: told each row; what it returns is logged as a warning.
    """

    steps: int
    steps_per_epoch: int
    folder: Path
    fingerprint: str
    checkpoint_every: int | None
    validate: Validate | None = None
    validate_every: int = 1
    best: str | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    watch: Watch | None = None

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
