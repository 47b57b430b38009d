"""SegResNet encoder of CT-FM (paper, Methods; Myronenko, doi:10.1007/978-3-030-11726-9_28), as MONAI has it.

Tensors have the names that lighter-zoo and the published weights use.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS
from pydantic import Field
from torch import nn

from ctfm.config import Strict
from ctfm.imaging.preprocess import Preprocess

PREPROCESS = Preprocess()
FORMAT = torch.channels_last_3d  # a third faster or more than the other order; the values are the same
multiple = 16  # voxels along each axis that a segmenter's input must be divisible by


class Settings(Strict):
    """Width and depth; the defaults are CT-FM's (77.8 million parameters)."""

    init_filters: int = Field(32, ge=1, description="channels of the finest map; each coarser map has twice as many")
    blocks_down: tuple[int, int, int, int, int] = Field((1, 2, 2, 4, 4), description="residual blocks of each level")


def build(settings: Settings) -> nn.Module:
    """Make an encoder with random weights: (B, 1, Z, Y, X) in [0, 1] -> five maps, fine to coarse.

    Its ``channels`` lists the channels of the maps; map k is 2^k times coarser than the input.
    """
    encoder: Any = SegResEncoder(**hub_config(settings)).to(memory_format=FORMAT)
    encoder.channels = [settings.init_filters * 2**level for level in range(len(settings.blocks_down))]
    return encoder


def segmenter(settings: Settings, classes: int) -> nn.Module:
    """Make a segmentation net whose ``encoder`` is ``build``'s.

    In training it returns four logit maps, finest first; in evaluation the finest alone: (B, classes, Z, Y, X).
    """
    return SegResNetDS(**hub_config(settings), out_channels=classes, dsdepth=4).to(memory_format=FORMAT)


def hub_config(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments of ``lighter_zoo.SegResEncoder``, for its config.json."""
    return {
        "spatial_dims": 3,
        "in_channels": 1,
        "init_filters": settings.init_filters,
        "blocks_down": list(settings.blocks_down),
    }
