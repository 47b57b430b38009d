"""Dense embeddings: a whole scan as a grid of patch embeddings.

``exact`` gives those of the paper's sliding window to rounding; ``fast`` runs the encoder once over the whole scan and
averages its coarsest map over each patch, which is close (docs/explanation/dense.md says how close).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ctfm.embedding import patches, pool, quick, shared
from ctfm.embedding.encode import BATCH, Encoder
from ctfm.embedding.read import Scan
from ctfm.errors import UserError, nearest
from ctfm.options import Patches, Voxels
from ctfm.spec import machine
from ctfm.training import loop

Mode = Literal["exact", "fast"]
TILE = (96, 256, 256)  # voxels (z, y, x) that the fast mode keeps of a run of the network
HALO = (16, 32, 32)  # voxels around them that the network sees too
MAP_BYTES = 640 * 2**20  # of the finest feature map at once; about four of its size are there

_quick: WeakKeyDictionary[Encoder, torch.nn.Module] = WeakKeyDictionary()


@dataclass(frozen=True)
class Dense:
    """The embeddings of the patches of a scan.

    Attributes:
        vectors: (patches, channels) float32, in the order of ``grid.corners``.
        grid: where the patches lie, counted from the corner of the scan's box.
        scan: whose they are.
    """

    vectors: np.ndarray
    grid: patches.Grid
    scan: Scan

    @property
    def centres(self) -> np.ndarray:
        """(patches, 3): the centre of each patch in voxels (z, y, x) of the scan as it was prepared."""
        return np.asarray(self.grid.corners, float) + self.scan.low + (np.asarray(self.grid.patch) - 1) / 2

    @property
    def centres_world(self) -> np.ndarray:
        """(patches, 3): the centre of each patch in LPS mm."""
        return self.grid.centres_world(self.scan)


def embed(encoder: Encoder, scan: Scan, settings: Patches, mode: Mode = "exact") -> Dense:
    """Embed all patches of a scan: average over the coarsest feature map of each, as the paper does.

    Args:
        encoder: frozen.
        scan: see ``read.prepare``.
        settings: patch (null: the encoder's own) and overlap.
        mode: ``exact``: each patch alone in the network, zeros around it; ``fast``: as a part of the whole scan.

    Raises:
        UserError: there is no such mode.
    """
    if mode not in MODES:
        raise UserError(f"mode '{mode}': must be exact or fast{nearest(mode, MODES)}")
    cut = encoder.grid(scan, settings)
    with torch.inference_mode(), loop.autocast(encoder.device):
        return Dense(MODES[mode](encoder, scan, cut), cut, scan)


def at(encoder: Encoder, scan: Scan, centre: np.ndarray, patch: Voxels | None = None) -> np.ndarray:
    """Return the embedding (channels,) of the patch around a point; what lies outside of the scan's box is 0.

    Args:
        encoder: frozen.
        scan: see ``read.prepare``.
        centre: voxel (z, y, x) of the scan as it was prepared, need not be whole.
        patch: voxels (z, y, x); None: the encoder's own.
    """
    size = patch or encoder.preprocess.patch
    start = np.rint(np.asarray(centre, float) - scan.low - (np.asarray(size) - 1) / 2).astype(int)
    image = torch.from_numpy(scan.read(tuple(start.tolist()), size))[None, None].to(encoder.device)
    return pool.OVER_MAP["avg"](encoder(image))[0].cpu().numpy()


def _exact(encoder: Encoder, scan: Scan, cut: patches.Grid) -> np.ndarray:
    maps = _shared_maps(encoder, scan, cut) if shared.fits(_network(encoder)) else _maps(encoder, scan, cut)
    return np.concatenate([pool.OVER_MAP["avg"](each.float()).cpu().numpy() for each in maps])


def _maps(encoder: Encoder, scan: Scan, cut: patches.Grid) -> Iterator[torch.Tensor]:
    """Yield the coarsest maps of the patches, a batch at a time."""
    for images in patches.batches(scan, cut, _batch(encoder), encoder.device):
        yield _network(encoder)(images)[-1]


def _shared_maps(encoder: Encoder, scan: Scan, cut: patches.Grid) -> Iterator[torch.Tensor]:
    """Yield the same, computed for some rows of patches of a layer together."""
    (high, tall, wide), (_, ys, xs), network = cut.patch, cut.starts, _network(encoder)
    size = (high, ys[-1] + tall, xs[-1] + wide)
    rows = math.ceil(4 * encoder.loaded.module.channels[0] * math.prod(size) / MAP_BYTES)
    for z in cut.starts[0]:
        slab = torch.from_numpy(scan.read((z, 0, 0), size)).to(encoder.device)
        for part in np.array_split(ys, min(rows, len(ys))):
            plane = slab[:, part[0] : part[-1] + tall]
            yield from shared.maps(network, plane, ((part - part[0]).tolist(), xs), (tall, wide), _batch(encoder))


def _fast(encoder: Encoder, scan: Scan, cut: patches.Grid) -> np.ndarray:
    stride = 2 ** (len(encoder.loaded.module.channels) - 1)
    extent = [-(-(s[-1] + p) // stride) * stride for s, p in zip(cut.starts, cut.patch, strict=True)]
    weights = [_weights(s, p, n // stride, stride) for s, p, n in zip(cut.starts, cut.patch, extent, strict=True)]
    total = torch.zeros(*cut.shape, encoder.loaded.module.channels[-1], device=encoder.device)
    for tile in product(*(range(0, n, t) for n, t in zip(extent, TILE, strict=True))):
        low = [max(0, a - h) for a, h in zip(tile, HALO, strict=True)]
        high = [min(n, a + t + h) for n, a, t, h in zip(extent, tile, TILE, HALO, strict=True)]
        image = torch.from_numpy(scan.read(tuple(low), tuple(b - a for a, b in zip(low, high, strict=True))))
        found = _network(encoder)(image[None, None].to(encoder.device))[-1][0].float()
        inner = [slice((a - b) // stride, (a - b + t) // stride) for a, b, t in zip(tile, low, TILE, strict=True)]
        cells = found[:, *inner]
        z, y, x = (
            w[:, a // stride : a // stride + n].to(encoder.device)
            for w, a, n in zip(weights, tile, cells.shape[1:], strict=True)
        )
        total += torch.einsum("czyx,iz,jy,kx->ijkc", cells, z, y, x)
    return total.flatten(0, 2).cpu().numpy()


def _weights(starts: list[int], edge: int, cells: int, stride: int) -> torch.Tensor:
    """Return (patches, cells) along an axis: which share of a patch lies in each cell of the map."""
    low, cell = torch.tensor(starts)[:, None], stride * torch.arange(cells)
    inside = torch.minimum(low + edge, cell + stride) - torch.maximum(low, cell)
    return inside.clamp(min=0) / edge


def _network(encoder: Encoder) -> torch.nn.Module:
    if encoder not in _quick:
        _quick[encoder] = quick.quick(encoder.module)
    return _quick[encoder]


def _batch(encoder: Encoder) -> int:
    return machine().embed_batch or BATCH[encoder.device.type]


MODES = {"exact": _exact, "fast": _fast}
