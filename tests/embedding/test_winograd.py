from __future__ import annotations

import pytest
import torch

from ctfm.embedding import winograd


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 6, 6), (4, 7, 5)])
def test_it_is_a_convolution(m, shape):
    generator = torch.Generator().manual_seed(m)
    image = torch.randn(2, *(size + 2 for size in shape), 5, generator=generator)
    weight = torch.randn(7, 5, 3, 3, 3, generator=generator)
    plain = torch.nn.functional.conv3d(image.permute(0, 4, 1, 2, 3).double(), weight.double()).permute(0, 2, 3, 4, 1)
    found = winograd.convolve(image, winograd.filters(weight, m), m)
    assert found.shape == plain.shape
    assert (found - plain).abs().max() < 3e-5 * plain.std()


def test_tiles_that_need_the_fewest_products():
    assert [winograd.best((n, n, n)) for n in (2, 4, 6, 12)] == [2, 4, 3, 4]
