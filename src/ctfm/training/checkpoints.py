"""Checkpoints: written whole or not at all, read as tensors only, and resumed by the run that wrote them alone."""

from __future__ import annotations

import logging
import shutil
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ctfm.errors import UserError
from ctfm.files import atomic

KEY = "ctfm"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"  # the last one before, while a run goes on
BEST = "best.ckpt"
ENCODER = "encoder."
log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run is; kept inside each checkpoint.

    Attributes:
        step: optimiser steps done.
        samples: scans or cases seen, over all devices.
        seconds: time spent training, over all starts.
        history: a row for each finished epoch.
        sums: of the epoch that is not finished yet, for each scalar: sum of its values, and of their weights.
        epoch: of that epoch: seconds, seconds waited for data, samples.
        skipped: name and reason of the scans that could not be read.
        lost: how often that happened; counted in ``samples`` too.
        resumed: steps at which the run was resumed.
    """

    fingerprint: str = ""
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, list[float]] = field(default_factory=dict)
    epoch: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    lost: int = 0
    resumed: list[int] = field(default_factory=list)

    def stored(self) -> dict[str, Any]:
        """Return the plain values that go into a checkpoint."""
        return asdict(self)


def name(epoch: int) -> str:
    """Return the file name of the checkpoint at the end of an epoch (counted from 0)."""
    return f"epoch={epoch:04d}.ckpt"


def read(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; tensors are mapped, so unused ones cost nothing.

    Raises:
        UserError: the file is missing, damaged, not ours, or holds more than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        Progress(**content[KEY])
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, UnpicklingError) as error:
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({reason}); remove it or choose another") from error
    return content


def progress(path: Path | str) -> Progress:
    """Return how far the run was when it wrote this checkpoint."""
    return Progress(**read(path)[KEY])


def every(folder: Path) -> list[Path]:
    """Return the checkpoints of single epochs, in order of epoch."""
    return sorted(folder.glob("epoch=*.ckpt"))


def of_run(folder: Path, fingerprint: str) -> list[Path]:
    """Return the checkpoints of single epochs that a run wrote; a damaged one is told and left out.

    Their bytes are held against their checksums: mapped tensors are not, and wrong weights would look like bad ones.

    Raises:
        UserError: there is none.
    """
    found = []
    for path in every(folder):
        try:
            if progress(path).fingerprint == fingerprint:
                _check_bytes(path)
                found.append(path)
        except UserError as error:
            log.warning("left out: %s", error)
    if not found:
        raise UserError(f"{folder}: no checkpoint of this run; run 'ctfm pretrain' first")
    return found


def _check_bytes(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        damaged = str(error)
    if damaged:
        raise UserError(f"{path}: damaged ({damaged} is not what was written); remove it or choose another")


def encoder(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the encoder's part of what ``read`` gave: names without the prefix ``encoder.``."""
    state = content["state_dict"]
    return {key.removeprefix(ENCODER): value for key, value in state.items() if key.startswith(ENCODER)}


def newest(folder: Path, fingerprint: str) -> Path | None:
    """Return the newest readable checkpoint of this very run, or None to start anew.

    A damaged file is passed over with a warning. Checkpoints of a run with other settings or data are
    moved to ``<folder>-<its fingerprint>``, never overwritten.
    """
    found = _readable([folder / LAST]) or _readable([folder / PREVIOUS, *every(folder)])
    if found:
        path, newest = max(found, key=lambda item: item[1].step)
        if newest.fingerprint == fingerprint:
            return path
        _move_aside(folder, newest.fingerprint)
    elif folder.is_dir() and any(folder.iterdir()):
        _move_aside(folder, "unreadable")
    return None


def save(trainer: Any, folder: Path) -> None:
    """Let Lightning write last.ckpt, and keep the one before it. Call on every rank."""
    last = folder / LAST
    temporary = last.with_name(f".{LAST}.tmp")
    trainer.save_checkpoint(temporary)
    if trainer.is_global_zero:
        if last.exists():
            last.replace(folder / PREVIOUS)
        temporary.replace(last)


def copy(path: Path, other: Path) -> None:
    """Copy a written checkpoint. A hard link would be cheaper, but damage to one name would be damage to both."""
    with atomic(other) as temporary:
        shutil.copyfile(path, temporary)


def _readable(paths: list[Path]) -> list[tuple[Path, Progress]]:
    found = []
    for path in paths:
        try:
            if path.exists():
                found.append((path, progress(path)))
        except UserError as error:
            log.warning("%s; trying the one before it", error)
    return found


def _move_aside(folder: Path, suffix: str) -> None:
    target, count = folder.with_name(f"{folder.name}-{suffix}"), 1
    while target.exists():
        count += 1
        target = folder.with_name(f"{folder.name}-{suffix}-{count}")
    log.warning("%s is of a run with other settings, data or damaged files: moved to %s", folder, target.name)
    folder.rename(target)
