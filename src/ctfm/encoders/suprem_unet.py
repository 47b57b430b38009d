"""Encoder of the 3D U-Net that SuPreM trained with labels (Li et al., ICLR 2024), which the paper compares with.

Its layout is that of Models Genesis (Zhou et al., doi:10.1016/j.media.2020.101840): four levels, each of two
convolutions with BatchNorm and ReLU, max pooling between. Tensors have the names of SuPreM's files. Two things
differ from the published comparison, on purpose: scans are windowed as SuPreM was trained, and BatchNorm uses its
running statistics in evaluation, so the answer to a scan does not depend on its batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import nn

from ctfm.config import Strict
from ctfm.encoders._order import ordered, to_ras, to_spl
from ctfm.imaging.preprocess import Preprocess

PREPROCESS = Preprocess(
    orientation="RAS",
    spacing_mm=(1.5, 1.5, 1.5),
    hu_window=(-175.0, 250.0),
    patch=(96, 96, 96),
    adapt_patch=(96, 128, 128),  # 128 x 128 x 96 along R, A, S in the published comparison
)
multiple = 8  # voxels along each axis that a segmenter's input must be divisible by
PREFIXES = ("module.backbone.",)  # before the encoder's names in SuPreM's files
HUB = None  # lighter-zoo has no such class
LEVELS = ("down_tr64", "down_tr128", "down_tr256", "down_tr512")


class Settings(Strict):
    """Width; the default is SuPreM's (8 convolutions, 56 tensors)."""

    init_filters: int = Field(
        32, ge=1, description="channels of the first convolution; the finest map has twice as many"
    )


class Encoder(nn.Module):
    """Four maps, fine to coarse, of (B, 1, Z, Y, X) with axes towards S, P, L, as everywhere here.

    The convolutions see the axes (x, y, z) towards R, A, S, as SuPreM's did; the maps are turned back.
    """

    def __init__(self, init_filters: int) -> None:
        super().__init__()
        self.channels = [2 * init_filters * 2**level for level in range(len(LEVELS))]
        for name, before, after in zip(LEVELS, [1, *self.channels], self.channels, strict=False):
            blocks = nn.Sequential(_block(before, after // 2), _block(after // 2, after))
            self.add_module(name, nn.Sequential(OrderedDict(ops=blocks)))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return maps of (B, C, Z/2^k, Y/2^k, X/2^k), k from 0 to 3."""
        maps: list[torch.Tensor] = []
        x = to_ras(x)
        for name in LEVELS:
            x = self.get_submodule(name)(nn.functional.max_pool3d(x, 2) if maps else x)
            maps.append(x)
        return [to_spl(each) for each in maps]


class Segmenter(nn.Module):
    """The encoder with a plain decoder of our own: transposed convolution, skip connection, two convolutions."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        fine = encoder.channels[-2::-1]
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(c, f, 2, 2) for c, f in zip(encoder.channels[:0:-1], fine, strict=True)
        )
        self.blocks = nn.ModuleList(nn.Sequential(_block(2 * f, f), _block(f, f)) for f in fine)
        self.head = nn.Conv3d(fine[-1], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes, Z, Y, X), in training too: there is no deep supervision."""
        *skips, x = self.encoder(x)
        for up, block, skip in zip(self.up, self.blocks, reversed(skips), strict=True):
            x = block(torch.cat([up(x), skip], 1))
        return self.head(x)


def build(settings: Settings) -> nn.Module:
    """Make an encoder with random weights: (B, 1, Z, Y, X) in [0, 1] -> four maps, fine to coarse."""
    return ordered(Encoder(settings.init_filters))


def segmenter(settings: Settings, classes: int) -> nn.Module:
    """Make a segmentation net whose ``encoder`` is ``build``'s."""
    return ordered(Segmenter(Encoder(settings.init_filters), classes))


def hub_config(settings: Settings, classes: int | None = None) -> dict[str, int]:
    """Return the settings, and the outputs of a segmentation net, for config.json."""
    return {"init_filters": settings.init_filters, **({} if classes is None else {"out_channels": classes})}


def encoder_keywords(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the encoder's part of a config.json that ``hub_config`` gave."""
    return {key: value for key, value in config.items() if key != "out_channels"}


def _block(before: int, after: int) -> nn.Sequential:
    layers = {"conv1": nn.Conv3d(before, after, 3, padding=1), "bn1": nn.BatchNorm3d(after)}
    return nn.Sequential(OrderedDict(**layers, activation=nn.ReLU(inplace=True)))
