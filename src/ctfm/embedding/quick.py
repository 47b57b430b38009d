"""A copy of an encoder that gives the same maps in less time: fewer passes, and fewer products on a CPU.

BatchNorm at rest is a scale and a shift, which the convolution before it takes over. On a CPU, 3 x 3 x 3 convolutions
of many channels are done by Winograd's minimal filtering F(4 x 4, 3 x 3) in each plane (Lavin and Gray,
doi:10.1109/CVPR.2016.435): a quarter of the products, as matrix products. Values differ by rounding.
"""

from __future__ import annotations

import copy

import torch
from monai.networks.nets.segresnet_ds import SegResBlock
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

LEAST_CHANNELS = 128  # with fewer, the copies take longer than the products that are saved
FILTER = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # over 24
BEFORE = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
AFTER = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
IN, OUT = 6, 4  # places along y and x that a tile takes and gives


class Winograd(nn.Module):
    """A convolution of (n, channels, z, y, x), width 3, step 1, padding 1: the same result with fewer products."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    before: torch.Tensor
    after: torch.Tensor

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        weight = convolution.weight.detach().double()
        g = torch.tensor(FILTER, dtype=torch.float64, device=weight.device) / 24
        spread = torch.einsum("ay,bx,oizyx->zabio", g, g, weight).flatten(1, 2)
        self.register_buffer("weight", spread.to(convolution.weight.dtype).contiguous())
        self.register_buffer("bias", convolution.bias)
        for name, rows in (("before", BEFORE), ("after", AFTER)):
            self.register_buffer(name, torch.kron(*[torch.tensor(rows, dtype=self.weight.dtype)] * 2).to(weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, channels out, z, y, x)."""
        n, channels, z, y, x_ = x.shape
        down, right = -(-y // OUT), -(-x_ // OUT)
        padded = F.pad(x, (1, OUT * right + 1 - x_, 1, OUT * down + 1 - y)).permute(2, 0, 3, 4, 1)
        tiles = (
            padded.unfold(2, IN, OUT).unfold(3, IN, OUT).permute(5, 6, 0, 1, 2, 3, 4)
        )  # (6, 6, z, n, down, right, c)
        spread = (self.before @ tiles.reshape(IN * IN, -1)).view(IN * IN, z, -1, channels)
        below, here, above = self.weight
        total = _product(spread, here)
        if z > 1:
            total[:, 1:] += _product(spread[:, :-1], below)
            total[:, :-1] += _product(spread[:, 1:], above)
        places = (self.after @ total.flatten(1)).view(OUT, OUT, z, n, down, right, -1).permute(3, 2, 4, 0, 5, 1, 6)
        found = places.reshape(n, z, OUT * down, OUT * right, -1)[:, :, :y, :x_]
        return (found if self.bias is None else found + self.bias).permute(0, 4, 1, 2, 3)


def quick(encoder: nn.Module, winograd: bool) -> nn.Module:
    """Return a copy of an encoder in evaluation whose maps are the same to rounding; the encoder stays as it is.

    Args:
        encoder: on its device.
        winograd: replace wide convolutions; for a CPU in single precision. They take four times their memory.
    """
    made = copy.deepcopy(encoder)
    for block in made.modules():
        if isinstance(block, SegResBlock) and isinstance(block.norm2, nn.BatchNorm3d):
            block.conv1, block.norm2 = fuse_conv_bn_eval(block.conv1, block.norm2), nn.Identity()
    if winograd:
        for part in list(made.modules()):
            for name, child in part.named_children():
                if isinstance(child, nn.Conv3d) and _is_wide(child):
                    setattr(part, name, Winograd(child))
    return made.requires_grad_(False)


def _is_wide(module: nn.Conv3d) -> bool:
    return (
        (module.kernel_size, module.stride, module.padding) == ((3, 3, 3), (1, 1, 1), (1, 1, 1))
        and (module.dilation, module.groups) == ((1, 1, 1), 1)
        and min(module.in_channels, module.out_channels) >= LEAST_CHANNELS
    )


def _product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.bmm(rows.flatten(1, 2), weight).unflatten(1, rows.shape[1:3])
