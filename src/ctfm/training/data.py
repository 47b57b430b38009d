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
from ctfm.tables import read
from ctfm.training import seeds


@dataclass(frozen=True)
class Corpus:
    """The volumes of an index that can be used.

    Attributes:
        names: SeriesInstanceUIDs, sorted.
        files: their volume files.
        checksums: SHA-256 of each file.
        digest: of the UIDs and the bytes of the volumes.
        spacing_mm: spacing (z, y, x) of them all.
    """

    names: list[str]
    files: list[Path]
    checksums: list[str]
    digest: str
    spacing_mm: tuple[float, float, float]


def corpus(index: Path) -> Corpus:
    """Read an index of volumes; quarantined ones are left out.

    Raises:
        UserError: nothing usable is in it, or its volumes differ in spacing.
    """
    table = read("volumes", index)
    table = table[table["status"] == "ok"].sort_values("SeriesInstanceUID")
    if table.empty:
        raise UserError(f"{index}: no volume with status 'ok'; look at its columns 'reason' and 'detail'")
    spacings = {tuple(round(float(mm), 6) for mm in row) for row in table["spacing_out"]}
    if len(spacings) != 1:
        raise UserError(f"{index}: volumes of {len(spacings)} different spacings; prepare them all with one spacing_mm")
    z, y, x = spacings.pop()
    names, checksums = list(table["SeriesInstanceUID"]), list(table["sha256"])
    paths = [index.parent / path for path in table["path"]]
    digest = files.digest(list(zip(names, checksums, strict=True)))
    return Corpus(names, paths, checksums, digest, (z, y, x))


class Crops(Dataset):
    """Item k is a scan and its random crops: a pure function of (seed, k), for any k from 0.

    Each pass over the scans takes every scan once, in an order of its own. A process checks the bytes of a volume
    when it first opens it: damaged blocks would decode to wrong values without an error.
    """

    def __init__(self, corpus: Corpus, patch: Voxels, crops_per_scan: int, seed: int) -> None:
        self.corpus, self.patch, self.crops_per_scan, self.seed = corpus, patch, crops_per_scan, seed
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
            crops = self._read(path, item)
        except (Quarantine, RuntimeError, OSError, ValueError) as error:
            text = f"{name}: its volume {path.name} can't be read ({error}); prepare its shard anew"
            return {"crops": torch.empty(0, dtype=torch.int16), "name": name, "item": item, "error": text}
        return {"crops": torch.from_numpy(crops), "name": name, "item": item, "error": ""}

    def _check(self, scan: int) -> None:
        if scan not in self._checked and files.sha256(self.corpus.files[scan]) != self.corpus.checksums[scan]:
            raise ValueError("its bytes are not those that the index lists")
        self._checked.add(scan)

    def _read(self, path: Path, item: int) -> np.ndarray:
        volume = store.open_volume(path)
        box = volume.meta.get("body_box") or [(0, 0, 0), volume.shape]
        starts = corners(volume.shape, box, self.patch, self.crops_per_scan, seeds.generator(self.seed, "crops", item))
        return np.stack([volume.crop((z, y, x), self.patch) for z, y, x in starts.tolist()]).astype(np.int16)


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
    dataset: Dataset, sharing: Share, first_step: int, steps: int, *, rank: int, workers: int, pin: bool
) -> Iterator[dict[str, Any]]:
    """Yield batches from ``first_step`` on: ``crops`` (B, N, Z, Y, X) int16, ``names`` and ``items`` (lists).

    Raises:
        UserError: a volume can't be read; the message names the series.
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
        errors = batch.pop("errors")
        if errors:
            raise UserError("; ".join(dict.fromkeys(errors)))
        yield batch


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Join scans to a batch; errors of reading travel along, so that the main process can tell them plainly."""
    errors = [item["error"] for item in items if item["error"]]
    crops = torch.empty(0) if errors else torch.stack([item["crops"] for item in items])
    names, numbers = [item["name"] for item in items], [item["item"] for item in items]
    return {"crops": crops, "names": names, "items": numbers, "errors": errors}


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
