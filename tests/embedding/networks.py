"""Small encoders whose BatchNorm has seen something."""

from __future__ import annotations

import torch
from torch import nn

from ctfm import plugins
from ctfm.training import seeds

SETTINGS = {
    "segresnet": {"init_filters": 4, "blocks_down": (1, 1, 2, 1, 1)},
    "suprem_segresnet": {"init_filters": 8, "blocks_down": (1, 1, 1, 1)},
    "suprem_unet": {"init_filters": 2},
}


def network(kind: str = "segresnet", seed: int = 0, **settings) -> nn.Module:
    """Return an encoder in evaluation mode with random weights, and random statistics in its norms."""
    plugin = plugins.get("encoders", kind)
    with seeds.seeded(seed), torch.no_grad():
        made = plugin.build(plugin.Settings(**{**SETTINGS[kind], **settings}))
        for layer in made.modules():
            if isinstance(layer, nn.BatchNorm3d):
                layer.running_mean.normal_(0, 0.3)
                layer.running_var.uniform_(0.5, 2)
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.3)
    return made.eval().requires_grad_(False)


def image(shape, seed: int = 0) -> torch.Tensor:
    """Return random values in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
