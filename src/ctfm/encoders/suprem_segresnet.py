"""Encoder of the SegResNet that SuPreM trained with labels (Li et al., ICLR 2024), a quarter as wide as CT-FM's.

It is MONAI's ``SegResNet``: four levels of residual blocks with GroupNorm. Tensors have the names of SuPreM's files.
As with SuPreM's U-Net, scans are windowed as it was trained, and the network turns our axes to those that it saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.networks.nets.segresnet import SegResNet
from pydantic import Field
from torch import nn

from ctfm.config import Strict
from ctfm.encoders import suprem_unet
from ctfm.encoders._order import ordered, to_ras, to_spl

PREPROCESS = suprem_unet.PREPROCESS
multiple = 8  # voxels along each axis that a segmenter's input must be divisible by
PREFIXES = ("module.",)  # before the encoder's names in SuPreM's files
HUB = None  # lighter-zoo's SegResNet is another one


class Settings(Strict):
    """Width and depth; the defaults are SuPreM's (58 tensors)."""

    init_filters: int = Field(16, ge=8, multiple_of=8, description="channels of the finest map, normalised in 8 groups")
    blocks_down: tuple[int, int, int, int] = Field((1, 2, 2, 4), description="residual blocks of each level")


class Encoder(nn.Module):
    """Four maps, fine to coarse, of (B, 1, Z, Y, X) with axes towards S, P, L, as everywhere here."""

    def __init__(self, net: SegResNet) -> None:
        super().__init__()
        self.convInit, self.down_layers = net.convInit, net.down_layers  # named as in the files
        self.channels = [net.init_filters * 2**level for level in range(len(net.down_layers))]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return maps of (B, C, Z/2^k, Y/2^k, X/2^k), k from 0 to 3."""
        maps, x = [], self.convInit(to_ras(x))
        for layer in self.down_layers:
            x = layer(x)
            maps.append(to_spl(x))
        return maps


class Segmenter(nn.Module):
    """The encoder with MONAI's decoder: linear up-sampling, sums with the encoder's maps, residual blocks."""

    def __init__(self, net: SegResNet) -> None:
        super().__init__()
        self.encoder = Encoder(net)
        self.up_samples, self.up_layers, self.conv_final = net.up_samples, net.up_layers, net.conv_final

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes, Z, Y, X), in training too: there is no deep supervision."""
        *skips, x = self.encoder(x)
        x = to_ras(x)
        for up, layer, skip in zip(self.up_samples, self.up_layers, reversed(skips), strict=True):
            x = layer(up(x) + to_ras(skip))
        return to_spl(self.conv_final(x))


def build(settings: Settings) -> nn.Module:
    """Make an encoder with random weights: (B, 1, Z, Y, X) in [0, 1] -> four maps, fine to coarse."""
    return ordered(Encoder(_net(settings)))


def segmenter(settings: Settings, classes: int) -> nn.Module:
    """Make a segmentation net whose ``encoder`` is ``build``'s."""
    return ordered(Segmenter(_net(settings, classes)))


def hub_config(settings: Settings, classes: int | None = None) -> dict[str, Any]:
    """Return the settings, and the outputs of a segmentation net, for config.json."""
    return {**settings.model_dump(mode="json"), **({} if classes is None else {"out_channels": classes})}


def encoder_keywords(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the encoder's part of a config.json that ``hub_config`` gave."""
    return {key: value for key, value in config.items() if key != "out_channels"}


def _net(settings: Settings, classes: int = 1) -> SegResNet:
    return SegResNet(init_filters=settings.init_filters, blocks_down=settings.blocks_down, out_channels=classes)
