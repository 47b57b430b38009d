"""Training a segmentation net: loss with deep supervision, labelled crops, the Lightning module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from ctfm.config import Millimetres, Voxels
from ctfm.errors import Quarantine
from ctfm.imaging import store
from ctfm.imaging.preprocess import Preprocess
from ctfm.training import augment, sampling, seeds
from ctfm.training.finetune import FineTuning, Recipe

DICE_EPSILON = 1e-5


def dice_ce(logits: Tensor, target: Tensor) -> Tensor:
    """Return soft Dice loss plus cross-entropy, background included.

    Equal to MONAI's ``DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-5)``,
    but makes no one-hot copy of the target: with 118 classes such copies are most of the memory.

    Args:
        logits: (B, C, Z, Y, X).
        target: (B, 1, Z, Y, X) classes, int64.
    """
    flat, classes = logits.float().flatten(2), target.flatten(1)
    log_p = flat.log_softmax(1)
    entropy = F.nll_loss(log_p, classes)
    p = log_p.exp()
    zeros = torch.zeros(flat.shape[:2], device=flat.device)
    hit = zeros.scatter_add(1, classes, p.gather(1, classes[:, None])[:, 0])
    true = zeros.scatter_add(1, classes, torch.ones_like(classes, dtype=zeros.dtype))
    square = torch.linalg.vector_norm(p, dim=2) ** 2
    return (1 - 2 * hit / (true + square + DICE_EPSILON)).mean() + entropy


def deep_supervision(maps: list[Tensor] | Tensor, target: Tensor) -> Tensor:
    """Return the sum of ``dice_ce`` over maps, finest first, weighted 1, 1/2, 1/4 …; the target is shrunk by nearest.

    Args:
        maps: logits (B, C, Z, Y, X) of falling resolution, or the finest alone.
        target: (B, 1, Z, Y, X) classes.
    """
    total = torch.zeros((), device=target.device)
    for level, logits in enumerate(maps if isinstance(maps, list) else [maps]):
        small = target
        if logits.shape[2:] != target.shape[2:]:
            small = F.interpolate(target.float(), size=logits.shape[2:], mode="nearest-exact")
        total = total + dice_ce(logits, small.long()) / 2**level
    return total


@dataclass(frozen=True)
class Pair:
    """Files of a labelled case."""

    name: str
    image: Path
    label: Path


class LabelledCrops(Dataset):
    """Item k is one crop of a case and its classes: a pure function of (seed, k), for any k from 0.

    Each pass over the cases takes every case once. The centre is drawn evenly over the labels of the case.
    ``outputs``, (256,) uint8, maps an id of the data set to a class; 0 is background.
    """

    def __init__(self, cases: list[Pair], outputs: np.ndarray, patch: Voxels, seed: int) -> None:
        self.cases, self.outputs, self.patch, self.seed = cases, outputs, patch, seed
        self.known: dict[int, sampling.LabelIndex] = {}

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return ``crops``, int16 (2, Z, Y, X): HU and classes; the ``name`` of the case; ``item``; an ``error``."""
        turn, place = divmod(item, len(self.cases))
        number = int(sampling.epoch_order(len(self.cases), turn, self.seed)[place])
        case = self.cases[number]
        try:
            crops, error = torch.from_numpy(self._read(number, item)), ""
        except (Quarantine, RuntimeError, OSError, ValueError) as fault:
            crops = torch.empty(0, dtype=torch.int16)
            error = f"case {case.name} can't be read ({fault}); run 'ctfm datasets' anew"
        return {"crops": crops, "name": case.name, "item": item, "error": error}

    def _read(self, number: int, item: int) -> np.ndarray:
        case = self.cases[number]
        label = store.open_volume(case.label)
        if number not in self.known:
            classes = self.outputs[label.load().array]
            self.known[number] = sampling.index(classes, seeds.generator(self.seed, "index", case.name))
        rng = seeds.generator(self.seed, "crop", item)
        start = sampling.crop_start(self.known[number], label.shape, self.patch, rng)
        image = store.open_volume(case.image).crop(start, self.patch)
        classes = self.outputs[label.crop(start, self.patch, pad=0)]
        return np.stack([image, classes.astype(np.int16)])


class Segmentation(FineTuning):
    """A segmentation net in training.

    Args:
        net: the network.
        scaling: how HU become its input.
        spacing_mm: (z, y, x) of the crops.
        recipe: how it is trained.
    """

    def __init__(self, net: nn.Module, scaling: Preprocess, spacing_mm: Millimetres, recipe: Recipe) -> None:
        super().__init__(net, spacing_mm, recipe)
        self.scaling = scaling

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return the loss of a batch of crops."""
        images, classes = self.views(batch)
        return {"loss": deep_supervision(self.net(images), classes)}

    @torch.no_grad()
    def views(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return images in [0, 1] and classes, each (B, 1, Z, Y, X), moved alike; the item alone tells how."""
        images, classes = self.scaling.scale(batch["crops"][:, :1]), batch["crops"][:, 1:].long()
        made = []
        with torch.autocast(images.device.type, enabled=False):  # positions need all their digits
            for i, item in enumerate(batch["items"]):
                random = seeds.torch_generator("cpu", self.recipe.seed, "augment", item)
                part = slice(i, i + 1)
                made.append(augment.paired(images[part], classes[part], self.recipe.augment, random, self.spacing_mm))
        return torch.cat([image for image, _ in made]), torch.cat([label for _, label in made])
