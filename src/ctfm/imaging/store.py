"""The volume store: one blosc2 b2nd file per volume, so that a crop costs only its own blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from ctfm.errors import Quarantine
from ctfm.files import atomic
from ctfm.imaging.resample import AIR_HU
from ctfm.imaging.volume import Volume, spacing_of
from ctfm.options import Voxels

# Chosen by bench/stores.py (docs/benchmarks.md): a volume is written once and read at every epoch. Crops decode 1.5
# times as fast as with zstd, for 12 to 16 % more bytes. Larger chunks read crops slower; other blocks gain nothing.
CHUNKS = (32, 128, 128)
BLOCKS = (8, 32, 32)
PACKING = {
    "codec": blosc2.Codec.LZ4,
    "clevel": 9,
    "filters": [blosc2.Filter.BITSHUFFLE],  # lz4 finds repeated bytes only: the noisy bits must stand apart
    "filters_meta": [0],
    "nthreads": 1,
}
BODY_HU = -500


@dataclass(frozen=True)
class Stored:
    """An open volume file. Reading a crop decodes only the blocks it touches.

    Attributes:
        affine: (4, 4), as in ``Volume``.
        meta: provenance and other facts written with the volume.
    """

    handle: Any
    affine: np.ndarray
    meta: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        z, y, x = self.handle.shape
        return z, y, x

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing (z, y, x) in mm."""
        return spacing_of(self.affine)

    def crop(self, start: tuple[int, int, int], size: tuple[int, int, int], pad: float = AIR_HU) -> np.ndarray:
        """Read a box of ``size`` (z, y, x) voxels at ``start``; what lies outside is ``pad``."""
        low = [max(0, s) for s in start]
        high = [min(n, s + k) for n, s, k in zip(self.shape, start, size, strict=True)]
        if all(s == a and s + k == b for s, k, a, b in zip(start, size, low, high, strict=True)):
            return self.handle[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        out = np.full(size, pad, dtype=self.handle.dtype)
        if all(a < b for a, b in zip(low, high, strict=True)):
            inside = tuple(slice(a - s, b - s) for s, a, b in zip(start, low, high, strict=True))
            out[inside] = self.handle[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        return out

    def load(self) -> Volume:
        """Read the whole volume."""
        return Volume(self.handle[:], self.affine)


def save(volume: Volume, path: Path | str, meta: dict[str, Any] | None = None) -> None:
    """Write a volume atomically as b2nd; same input, same bytes.

    Args:
        volume: int16 HU, or uint8 / uint16 labels.
        path: ends in ``.b2nd``.
        meta: JSON-like facts to keep inside the file.
    """
    chunks = tuple(min(c, n) for c, n in zip(CHUNKS, volume.shape, strict=True))
    blocks = tuple(min(b, c) for b, c in zip(BLOCKS, chunks, strict=True))
    stored = blosc2.asarray(
        np.ascontiguousarray(volume.array), chunks=chunks, blocks=blocks, cparams=PACKING, contiguous=True
    )
    stored.schunk.vlmeta["ctfm"] = {"affine": volume.affine.tolist(), "meta": meta or {}}
    with atomic(path) as temporary:  # blosc2's own writing does not say why it fails
        temporary.write_bytes(stored.to_cframe())


def open_volume(path: Path | str) -> Stored:
    """Open a volume for reading crops.

    Raises:
        Quarantine: ``unreadable``: the file is missing, truncated or no volume of ours.
    """
    try:
        handle = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
        facts = handle.schunk.vlmeta["ctfm"]
        return Stored(handle, np.asarray(facts["affine"], dtype=float), facts["meta"])
    except Exception as error:  # damaged bytes lead blosc2 to errors of any kind
        raise Quarantine("unreadable", f"{path}: {error}") from error


def same(path: Path | str, key: str) -> bool:
    """Return whether a whole volume with this ``key`` among its facts is there."""
    try:
        return open_volume(path).meta.get("key") == key
    except Quarantine:
        return False


def body_box(array: np.ndarray) -> tuple[Voxels, Voxels]:
    """Return (start, stop) along (z, y, x) of the voxels above -500 HU: the body and what it lies on.

    An array without any gives the whole extent. The rule is on HU (the published crop used HU > 0,
    which cuts fat and lung at the rim).
    """
    return box_above(array.max(axis=2), array.max(axis=0), BODY_HU)  # two passes over the volume; the rest is small


def box_above(side: np.ndarray, front: np.ndarray, limit: float) -> tuple[Voxels, Voxels]:
    """Return (start, stop) along (z, y, x) of the voxels above a limit, or the whole extent if there are none.

    Args:
        side: (z, y) largest values along x.
        front: (y, x) largest values along z.
        limit: in the unit of the values.
    """
    spans = []
    for profile in (side.max(axis=1), side.max(axis=0), front.max(axis=0)):
        hits = np.flatnonzero(profile > limit)
        if not hits.size:
            return (0, 0, 0), (*side.shape, front.shape[1])
        spans.append((int(hits[0]), int(hits[-1]) + 1))
    start, stop = zip(*spans, strict=True)
    return start, stop
