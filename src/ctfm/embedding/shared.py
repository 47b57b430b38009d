"""Patches of one layer through CT-FM's encoder, with what they have in common computed once. Exact.

A patch is padded with zeros, so near its border a feature map differs from that of its neighbours in the same place;
in its interior it does not. Each convolution moves the border inwards by one. So along an axis, a map of all patches
of a layer is kept as the map of the whole axis, followed by the two border strips of each patch. Both axes together
give the whole plane, strips along y and along x that neighbours share, and corners that belong to one patch alone.

A convolution needs its input's neighbours side by side: rows and columns are copied into such an order (``_lay``),
strips one wider than before, and one ordinary convolution follows. The maps become coarser and the strips take up
more of them; from where too little would be saved, the patches are put together and go on as usual.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from monai.networks.nets.segresnet_ds import SegResBlock, SegResEncoder
from torch import nn
from torch.nn import functional as F

MOST = 0.7  # of the area of the patches' own maps; where more is left to compute, copies cost more than they save
ZERO = -1  # a place outside of the patch


@dataclass(frozen=True)
class Axis:
    """How the maps of overlapping patches are kept along one axis.

    Attributes:
        starts: first place of each patch on the whole axis.
        edge: length of a patch.
        low: places at the start of a patch that are its own.
        high: places at its end that are its own.
        size: length of the whole axis.
        places: where the map of the whole axis, and then the strips of each patch, lie in the tensor.
    """

    starts: np.ndarray
    edge: int
    low: int
    high: int
    size: int
    places: np.ndarray

    def find(self, patch: int, local: np.ndarray) -> np.ndarray:
        """Return where the places ``local`` of a patch lie in the tensor; ``ZERO`` for those outside of the patch."""
        strip = self.size + patch * (self.low + self.high)
        own = np.where(local < self.low, strip + local, strip + self.low + local - (self.edge - self.high))
        inner = (local >= self.low) & (local < self.edge - self.high)
        there = np.clip(np.where(inner, self.starts[patch] + local, own), 0, len(self.places) - 1)
        return np.where((local >= 0) & (local < self.edge), self.places[there], ZERO)

    def through(self, stride: int) -> tuple[np.ndarray, Axis]:
        """Return the order in which a convolution of width 3 reads the tensor, and how its result is kept."""
        edge, size = -(-self.edge // stride), -(-self.size // stride)
        low = min(edge, -(-(self.low + 1) // stride))
        high = min(edge - low, edge + (self.high + 1 - self.edge) // stride)
        whole = np.arange(-1, stride * size + 2 - stride)
        order = [np.where((whole >= 0) & (whole < self.size), self.places[whole.clip(0, self.size - 1)], ZERO)]
        places, used = [np.arange(size)], len(whole)
        for patch, (first, count) in product(range(len(self.starts)), ((0, low), (edge - high, high))):
            if count:
                order.append(np.full(-used % stride, ZERO))
                used += len(order[-1])
                places.append(used // stride + np.arange(count))
                order.append(self.find(patch, np.arange(stride * first - 1, stride * (first + count - 1) + 2)))
                used += len(order[-1])
        kept = Axis(self.starts // stride, edge, low, high, size, np.concatenate(places))
        return np.concatenate(order), kept


Plane = tuple[Axis, Axis]  # along y and x


def fits(module: nn.Module) -> bool:
    """Return whether an encoder is built as this module supposes."""
    if not isinstance(module, SegResEncoder) or module.head_module is not None:
        return False
    plain = all(
        (c.kernel_size, c.padding, len(set(c.stride))) == ((3, 3, 3), (1, 1, 1), 1) for c in _all(module, nn.Conv3d)
    )
    still = nn.modules.batchnorm._BatchNorm, nn.Identity  # group norms look at the whole patch
    norms = [norm for block in _all(module, SegResBlock) for norm in (block.norm1, block.norm2)]
    return plain and all(isinstance(norm, still) and not norm.training for norm in norms)


def maps(
    module: SegResEncoder,
    slab: torch.Tensor,
    starts: tuple[list[int], list[int]],
    edges: tuple[int, int],
    batch: int,
) -> Iterator[torch.Tensor]:
    """Yield the coarsest maps (n, channels, z', y', x') of the patches of a layer, y slower than x.

    Args:
        module: an encoder that ``fits``.
        slab: (z, y, x) input, as high as a patch; it covers the patches.
        starts: first voxels of the patches along y and x.
        edges: voxels of a patch along y and x.
        batch: patches at once, where they are on their own.
    """
    steps = [module.conv_init]
    for level in module.layers:
        steps += [*level["blocks"], level["downsample"]]
    tall, wide = (
        Axis(np.asarray(s), e, 0, 0, n, np.arange(n)) for s, e, n in zip(starts, edges, slab.shape[1:], strict=True)
    )
    plane = (tall, wide)
    x = slab.permute(1, 2, 0)[..., None]  # (y, x, z, channels) from here on: whole columns are copied
    while _worth(steps[0], plane):
        step = steps.pop(0)
        x, plane = _block(step, x, plane) if isinstance(step, SegResBlock) else _convolve(step, x, plane)
    rest = nn.Sequential(*steps)
    every = list(product(*(range(len(axis.starts)) for axis in plane)))
    for first in range(0, len(every), batch):
        own = [_cut(x, plane, at) for at in every[first : first + batch]]
        yield rest(torch.stack(own).permute(0, 4, 3, 1, 2).contiguous(memory_format=torch.channels_last_3d))


def _worth(step: nn.Module, plane: Plane) -> bool:
    convolution = step.conv1 if isinstance(step, SegResBlock) else step
    if not isinstance(convolution, nn.Conv3d) or any((axis.starts % convolution.stride[0]).any() for axis in plane):
        return False
    left = (len(axis.through(1)[0]) / (axis.edge * len(axis.starts)) for axis in plane)
    return math.prod(left) < MOST


def _block(block: SegResBlock, x: torch.Tensor, plane: Plane) -> tuple[torch.Tensor, Plane]:
    y, between = _convolve(block.conv1, _pointwise(x, block.norm1, block.act1), plane)
    y, after = _convolve(block.conv2, _pointwise(y, block.norm2, block.act2), between)
    centres = []
    for before, middle in zip(plane, between, strict=True):
        first, second = before.through(1)[0], middle.through(1)[0]
        centres.append(first[1:-1][second[1:-1].clip(0)])
    return y.add_(_lay(x, *centres)), after


def _pointwise(x: torch.Tensor, *modules: nn.Module) -> torch.Tensor:
    return nn.Sequential(*modules)(x.permute(3, 0, 1, 2)[None])[0].permute(1, 2, 3, 0)


def _convolve(convolution: nn.Conv3d, x: torch.Tensor, plane: Plane) -> tuple[torch.Tensor, Plane]:
    """Convolve (y, x, z, channels); return the result and how it is kept."""
    (rows, tall), (columns, wide) = (axis.through(convolution.stride[0]) for axis in plane)
    laid = _lay(x, rows, columns).permute(3, 0, 1, 2)[None]
    weight = convolution.weight.permute(0, 1, 3, 4, 2).contiguous(memory_format=torch.channels_last_3d)
    y = F.conv3d(laid, weight, convolution.bias, convolution.stride, (0, 0, 1))
    return y[0].permute(1, 2, 3, 0), (tall, wide)


def _cut(x: torch.Tensor, plane: Plane, at: tuple[int, ...]) -> torch.Tensor:
    return _lay(x, *(axis.find(patch, np.arange(axis.edge)) for axis, patch in zip(plane, at, strict=True)))


def _lay(x: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    """Return those rows and columns of (y, x, z, channels); ``ZERO`` gives zeros."""
    flat = rows.clip(0)[:, None] * x.shape[1] + columns.clip(0)
    laid = x.flatten(0, 1).flatten(1).index_select(0, _index(flat.ravel(), x))
    laid = laid.view(len(rows), len(columns), *x.shape[2:])
    for dim, order in enumerate((rows, columns)):
        laid.index_fill_(dim, _index(np.flatnonzero(order == ZERO), x), 0)
    return laid


def _index(places: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(places).to(like.device)


def _all(module: nn.Module, kind: type) -> list:
    return [part for part in module.modules() if isinstance(part, kind)]
