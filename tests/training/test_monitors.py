from __future__ import annotations

import pytest
import torch

from ctfm.training import monitors


def test_equal_embeddings_have_no_spread():
    got = monitors.collapse(torch.ones(64, 16))
    assert got["embedding_std"] == pytest.approx(0, abs=1e-3)


def test_even_embeddings_have_full_spread_and_rank():
    made = torch.randn(20000, 16, generator=torch.Generator().manual_seed(0))
    got = monitors.collapse(made)
    assert got["embedding_std"] == pytest.approx(1, abs=0.02)
    assert got["effective_rank"] == pytest.approx(16, abs=0.1)


def test_the_rank_counts_directions_whichever_side_is_longer():
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(256, 3, generator=generator)).Q
    few = torch.randn(100, 3, generator=generator) @ basis.T
    wide = monitors.collapse(few)["effective_rank"]
    unit = torch.nn.functional.normalize(few, dim=1)
    singular = torch.linalg.svdvals((unit - unit.mean(0)).double())
    share = (singular / singular.sum())[:3]
    assert wide == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=0.02)
    assert 2.9 < wide < 3.2
