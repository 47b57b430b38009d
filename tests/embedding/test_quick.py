"""A quicker copy of a network against the network itself, and against double precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctfm.embedding import quick
from ctfm.encoders import suprem_unet
from tests.embedding.test_shared import encoder


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 9, 7), (1, 2, 16, 8), (3, 1, 5, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_winograd_is_the_convolution(shape, bias):
    n, *space = shape
    convolution = nn.Conv3d(5, 3, 3, padding=1, bias=bias)
    x = torch.randn(n, 5, *space)
    with torch.inference_mode():
        got, wanted = quick.Winograd(convolution)(x), convolution.double()(x.double()).float()
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: encoder(16), lambda: suprem_unet.Encoder(16).eval()])
def test_the_copy_gives_the_same_maps_and_the_network_stays(make):
    network = make()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    copy, x = quick.quick(network, winograd=True), torch.rand(1, 1, 16, 32, 48)
    assert any(isinstance(part, quick.Winograd) for part in copy.modules())
    with torch.inference_mode():
        for ours, wanted in zip(copy(x), network(x), strict=True):
            torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_only_plain_convolutions_of_many_channels_are_replaced():
    kinds = {"stride": 2}, {"padding": 0}, {"dilation": 2}, {"groups": 2}, {"kernel_size": 1, "padding": 0}
    layers = [nn.Conv3d(128, 128, **{"kernel_size": 3, "padding": 1, **kind}) for kind in kinds]
    copy = quick.quick(
        nn.Sequential(*layers, nn.Conv3d(64, 128, 3, padding=1), nn.Conv3d(128, 128, 3, padding=1)), True
    )
    assert [isinstance(part, quick.Winograd) for part in copy] == [False] * 6 + [True]
