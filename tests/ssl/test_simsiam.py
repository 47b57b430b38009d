"""SimSiam against its pseudocode, crop by crop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctfm.ssl import simsiam
from ctfm.ssl._batches import batches


def plain(z: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 of the paper for one crop after the other; z is a constant."""

    def distance(prediction: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
        constant = projection.detach()
        return -(prediction @ constant) / (prediction.norm() * constant.norm())

    terms = [
        (distance(p1, z2) + distance(p2, z1)) / 2
        for (z1, z2), (p1, p2) in zip(z.flatten(0, 1), p.flatten(0, 1), strict=True)
    ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("sampling", ["intra", "cross"])
def test_it_is_the_pseudocode_in_value_and_gradient(sampling):
    generator = torch.Generator().manual_seed(0)
    z, p = (torch.randn(3, 5, 2, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    results = []
    for loss in (lambda z, p: simsiam.negative_cosine(batches(z, sampling), batches(p, sampling)), plain):
        leaves = [x.clone().requires_grad_() for x in (z, p)]
        value = loss(*leaves)
        value.backward()
        assert leaves[0].grad is None  # no gradient through the projections
        results.append((value.detach(), leaves[1].grad))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-12)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-12)


def test_equal_views_are_perfect_and_opposite_ones_the_worst():
    z = torch.randn(2, 3, 1, 4).expand(2, 3, 2, 4)
    assert simsiam.negative_cosine(z, z) == pytest.approx(-1)
    assert simsiam.negative_cosine(z, -z) == pytest.approx(1)


def test_the_heads_are_those_of_the_paper():
    method = simsiam.Method(simsiam.Settings(), 512)
    kinds = [type(layer) for layer in method.project]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear, nn.BatchNorm1d]
    assert not method.project[-1].affine and method.project[1].affine
    assert [type(layer) for layer in method.predict] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    widths = [tuple(layer.weight.shape) for layer in (*method.project, *method.predict) if isinstance(layer, nn.Linear)]
    assert widths == [(2048, 512), (2048, 2048), (2048, 2048), (512, 2048), (2048, 512)]
    assert method.predict[-1].bias is not None
