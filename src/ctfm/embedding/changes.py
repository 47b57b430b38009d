"""How a change of a few voxels changes an encoder's embedding, computed only where something changes.

The maps of the image as it is are kept. A change then goes through the network by itself: a convolution without bias
of a sum is the sum of the convolutions, so what it makes of the change is added to what it made of the image; BatchNorm
in evaluation scales it; only an activation needs the kept map, and only where the change is. The box of changed cells
grows by one with each convolution of 3x3x3, halves with each stride of 2, and ends at the borders of the map, where
the padding is zero for a change as for an image. Nothing is left out: the result is that of the whole network, and its
rounding is relative to the change, not to the embedding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import nn

from ctfm.embedding import winograd

if TYPE_CHECKING:
    from ctfm.options import Voxels

LOCAL = (nn.Conv3d, nn.BatchNorm3d, nn.ReLU, nn.Identity)  # layers in which a cell depends on its neighbours alone
WIDE = 128  # channels from which on fewer products pay for what they need beside


class Boxes(NamedTuple):
    """Where the changes of a batch lie in a map of ``shape`` (z, y, x).

    Each has its own extent, from ``low`` to below ``high`` (n, 3); all are held in boxes of one ``size``, which begin
    at ``start``.
    """

    low: np.ndarray
    high: np.ndarray
    shape: Voxels

    @property
    def size(self) -> Voxels:
        """Cells (z, y, x) of the boxes: as many as the largest extent has."""
        z, y, x = (self.high - self.low).max(axis=0).tolist()
        return z, y, x

    @property
    def start(self) -> np.ndarray:
        """First cells (n, 3) of the boxes, none of which reaches beyond the map."""
        return np.minimum(self.low, np.asarray(self.shape) - self.size)

    def after(self, conv: nn.Conv3d) -> Boxes:
        """Return where the changes lie after a convolution."""
        kernel, stride, padding = (np.asarray(value) for value in (conv.kernel_size, conv.stride, conv.padding))
        shape = (np.asarray(self.shape) + 2 * padding - kernel) // stride + 1
        low = -((kernel - 1 - self.low - padding) // stride)
        high = (self.high - 1 + padding) // stride + 1
        z, y, x = shape.tolist()
        return Boxes(low.clip(0), np.minimum(high, shape), (z, y, x))


def is_local(module: nn.Module) -> bool:
    """Return whether changes can be followed through a module: a SegResNet encoder with BatchNorm, in evaluation."""
    if not isinstance(module, SegResEncoder) or module.training or module.head_module is not None:
        return False
    return all(
        isinstance(layer, LOCAL) and _is_plain(layer) for layer in module.modules() if not list(layer.children())
    )


def _is_plain(layer: Any) -> bool:
    if isinstance(layer, nn.BatchNorm3d):
        return layer.track_running_stats
    return not isinstance(layer, nn.Conv3d) or (layer.bias is None and layer.groups == 1 and max(layer.dilation) == 1)


class Network:
    """A SegResNet encoder and the maps that it makes of one image.

    Args:
        module: see ``is_local``; in float32.
        image: (z, y, x), on the device of the module.
    """

    def __init__(self, module: SegResEncoder, image: torch.Tensor) -> None:
        self.module = module
        self.shape: Voxels = (image.shape[0], image.shape[1], image.shape[2])
        self._before: dict[nn.Module, torch.Tensor] = {}  # what goes into activations, (z, y, x, channels)
        self._filters: dict[tuple[nn.Module, int], torch.Tensor] = {}
        norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm3d)]
        hooks = [norm.register_forward_hook(self._keep) for norm in norms]
        try:
            self.embedding = module(image[None, None])[-1].mean((2, 3, 4))[0]
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, norm: nn.Module, _: Any, made: torch.Tensor) -> None:
        self._before[norm] = made[0].permute(1, 2, 3, 0).clone(memory_format=torch.contiguous_format)

    def extents(self, boxes: Boxes) -> np.ndarray:
        """Return (n, 3): through how many cells along (z, y, x) each change goes, over all convolutions."""
        total = np.zeros(boxes.low.shape, int)
        for conv in [self.module.conv_init, *(c for level in self.module.layers for c in _convolutions(level))]:
            boxes = boxes.after(conv)
            total += boxes.high - boxes.low
        return total

    def changes(self, change: torch.Tensor, boxes: Boxes) -> torch.Tensor:
        """Return how the embedding, the mean of the coarsest map, changes: (n, channels).

        Args:
            change: (n, z, y, x) what is added to the image.
            boxes: where.
        """
        moved, boxes = self._convolve(self.module.conv_init, change[..., None], boxes)
        for level in self.module.layers:
            blocks, down = level["blocks"], level["downsample"]
            for block in blocks:
                inner, wider = self._convolve(block.conv1, self._activate(block.norm1, block.act1, moved, boxes), boxes)
                inner, wider = self._convolve(block.conv2, self._activate(block.norm2, block.act2, inner, wider), wider)
                moved, boxes = inner.add_(_place(moved, boxes.start, wider.start, wider.size)), wider
            if isinstance(down, nn.Conv3d):
                moved, boxes = self._convolve(down, moved, boxes)
        return moved.sum((1, 2, 3)) / math.prod(boxes.shape)

    def _activate(self, norm: Any, act: nn.Module, change: torch.Tensor, boxes: Boxes) -> torch.Tensor:
        """Return the change after BatchNorm and activation."""
        kept, size = self._before[norm], boxes.size
        cut = [tuple(slice(s, s + n) for s, n in zip(start, size, strict=True)) for start in boxes.start.tolist()]
        before = torch.stack([kept[box] for box in cut])
        scale = (norm.weight if norm.affine else 1.0) / torch.sqrt(norm.running_var + norm.eps)
        after = act(torch.addcmul(before, change, scale))
        return after.sub_(act(before))

    def _convolve(self, conv: nn.Conv3d, change: torch.Tensor, boxes: Boxes) -> tuple[torch.Tensor, Boxes]:
        """Return the change after a convolution, and where it lies then."""
        after = boxes.after(conv)
        stride, kernel = np.asarray(conv.stride), np.asarray(conv.kernel_size)
        z, y, x = ((np.asarray(after.size) - 1) * stride + kernel).tolist()
        placed = _place(change, boxes.start, after.start * stride - conv.padding, (z, y, x))
        if kernel.tolist() == [3, 3, 3] and stride.max() == 1 and conv.in_channels >= WIDE:
            m = winograd.best(after.size)
            if (conv, m) not in self._filters:
                self._filters[conv, m] = winograd.filters(conv.weight, m)
            return winograd.convolve(placed, self._filters[conv, m], m), after
        found = nn.functional.conv3d(placed.permute(0, 4, 1, 2, 3), conv.weight, stride=conv.stride)
        return found.permute(0, 2, 3, 4, 1), after


def _convolutions(level: Any) -> list[nn.Conv3d]:
    return [layer for layer in level.modules() if isinstance(layer, nn.Conv3d)]


def _place(change: torch.Tensor, start: np.ndarray, target: np.ndarray, size: Voxels) -> torch.Tensor:
    """Return boxes (n, *size, channels) that begin at ``target``, with what boxes at ``start`` hold, else zero.

    Args:
        change: (n, z, y, x, channels).
        start: (n, 3) where its boxes begin.
        target: (n, 3) where the others begin.
        size: of the others.
    """
    placed = change.new_zeros((len(change), *size, change.shape[-1]))
    for n, offset in enumerate((start - target).tolist()):
        spans = [(max(0, o), min(t, o + s)) for o, s, t in zip(offset, change.shape[1:4], size, strict=True)]
        there = tuple(slice(low, high) for low, high in spans)
        here = tuple(slice(low - o, high - o) for (low, high), o in zip(spans, offset, strict=True))
        placed[n][there] = change[n][here]
    return placed
