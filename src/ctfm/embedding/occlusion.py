"""Occlusion-based feature deviation: which parts of an image an embedding depends on (paper, "Salient regions").

A block is occluded, the image embedded anew, and the cosine distance of both embeddings is the saliency of the block;
so for all blocks of a sliding window. Each is what a forward pass of its own would give, up to rounding: where the
network allows it (``changes.is_local``) only what the block can influence is computed, else batches of whole images.
All is in float32 without TF32, for the distances are small: 1e-4 is much.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from ctfm.embedding import changes

if TYPE_CHECKING:
    from ctfm.options import Voxels

AT_ONCE = {"cpu": 8, "cuda": 32}  # blocks followed through the network
VOXELS = {"cpu": 2**21, "cuda": 2**24}  # in a batch of whole images
CHANNELS = 16  # of embeddings spread over the voxels at once


class Plan(NamedTuple):
    """How an image is occluded.

    Attributes:
        block: voxels (z, y, x).
        overlap: share of a block that the next one covers again, 0 to below 1.
        mode: ``hard``: the block is filled, and a voxel has the mean of the distances of the blocks that cover it.
            ``gaussian``: as MONAI's ``OcclusionSensitivity``: the block is faded out towards its middle, a voxel has
            the Gaussian-weighted mean of the *embeddings*, and the distance is of that.
        fill: what a hard block is filled with, in the encoder's input: 0 is the lower end of its HU window.
    """

    block: Voxels = (8, 8, 8)
    overlap: float = 0.25
    mode: Literal["hard", "gaussian"] = "hard"
    fill: float = 0.0


def saliency(module: torch.nn.Module, image: np.ndarray, plan: Plan) -> np.ndarray:
    """Return the saliency of each voxel.

    Args:
        module: encoder in evaluation mode: (n, 1, z, y, x) to maps, the last of which is averaged to the embedding.
        image: (z, y, x) float32 in [0, 1].
        plan: how it is occluded.

    Returns:
        (z, y, x) float32: 1 - cosine.
    """
    block = _within(plan.block, image.shape)
    starts = corners(image.shape, block, plan.overlap)
    embedding, moved = shifts(module, image, plan)
    if plan.mode == "hard":
        return _spread(distances(embedding, moved)[:, None], starts, np.ones(block), image.shape)[0]
    weight = _importance(block)
    unit = embedding / np.linalg.norm(embedding)
    moved = moved / np.linalg.norm(embedding)
    beside = moved - (moved @ unit)[:, None] * unit
    along = 1 + _spread((moved @ unit)[:, None], starts, weight, image.shape)[0]
    across = np.zeros(image.shape)
    for first in range(0, len(embedding), CHANNELS):
        across += (_spread(beside[:, first : first + CHANNELS], starts, weight, image.shape) ** 2).sum(axis=0)
    return _versine(along, np.sqrt(across)).astype(np.float32)


def shifts(
    module: torch.nn.Module, image: np.ndarray, plan: Plan, *, follow: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the embedding of an image (channels,), and how each block of ``corners`` shifts it (blocks, channels).

    Args:
        module: see ``saliency``.
        image: (z, y, x) float32.
        plan: how it is occluded.
        follow: whether changes are followed through the network; None: where that is possible.
    """
    device = next(module.parameters()).device
    whole = torch.from_numpy(np.ascontiguousarray(image, np.float32)).to(device)
    block = _within(plan.block, image.shape)
    starts = corners(image.shape, block, plan.overlap)
    with torch.inference_mode(), _exact():
        change = _occluded(whole, starts, block, plan)
        busy = np.flatnonzero(change.flatten(1).any(1).cpu().numpy())  # the others change nothing
        local = changes.is_local(module) if follow is None else follow
        embedding, found = (_followed if local else _embedded)(module, whole, change[busy], starts[busy])
    moved = np.zeros((len(starts), len(embedding)))
    moved[busy] = found
    return embedding, moved


def distances(embedding: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return 1 - cosine of an embedding (channels,) with itself shifted (n, channels), exact for small shifts too."""
    unit = embedding / np.linalg.norm(embedding)
    moved = moved / np.linalg.norm(embedding)
    along = moved @ unit
    return _versine(1 + along, np.linalg.norm(moved - along[:, None] * unit, axis=1))


def corners(shape: Voxels, block: Voxels, overlap: float) -> np.ndarray:
    """Return (n, 3) first voxels of the blocks; the last ones along an axis end where the image does, as in MONAI."""
    steps = [max(1, int(edge * (1 - overlap))) for edge in block]
    axes = [[*range(0, n - b, s), n - b] for n, b, s in zip(shape, block, steps, strict=True)]
    return np.asarray(list(product(*axes)))


def _within(block: Voxels, shape: tuple[int, ...]) -> Voxels:
    z, y, x = (min(b, n) for b, n in zip(block, shape, strict=True))
    return z, y, x


def _occluded(image: torch.Tensor, starts: np.ndarray, block: Voxels, plan: Plan) -> torch.Tensor:
    """Return what occluding each block adds to the image, (n, z, y, x)."""
    cut = torch.stack([image[tuple(slice(s, s + b) for s, b in zip(start, block, strict=True))] for start in starts])
    if plan.mode == "hard":
        return plan.fill - cut
    return -cut * _faded(block).to(cut)


def _faded(block: Voxels) -> torch.Tensor:
    """Return how much MONAI's ``OcclusionSensitivity`` takes of a block: all in the middle, nothing at a corner."""
    from monai.transforms import GaussianSmooth

    middle = torch.zeros((1, *block))
    middle[(0, *(edge // 2 for edge in block))] = 1
    bell = torch.as_tensor(GaussianSmooth(sigma=[edge / 4 for edge in block])(middle))[0]
    return (bell - bell.min()) / (bell.max() - bell.min())


def _followed(
    module: torch.nn.Module, image: torch.Tensor, change: torch.Tensor, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Follow changes through the network, those that reach about as far together."""
    network = changes.Network(module, image)
    boxes = changes.Boxes(starts, starts + change.shape[1:], network.shape)
    order = np.lexsort(network.extents(boxes).T)
    found = np.empty((len(starts), len(network.embedding)))
    for first in range(0, len(order), AT_ONCE[image.device.type]):
        some = order[first : first + AT_ONCE[image.device.type]]
        part = changes.Boxes(boxes.low[some], boxes.high[some], network.shape)
        found[some] = network.changes(change[some], part).cpu().numpy()
    return network.embedding.cpu().double().numpy(), found


def _embedded(
    module: torch.nn.Module, image: torch.Tensor, change: torch.Tensor, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Embed whole occluded images in batches."""

    def embed(images: torch.Tensor) -> np.ndarray:
        return module(images[:, None])[-1].mean((2, 3, 4)).cpu().double().numpy()

    embedding = embed(image[None])[0]
    size = max(1, VOXELS[image.device.type] // image.numel())
    made = []
    for first in range(0, len(starts), size):
        images = image.repeat(len(starts[first : first + size]), 1, 1, 1)
        for one, start, part in zip(images, starts[first : first + size], change[first : first + size], strict=True):
            one[tuple(slice(s, s + b) for s, b in zip(start, part.shape, strict=True))] += part
        made.append(embed(images) - embedding)
    return embedding, np.concatenate([np.empty((0, len(embedding))), *made])


def _spread(values: np.ndarray, starts: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return (channels, z, y, x) float32: the weighted mean of the values (n, channels) of the blocks at each voxel."""
    total, sums = np.zeros((values.shape[1], *shape)), np.zeros(shape)
    for start, value in zip(starts, values, strict=True):
        box = tuple(slice(s, s + b) for s, b in zip(start, weight.shape, strict=True))
        total[(slice(None), *box)] += value[:, None, None, None] * weight
        sums[box] += weight
    return (total / sums).astype(np.float32)


def _importance(block: Voxels) -> np.ndarray:
    """Return the weights (z, y, x) with which MONAI's sliding windows are joined in the mode ``gaussian``."""
    from monai.data.utils import compute_importance_map

    found: torch.Tensor = compute_importance_map(block, mode="gaussian", sigma_scale=0.125)
    return found.double().numpy()


def _versine(along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return 1 - cosine of an angle from its sides, without the loss of digits where they are nearly one."""
    length = np.hypot(along, across)
    return across**2 / (length * (length + along))


@contextmanager
def _exact() -> Iterator[None]:
    """Compute float32 as float32: GPUs round it to 10 bits in convolutions otherwise."""
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul
