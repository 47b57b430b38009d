"""Dense embeddings: a whole scan as a grid of patch embeddings.

``exact`` gives those of the paper's sliding window to rounding; ``fast`` runs the encoder once over the plane of each
layer of patches and averages its coarsest map over each, which is near (docs/explanation/dense.md says how near).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ctfm.embedding import patches, pool, quick, shared
from ctfm.embedding.encode import Encoder
from ctfm.embedding.read import Scan
from ctfm.errors import UserError, nearest
from ctfm.options import Patches, Voxels
from ctfm.training import loop

Mode = Literal["exact", "fast"]
HALO = 2  # cells of the coarsest map that the fast mode computes on either side of a part, and drops
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


def embed(
    encoder: Encoder,
    scan: Scan,
    settings: Patches,
    mode: Mode = "exact",
    watch: Callable[[float], object] = lambda share: None,
) -> Dense:
    """Embed all patches of a scan: average over the coarsest feature map of each, as the paper does.

    Args:
        encoder: frozen.
        scan: see ``read.prepare``.
        settings: patch (null: the encoder's own) and overlap.
        mode: ``exact``: each patch alone in the network, zeros around it; ``fast``: as a part of its plane.

        watch: called with the share of the patches that are done, now and then.

    Raises:
        UserError: there is no such mode.
    """
    if mode not in MODES:
        raise UserError(f"mode '{mode}': must be exact or fast{nearest(mode, MODES)}")
    cut = encoder.grid(scan, settings)
    vectors = np.empty((len(cut), _channels(encoder)[-1]), np.float32)
    done = 0
    with torch.inference_mode(), loop.autocast(encoder.device):
        for some in MODES[mode](encoder, scan, cut):
            vectors[done : done + len(some)] = some.cpu().numpy()
            done += len(some)
            watch(done / len(cut))
    return Dense(vectors, cut, scan)


def at(
    encoder: Encoder, scan: Scan, centre: np.ndarray, patch: Voxels | None = None, mode: Mode = "exact"
) -> np.ndarray:
    """Return the embedding (channels,) of the patch around a point; what lies outside of the scan's box is 0.

    Args:
        encoder: frozen.
        scan: see ``read.prepare``.
        centre: voxel (z, y, x) of the scan as it was prepared, need not be whole.
        patch: voxels (z, y, x); None: the encoder's own.
        mode: that of the embeddings it is compared with, see ``embed``.
    """
    size = patch or encoder.preprocess.patch
    start = np.rint(np.asarray(centre, float) - scan.low - (np.asarray(size) - 1) / 2).astype(int)
    z, y, x = start.tolist()
    if mode == "fast":
        with torch.inference_mode(), loop.autocast(encoder.device):
            return next(_fast(encoder, scan, patches.Grid(size, ([z], [y], [x]))))[0].cpu().numpy()
    image = torch.from_numpy(scan.read((z, y, x), size))[None, None].to(encoder.device)
    return pool.OVER_MAP["avg"](encoder(image))[0].cpu().numpy()


def _exact(encoder: Encoder, scan: Scan, cut: patches.Grid) -> Iterator[torch.Tensor]:
    maps = _shared_maps if shared.fits(_network(encoder)) else _maps
    yield from (pool.OVER_MAP["avg"](each.float()) for each in maps(encoder, scan, cut))


def _maps(encoder: Encoder, scan: Scan, cut: patches.Grid) -> Iterator[torch.Tensor]:
    """Yield the coarsest maps of the patches, a batch at a time."""
    for images in patches.batches(scan, cut, encoder.batch, encoder.device):
        yield _network(encoder)(images)[-1]


def _shared_maps(encoder: Encoder, scan: Scan, cut: patches.Grid) -> Iterator[torch.Tensor]:
    """Yield the same, computed for some rows of patches of a layer together."""
    (high, tall, wide), (_, ys, xs), network = cut.patch, cut.starts, _network(encoder)
    size = (high, ys[-1] + tall, xs[-1] + wide)
    parts = np.array_split(ys, min(len(ys), _parts(encoder, size)))
    for z in cut.starts[0]:
        slab = torch.from_numpy(scan.read((z, 0, 0), size)).to(encoder.device)
        for part in parts:
            plane = slab[:, part[0] : part[-1] + tall]
            yield from shared.maps(network, plane, ((part - part[0]).tolist(), xs), (tall, wide), encoder.batch)


def _fast(encoder: Encoder, scan: Scan, cut: patches.Grid) -> Iterator[torch.Tensor]:
    """Yield the vectors of a layer of patches: averages over the map of its whole plane, taken in parts along y."""
    (high, *edges), (layers, *starts) = cut.patch, cut.starts
    stride = 2 ** (len(_channels(encoder)) - 1)
    reach = [max(n, s[-1] + p) for n, s, p in zip(scan.shape[1:], starts, edges, strict=True)]
    height, width = (-(-n // stride) for n in reach)  # cells of the map
    rows, columns = (
        _weights(s, p, n, stride).to(encoder.device) for s, p, n in zip(starts, edges, (height, width), strict=True)
    )
    parts = np.array_split(np.arange(height), min(height, _parts(encoder, (high, stride * height, stride * width))))
    for z in layers:
        total = torch.zeros(len(rows), len(columns), _channels(encoder)[-1], device=rows.device).double()
        for part in parts:
            low, last = max(0, part[0] - HALO), min(height, part[-1] + 1 + HALO)
            image = scan.read((z, stride * low, 0), (high, stride * (last - low), stride * width))
            found = _network(encoder)(torch.from_numpy(image)[None, None].to(encoder.device))[-1][0].float()
            inner = found.mean(1)[:, part[0] - low :][:, : len(part)].double()  # which autocast leaves alone
            total += torch.einsum("cyx,iy,jx->ijc", inner, rows[:, part[0] : part[-1] + 1], columns)
        yield total.flatten(0, 1).float()


def _parts(encoder: Encoder, size: tuple[int, ...]) -> int:
    """Return into how many parts an input is cut, so that not too much memory is taken."""
    return math.ceil(4 * _channels(encoder)[0] * math.prod(size) / MAP_BYTES)


def _weights(starts: list[int], edge: int, cells: int, stride: int) -> torch.Tensor:
    """Return (patches, cells) along an axis: which share of a patch's map lies in each cell."""
    low, cell = torch.tensor(starts)[:, None], stride * torch.arange(cells)
    inside = (torch.minimum(low + edge, cell + stride) - torch.maximum(low, cell)).clamp(min=0).double()
    return inside / inside.sum(dim=1, keepdim=True)  # a query's patch may start before the box


def _network(encoder: Encoder) -> torch.nn.Module:
    if encoder not in _quick:
        few = encoder.device.type == "cpu" and loop.precision() == "32-true"
        _quick[encoder] = quick.quick(encoder.module, winograd=few)
    return _quick[encoder]


def _channels(encoder: Encoder) -> list[int]:
    module: Any = encoder.module
    return list(module.channels)


MODES = {"exact": _exact, "fast": _fast}
