"""SegResNet encoder of CT-FM (paper, Methods; Myronenko, doi:10.1007/978-3-030-11726-9_28), as MONAI has it.

Tensors have the names that lighter-zoo and the published weights use.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS
from pydantic import Field
from torch import nn

from ctfm.config import Strict
from ctfm.encoders import Hub
from ctfm.encoders._order import ordered
from ctfm.imaging.preprocess import Preprocess

PREPROCESS = Preprocess()
HUB = Hub("SegResEncoder", "SegResNet")
multiple = 16  # voxels along each axis that a segmenter's input must be divisible by
HEADS = 4  # logit maps of a segmenter in training
DECODER = ("out_channels", "blocks_up", "dsdepth", "upsample_mode")  # keywords that don't change the encoder
# Before the encoder's names in checkpoints of Lightning: of the published run, of its compiled ablations, of those
# that also reconstructed, and of segmentation nets.
PREFIXES = (
    "model.backbone.",
    "model._orig_mod.backbone.",
    "model.backbone.encoder.",
    "model._orig_mod.backbone.encoder.",
    "model.encoder.",
)


class Settings(Strict):
    """Width and depth; the defaults are CT-FM's (77.8 million parameters)."""

    init_filters: int = Field(32, ge=1, description="channels of the finest map; each coarser map has twice as many")
    blocks_down: tuple[int, int, int, int, int] = Field((1, 2, 2, 4, 4), description="residual blocks of each level")


def build(settings: Settings) -> nn.Module:
    """Make an encoder with random weights: (B, 1, Z, Y, X) in [0, 1] -> five maps, fine to coarse.

    Its ``channels`` lists the channels of the maps; map k is 2^k times coarser than the input.
    """
    encoder: Any = ordered(SegResEncoder(**hub_config(settings)))
    encoder.channels = [settings.init_filters * 2**level for level in range(len(settings.blocks_down))]
    return encoder


def segmenter(settings: Settings, classes: int) -> nn.Module:
    """Make a segmentation net whose ``encoder`` is ``build``'s.

    In training it returns four logit maps, finest first; in evaluation the finest alone: (B, classes, Z, Y, X).
    """
    return ordered(SegResNetDS(**hub_config(settings, classes)))


def hub_config(settings: Settings, classes: int | None = None) -> dict[str, Any]:
    """Return the keyword arguments of lighter-zoo's class, for its config.json.

    Args:
        settings: of the encoder.
        classes: outputs of the segmentation net; None: of the encoder alone.
    """
    decoder = {} if classes is None else {"out_channels": classes, "dsdepth": HEADS}
    return {
        "spatial_dims": 3,
        "in_channels": 1,
        "init_filters": settings.init_filters,
        "blocks_down": list(settings.blocks_down),
        **decoder,
    }


def encoder_keywords(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the encoder's part of a config.json, of lighter-zoo's encoder or net, as ``hub_config`` writes it.

    What is left out has MONAI's default; what else is there is kept, unless it is a default too.
    """
    defaults = [_defaults(cls) for cls in (SegResEncoder, SegResNetDS)]
    ours = hub_config(Settings())
    full = {**{key: defaults[0][key] for key in ours}, **config}
    same = {key for key in full if key not in ours and any(key in d and full[key] == d[key] for d in defaults)}
    return {key: value for key, value in full.items() if key not in same and key not in DECODER}


def _defaults(cls: type) -> dict[str, Any]:
    """Return a class's default arguments as they look after a trip through JSON."""
    return json.loads(json.dumps({p.name: p.default for p in inspect.signature(cls).parameters.values()}))
