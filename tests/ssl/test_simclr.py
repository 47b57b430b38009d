"""SimCLR against its definition, written out anchor by anchor."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ctfm.ssl import simclr
from ctfm.ssl._batches import batches


def loops(z: torch.Tensor, temperature: float, symmetric: bool) -> torch.Tensor:
    """The definition, written out: one anchor after the other."""
    per_scan = []
    for scan in z:
        crops, terms = len(scan), []
        for crop in range(crops):
            for view in (0, 1) if symmetric else (0,):
                anchor = scan[crop, view]
                positive = F.cosine_similarity(anchor, scan[crop, 1 - view], dim=0) / temperature
                others = [positive]
                for other in range(crops):
                    if other != crop:
                        others += [F.cosine_similarity(anchor, scan[other, v], dim=0) / temperature for v in (0, 1)]
                terms.append(torch.logsumexp(torch.stack(others), 0) - positive)
        per_scan.append(torch.stack(terms).mean())
    return torch.stack(per_scan).mean()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("crops", [2, 5])
def test_simclr_is_the_double_loop_in_value_and_gradient(symmetric, crops):
    z = torch.randn(3, crops, 2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(crops))
    fast, slow = z.clone().requires_grad_(), z.clone().requires_grad_()
    ours = simclr.ntxent(fast, 0.1, symmetric)
    theirs = loops(slow, 0.1, symmetric)
    assert torch.allclose(ours, theirs, rtol=1e-12)
    ours.backward()
    theirs.backward()
    assert torch.allclose(fast.grad, slow.grad, atol=1e-12)


def test_simclr_compares_within_a_scan_alone():
    z = torch.randn(2, 4, 2, 8, generator=torch.Generator().manual_seed(0))
    apart = torch.stack([simclr.ntxent(z[i : i + 1], 0.1, True) for i in range(2)]).mean()
    assert torch.allclose(simclr.ntxent(z, 0.1, True), apart)
    equal = torch.ones(1, 6, 2, 8)
    assert simclr.ntxent(equal, 0.1, True) == pytest.approx(math.log(11), rel=1e-5)


def test_simclr_keeps_single_precision_under_autocast():
    method, z = simclr.Method(simclr.Settings(), 8), torch.rand(2, 4, 2, 1, 4, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, embeddings = method.loss(lambda x: [x.flatten(1)[:, :8, None, None, None]], z)
    assert loss.dtype == torch.float32 and embeddings.dtype == torch.bfloat16
    wide = batches(embeddings.reshape(2, 4, 2, -1), "intra")
    assert torch.equal(loss, simclr.ntxent(wide, 0.1, True))


def test_cross_compares_all_crops_of_the_step():
    z = torch.randn(2, 4, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    across = simclr.ntxent(batches(z, "cross"), 0.1, True)
    assert torch.allclose(across, loops(z.flatten(0, 1)[None], 0.1, True), rtol=1e-12)
    assert across > simclr.ntxent(batches(z, "intra"), 0.1, True)  # more negatives


def test_the_head_is_that_of_the_paper():
    head = simclr.Method(simclr.Settings(), 512).head
    assert [tuple(p.shape) for p in head.parameters()] == [(256, 512), (256,), (128, 256), (128,)]
