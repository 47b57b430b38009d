"""VICReg against its pseudocode, which makes the covariance matrix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctfm.ssl import vicreg
from ctfm.ssl._batches import batches


def plain(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """Algorithm 1 of the paper, for two views (N, D) of one batch."""
    count, width = x.shape
    invariance = ((x - y) ** 2).sum() / (count * width)
    hinges, off = [], []
    for view in (x, y):
        std = torch.sqrt(view.var(dim=0) + 1e-4)
        hinges.append(torch.relu(1 - std).mean() / 2)
        covariance = torch.cov(view.T)
        off.append((covariance**2).sum() / width - (covariance.diagonal() ** 2).sum() / width)
    return [invariance, sum(hinges), sum(off)]


@pytest.mark.parametrize("crops", [2, 6])
def test_the_terms_are_the_pseudocode_in_value_and_gradient(crops):
    start = torch.randn(3, crops, 2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(crops)) * 0.8
    for term in range(3):
        fast, slow = start.clone().requires_grad_(), start.clone().requires_grad_()
        ours = vicreg.terms(fast)[term]
        theirs = torch.stack([plain(scan[:, 0], scan[:, 1])[term] for scan in slow]).mean()
        assert torch.allclose(ours, theirs, rtol=1e-10), term
        ours.backward()
        theirs.backward()
        assert torch.allclose(fast.grad, slow.grad, atol=1e-12), term


def test_cross_takes_the_statistics_over_all_scans():
    z = torch.randn(3, 4, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = vicreg.terms(batches(z, "cross"))
    theirs = plain(*z.flatten(0, 1).unbind(1))
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_a_collapse_costs_the_whole_variance_term():
    invariance, variance, covariance = vicreg.terms(torch.ones(2, 6, 2, 8))
    assert (float(invariance), float(covariance)) == (0, 0) and float(variance) == pytest.approx(0.99)


def test_weights_and_expander_are_those_of_the_paper():
    settings = vicreg.Settings()
    assert (settings.invariance, settings.variance, settings.covariance) == (25, 25, 1)
    method = vicreg.Method(settings, 512)
    kinds = [type(layer) for layer in method.expand]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert [tuple(layer.weight.shape) for layer in method.expand if isinstance(layer, nn.Linear)] == [
        (8192, 512),
        (8192, 8192),
        (8192, 8192),
    ]


def test_the_loss_is_the_weighted_sum():
    method = vicreg.Method(vicreg.Settings(expander=16, invariance=2, variance=3, covariance=5), 8)
    loss, embeddings = method.loss(lambda x: [x.flatten(1)[:, :8, None, None, None]], torch.rand(2, 4, 2, 1, 4, 4, 4))
    terms = vicreg.terms(embeddings.reshape(2, 4, 2, -1))
    assert torch.allclose(loss, 2 * terms[0] + 3 * terms[1] + 5 * terms[2])
