"""Fixed crops for probing a frozen encoder: drawn once, so that what the encoder makes of them is computed once.

Each case has a few random views, which depend on its name alone: decoders of all seeds learn from the same ones, each
in an order of its own. A frozen encoder in evaluation gives the same maps for a crop at every visit, bit for bit on a
CPU if batches are of the same size, so keeping them changes nothing but the time. With new views in every step there
is nothing to keep.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctfm.config import Voxels
from ctfm.errors import UserError
from ctfm.files import ensure_folder, no_shortage
from ctfm.spec import machine
from ctfm.training import augment, loop, sampling, seeds
from ctfm.training.data import Share
from ctfm.training.segmentation import LabelledCrops, Pair, Segmentation, deep_supervision

GIGABYTE = 1e9

log = logging.getLogger(__name__)


class Decoding(Segmentation):
    """A decoder in training on the crops of a pool."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return the loss of a batch; the encoder is run only if its maps are not in it."""
        classes = batch["classes"].long()
        if "images" in batch:
            return {"loss": deep_supervision(self.net(batch["images"]), classes)}
        with answering(self.net.get_submodule("encoder"), batch["maps"]):
            return {"loss": deep_supervision(self.net(classes), classes)}


@contextmanager
def answering(encoder: nn.Module, maps: Sequence[Tensor]) -> Iterator[None]:
    """Let an encoder answer with these maps, whatever it is shown."""
    vars(encoder)["forward"] = lambda _: list(maps)
    try:
        yield
    finally:
        del vars(encoder)["forward"]


class Pool:
    """The fixed crops of the cases that a decoder learns from, and an encoder's maps of them.

    It holds one training set at a time; a next one of equal size keeps the cases that both have.

    Args:
        crops: of each case.
        folder: gets a file if the maps are larger than ``machine.cache_gigabytes``; it is removed with this process.
    """

    def __init__(self, crops: int, folder: Path) -> None:
        self.crops, self.folder = crops, folder
        self.key = ""
        self.slots: dict[str, int] = {}
        self.shelves: list[_Shelf] = []

    def batches(
        self, module: Segmentation, crops: LabelledCrops, sharing: Share, first_step: int, steps: int, key: str
    ) -> Iterator[dict[str, Any]]:
        """Yield batches from ``first_step`` on, for ``Decoding``.

        Each turn takes every case once, in an order of the seed of ``crops``; turn k takes crop k of each case, and
        after the last one the first again.

        Args:
            module: whose encoder and views are used.
            crops: cases, classes, patch and seed.
            sharing: of the steps; maps are computed in batches of the same size.
            first_step: the first one to do.
            steps: in all.
            key: whatever maps and views depend on; maps of another key are not used.

        Raises:
            UserError: a case can't be read, or the disk is too small.
        """
        self._fill(module, crops, sharing.micro, key)
        names = [case.name for case in crops.cases]
        for items in sharing.items(first_step, steps, rank=0):
            turns, places = zip(*(divmod(item, len(names)) for item in items), strict=True)
            chosen = [
                names[sampling.epoch_order(len(names), turn, crops.seed)[place]]
                for turn, place in zip(turns, places, strict=True)
            ]
            rows = [self._row(name, turn % self.crops) for name, turn in zip(chosen, turns, strict=True)]
            classes, *found = (shelf.take(rows) for shelf in self.shelves)
            shown = {"maps": found} if machine().cache_features else {"images": found[0]}
            yield {"classes": classes, **shown, "names": chosen, "items": items}

    def _row(self, name: str, number: int) -> int:
        return self.slots[name] * self.crops + number

    def _fill(self, module: Segmentation, crops: LabelledCrops, batch: int, key: str) -> None:
        """Bring in the crops of the cases that are not there yet, and the encoder's maps of them."""
        new = self._place(crops.cases, key)
        made = _views(new, self.crops, crops.outputs, crops.patch, module)
        rows = [self._row(case.name, number) for case in new for number in range(self.crops)]
        for first in range(0, len(rows), batch):
            some = rows[first : first + batch]
            views = [next(made) for _ in some]
            views += views[-1:] * (batch - len(some))  # a smaller batch would be rounded differently
            images, classes = (torch.cat(parts) for parts in zip(*views, strict=True))
            kept = [classes, *(_maps(module, images) if machine().cache_features else [images])]
            if not self.shelves:
                self.shelves = _shelves(kept, len(crops.cases) * self.crops, self.folder)
            for shelf, values in zip(self.shelves, kept, strict=True):
                shelf.put(some, values[: len(some)])
        self.key = key

    def _place(self, cases: list[Pair], key: str) -> list[Pair]:
        """Give each case a slot; return those whose slots must be filled."""
        if key != self.key or len(cases) != len(self.slots):
            self.slots, self.shelves = {}, []
        self.key = ""  # until it is filled
        kept = {case.name: self.slots[case.name] for case in cases if case.name in self.slots}
        new = [case for case in cases if case.name not in kept]
        free = sorted(set(range(len(cases))) - set(kept.values()))
        self.slots = kept | {case.name: slot for case, slot in zip(new, free, strict=True)}
        return new


def _views(
    cases: list[Pair], count: int, outputs: np.ndarray, patch: Voxels, module: Segmentation
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield image and classes, each (1, 1, Z, Y, X), of every crop of every case, moved alike."""
    for case in cases:
        crops = LabelledCrops([case], outputs, patch, seeds.number("pool", case.name))
        for number in range(count):
            item = crops[number]
            if item["error"]:
                raise UserError(item["error"])
            image, classes = item["crops"].to(module.device)[:, None, None]
            random = seeds.torch_generator("cpu", "pool", case.name, number)
            image = module.scaling.scale(image)
            with torch.no_grad(), torch.autocast(module.device.type, enabled=False):  # positions need all their digits
                image, classes = augment.paired(image, classes, module.recipe.augment, random, module.spacing_mm)
            yield image, classes.to(torch.uint8)


@torch.no_grad()
def _maps(module: Segmentation, images: Tensor) -> list[Tensor]:
    encoder = module.net.get_submodule("encoder").eval()
    with loop.autocast(module.device):
        return encoder(images)


class _Shelf:
    """Rows of tensors of one shape, in the memory order of the first: convolutions round by that order."""

    def __init__(self, like: Tensor, rows: int, file: Path | None) -> None:
        self.last = like.is_contiguous(memory_format=torch.channels_last_3d)
        self.block = _block((rows, *self._turned(like).shape[1:]), like.dtype, file)

    def put(self, rows: list[int], values: Tensor) -> None:
        self.block[rows] = self._turned(values).cpu()

    def take(self, rows: list[int]) -> Tensor:
        found = self.block[rows]
        return found.movedim(-1, 1) if self.last else found

    def _turned(self, values: Tensor) -> Tensor:
        return values.movedim(1, -1) if self.last else values


def _shelves(like: list[Tensor], rows: int, folder: Path) -> list[_Shelf]:
    """Return shelves for so many rows: in main memory as far as ``machine.cache_gigabytes``, else in a file each.

    Raises:
        UserError: the disk is too small for the files.
    """
    need = rows * sum(tensor[0].nbytes for tensor in like)
    inside = need <= machine().cache_gigabytes * GIGABYTE
    where = "main memory" if inside else "files mapped into memory"
    log.info("%d fixed crops and what the encoder makes of them: %.2f GB in %s", rows, need / GIGABYTE, where)
    if inside:
        return [_Shelf(tensor, rows, None) for tensor in like]
    free = shutil.disk_usage(ensure_folder(folder)).free
    if need > free:
        raise UserError(
            f"{folder}: the encoder's maps of {rows} crops need {need / GIGABYTE:.1f} GB and {free / GIGABYTE:.1f} GB "
            "are free; lower probe.crops_per_case or probe.shots, or set machine.cache_features to false"
        )
    return [_Shelf(tensor, rows, folder / f"maps{number}") for number, tensor in enumerate(like)]


def _block(shape: tuple[int, ...], dtype: torch.dtype, file: Path | None) -> Tensor:
    """Return a tensor, in main memory or in a file that has no name any more: it goes when the process does."""
    if file is None:
        return torch.empty(shape, dtype=dtype)
    size = int(np.prod(shape))
    with no_shortage(file.parent), file.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, size * dtype.itemsize)  # a full disk must fail here, not at a write
    block = torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(shape)
    file.unlink()
    return block
