"""Random crops from the volume store, in an order that depends on the seed alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ctfm import files
from ctfm.config import Voxels
from ctfm.errors import Quarantine, UserError
from ctfm.imaging import store
from ctfm.imaging.resample import AIR_HU
from ctfm.training import seeds
from ctfm.training.corpus import Corpus, reason

BODY_SHARE = 0.1  # of a crop taken for ``foreground``
TRIES = 8  # places looked at for such a crop, before one within the body's box is taken


class Crops(Dataset):
    """Item k is a scan and its random crops: a pure function of (seed, k), for any k from 0.

    Each pass over the scans takes every scan once, in an order of its own; volumes that can't be read keep their
    place in it. A process checks the bytes of a volume when it first opens it: damaged blocks would decode to wrong
    values without an error.

    Args:
        corpus: the volumes.
        patch: voxels (z, y, x) of a crop.
        crops_per_scan: crops of an item.
        crop_from: where they lie; see ``ctfm.config.Pretrain``.
        seed: of order and places.
    """

    def __init__(self, corpus: Corpus, patch: Voxels, crops_per_scan: int, crop_from: str, seed: int) -> None:
        self.corpus, self.patch, self.crops_per_scan = corpus, patch, crops_per_scan
        self.crop_from, self.seed = crop_from, seed
        self._checked: set[int] = set()

    def scan(self, item: int) -> int:
        """Return the position of an item's scan in the corpus."""
        number = len(self.corpus.files)
        return int(_order(self.seed, item // number, number)[item % number])

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return ``crops``, an int16 tensor (N, Z, Y, X) of HU; the ``name`` of the scan; ``item``; or an ``error``."""
        scan = self.scan(item)
        name, path = self.corpus.names[scan], self.corpus.files[scan]
        try:
            self._check(scan)
            crops, error = self._read(path, item), ""
        except (Quarantine, RuntimeError, OSError, ValueError) as fault:
            error = f"its volume {path.name} can't be read ({reason(fault, path)}); prepare its shard anew"
            crops = np.full((self.crops_per_scan, *self.patch), AIR_HU, dtype=np.int16)
        return {"crops": torch.from_numpy(crops), "name": name, "item": item, "error": error}

    def _check(self, scan: int) -> None:
        if scan not in self._checked and files.sha256(self.corpus.files[scan]) != self.corpus.checksums[scan]:
            raise ValueError("its bytes are not those that the index lists")
        self._checked.add(scan)

    def _read(self, path: Path, item: int) -> np.ndarray:
        volume, random = store.open_volume(path), seeds.generator(self.seed, "crops", item)
        whole = [(0, 0, 0), volume.shape]
        box = whole if self.crop_from == "volume" else volume.meta.get("body_box") or whole
        starts = corners(volume.shape, box, self.patch, self.crops_per_scan, random)
        if self.crop_from == "foreground":
            tries = corners(volume.shape, whole, self.patch, self.crops_per_scan * TRIES, random)
            options = np.concatenate([tries.reshape(-1, TRIES, 3), starts[:, None]], axis=1)
            crops = [_with_body(volume, places.tolist(), self.patch) for places in options]
        else:
            crops = [volume.crop((z, y, x), self.patch) for z, y, x in starts.tolist()]
        return _whole_numbers(np.stack(crops))


def corners(shape: Voxels, box: Any, patch: Voxels, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw ``count`` corners (z, y, x) of patches, uniformly and independently.

    A patch lies within the body's ``box`` (start, stop), or holds the whole of it where it is the larger; so far as
    that leaves a choice it lies within the volume, too.
    """
    edge = np.asarray(patch)
    first, last = np.asarray(box[0]), np.asarray(box[1]) - edge
    limit = np.asarray(shape) - edge
    low, high = (np.clip(f(first, last), np.minimum(0, limit), np.maximum(0, limit)) for f in (np.minimum, np.maximum))
    return generator.integers(low, high + 1, size=(count, 3))


@dataclass(frozen=True)
class Share:
    """Which scans of an optimiser step a process reads, and in how many batches.

    Attributes:
        global_batch: scans in a step over all processes.
        processes: number of them.
        micro: scans in one batch; divides the share of a process.
    """

    global_batch: int
    processes: int
    micro: int

    @property
    def accumulate(self) -> int:
        """Return the batches in one step."""
        return self.global_batch // self.processes // self.micro

    def items(self, first_step: int, steps: int, rank: int) -> Iterator[list[int]]:
        """Yield the items of each batch of a process from a step on."""
        mine = self.global_batch // self.processes
        for step in range(first_step, steps):
            start = step * self.global_batch + rank * mine
            for part in range(0, mine, self.micro):
                yield list(range(start + part, start + part + self.micro))


def share(global_batch: int, processes: int, most: int | None) -> Share:
    """Divide a step's scans over processes, and those into equal batches of at most ``most`` scans.

    Raises:
        UserError: the scans of a step can't be shared equally.
    """
    if global_batch % processes:
        raise UserError(
            f"global_batch {global_batch} can't be shared equally by {processes} devices; "
            "show a number of devices that divides it (CUDA_VISIBLE_DEVICES)"
        )
    mine = global_batch // processes
    micro = max(m for m in range(1, min(mine, most or mine) + 1) if mine % m == 0)
    return Share(global_batch, processes, micro)


def batches(
    dataset: Dataset,
    sharing: Share,
    first_step: int,
    steps: int,
    *,
    rank: int,
    workers: int,
    pin: bool,
    strict: bool = True,
) -> Iterator[dict[str, Any]]:
    """Yield batches from ``first_step`` on: ``crops`` (B, N, Z, Y, X) int16, ``names`` and ``items`` (lists).

    ``skipped`` is a dict of name and reason of the scans that can't be read: their crops are not in the batch. If none
    can, the batch has no ``names``, and one scan of air in place of nothing, so that every process does every step.
    The workers live as long as the iterator, which is the whole run.

    Raises:
        UserError: ``strict``, and a scan or case can't be read.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=_Items(sharing, first_step, steps, rank),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=_outlive_sigterm,
    )
    for batch in loader:
        if strict and batch["skipped"]:
            raise UserError("; ".join(batch["skipped"].values()))
        yield batch


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the scans that could be read to a batch, and tell of the others."""
    good = [item for item in items if not item["error"]]
    skipped = {item["name"]: item["error"] for item in items if item["error"]}
    kept = good or items[:1]
    crops, numbers = torch.stack([item["crops"] for item in kept]), [item["item"] for item in kept]
    return {"crops": crops, "names": [item["name"] for item in good], "items": numbers, "skipped": skipped}


class _Items:
    """The batch sampler: an order from a given step on."""

    def __init__(self, sharing: Share, first_step: int, steps: int, rank: int) -> None:
        self.sharing, self.first_step, self.steps, self.rank = sharing, first_step, steps, rank

    def __iter__(self) -> Iterator[list[int]]:
        return self.sharing.items(self.first_step, self.steps, self.rank)


def _outlive_sigterm(_: int) -> None:
    """Let the main process end its step when a whole process group is asked to stop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@lru_cache(maxsize=4)
def _order(seed: int, turn: int, number: int) -> np.ndarray:
    return seeds.generator(seed, "scans", turn).permutation(number)


def _with_body(volume: store.Stored, places: list[list[int]], patch: Voxels) -> np.ndarray:
    """Return the crop at the first place that holds enough of the body, or at the last one."""
    for z, y, x in places:
        crop = volume.crop((z, y, x), patch)
        if (crop > store.BODY_HU).mean() >= BODY_SHARE:
            break
    return crop


def _whole_numbers(crops: np.ndarray) -> np.ndarray:
    if crops.dtype.kind == "f" and not np.isfinite(crops).all():
        raise ValueError("it holds values that are no numbers")
    return crops.astype(np.int16)
