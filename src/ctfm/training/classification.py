"""Training a net that says of a whole scan whether it shows something: windows of HU beside each other, and a head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from ctfm.config import Millimetres, Range, Voxels
from ctfm.errors import Quarantine
from ctfm.imaging import store
from ctfm.training import augment, sampling, seeds
from ctfm.training.finetune import FineTuning, Recipe


@dataclass(frozen=True)
class Windows:
    """How a scan becomes the input: each window scaled to [0, 1] and clipped, all of them beside each other.

    Attributes:
        limits: lower and upper end of each, HU.
        axis: along which they are joined: 0, 1 or 2 for z, y or x.
    """

    limits: tuple[Range, ...]
    axis: int

    def parts(self, hu: Tensor) -> Tensor:
        """Return (B, windows, Z, Y, X) of (B, Z, Y, X) HU."""
        low, high = (
            hu.new_tensor(ends, dtype=torch.float32).reshape(-1, 1, 1, 1) for ends in zip(*self.limits, strict=True)
        )
        return ((hu[:, None].float() - low) / (high - low)).clamp_(0, 1)

    def joined(self, parts: Tensor) -> Tensor:
        """Return (B, 1, Z, Y, X), longer along ``axis``, of (B, windows, Z, Y, X)."""
        return torch.cat(parts.split(1, dim=1), dim=2 + self.axis)


class Scans(Dataset):
    """Item k is the middle of a scan: a pure function of (seed, k). Each pass takes every scan once."""

    def __init__(self, cases: Sequence[tuple[str, Path]], patch: Voxels, seed: int) -> None:
        self.cases, self.patch, self.seed = cases, patch, seed

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return ``crops``, int16 (Z, Y, X) HU; the ``name`` of the case; ``item``; an ``error``."""
        turn, place = divmod(item, len(self.cases))
        name, path = self.cases[int(sampling.epoch_order(len(self.cases), turn, self.seed)[place])]
        try:
            crop, error = middle(path, self.patch), ""
        except (Quarantine, RuntimeError, OSError, ValueError) as fault:
            crop = torch.empty(0, dtype=torch.int16)
            error = f"case {name} can't be read ({fault}); run 'ctfm datasets' anew"
        return {"crops": crop, "name": name, "item": item, "error": error}


def middle(path: Path, patch: Voxels) -> Tensor:
    """Return (Z, Y, X) HU of a stored scan around the middle of its body; what is missing is air.

    Air is the lowest value that a window shows, so that this is padding with zero and with the scan's minimum at once.

    Raises:
        Quarantine: it can't be read.
    """
    scan = store.open_volume(path)
    box = scan.meta.get("body_box") or [(0, 0, 0), scan.shape]
    z, y, x = (math.floor((low + high - edge) / 2) for low, high, edge in zip(*box, patch, strict=True))
    return torch.from_numpy(scan.crop((z, y, x), patch))


class Classifier(nn.Module):
    """An encoder, its coarsest map pooled, and layers that end in one logit.

    Args:
        encoder: with ``channels``, as the plug-ins make it.
        pool: ``average`` or ``max``.
        pooled: (z, y, x) of the map after pooling.
        hidden: width of each layer before the last one; None: one layer, half as wide as the pooled map.
        dropout: after each of these layers.
    """

    def __init__(
        self, encoder: nn.Module, pool: str, pooled: Voxels, hidden: Sequence[int] | None, dropout: float
    ) -> None:
        super().__init__()
        channels: Any = encoder.channels
        features = channels[-1] * math.prod(pooled)
        widths = [features, *([features // 2] if hidden is None else hidden)]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        kinds = {"average": nn.AdaptiveAvgPool3d, "max": nn.AdaptiveMaxPool3d}
        self.encoder, self.pool = encoder, kinds[pool](pooled)
        self.head = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B,) logits of (B, 1, Z, Y, X) in [0, 1]."""
        return self.head(self.pool(self.encoder(x)[-1]))[:, 0]


class Classification(FineTuning):
    """A classifier in training.

    Args:
        net: the network.
        windows: how HU become its input.
        spacing_mm: (z, y, x) of the scans.
        recipe: how it is trained.
        targets: 0 or 1 of each case, by its name.
    """

    def __init__(
        self, net: nn.Module, windows: Windows, spacing_mm: Millimetres, recipe: Recipe, targets: Mapping[str, int]
    ) -> None:
        super().__init__(net, spacing_mm, recipe)
        self.windows, self.targets = windows, targets

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return the binary cross-entropy of a batch of scans."""
        logits = self.net(self.views(batch))
        targets = torch.tensor([self.targets[name] for name in batch["names"]], device=logits.device)
        return {"loss": F.binary_cross_entropy_with_logits(logits.float(), targets.float())}

    @torch.no_grad()
    def views(self, batch: dict[str, Any]) -> Tensor:
        """Return (B, 1, Z, Y, X): the windows of a scan are moved alike, each within itself, and then joined."""
        parts, keys = self.windows.parts(batch["crops"]), [(self.recipe.seed, "augment", k) for k in batch["items"]]
        drawn = [augment.draw(1, self.recipe.augment, seeds.torch_generator("cpu", *key)) for key in keys]
        moved = augment.apply(parts, augment.join(drawn, parts.device), self.recipe.augment, self.spacing_mm)
        return self.windows.joined(moved)
