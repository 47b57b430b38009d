from __future__ import annotations

import math

import pytest
import torch

from ctfm.training import monitors


def unit(*shape, seed=0) -> torch.Tensor:
    made = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(made, dim=-1)


def test_equal_embeddings_have_no_spread_and_that_is_called_a_collapse():
    got = monitors.representation(torch.ones(64, 16))
    assert got["embedding_std"] == pytest.approx(0, abs=1e-3) and got["alignment"] == 0 and got["uniformity"] == 0
    row = {key: float(value) for key, value in got.items()}
    assert "nearly equal (embedding_std" in monitors.collapsed(row)


def test_even_embeddings_have_full_spread_and_rank():
    got = monitors.spread(unit(20000, 16))
    assert got["embedding_std"] == pytest.approx(1, abs=0.02)
    assert got["effective_rank"] == pytest.approx(16, abs=0.1)
    assert monitors.collapsed({key: float(value) for key, value in got.items()}) is None


def test_embeddings_along_one_line_are_called_a_collapse():
    line = torch.cat([torch.ones(32, 8), -torch.ones(32, 8)])
    row = {key: float(value) for key, value in monitors.representation(line).items()}
    assert row["effective_rank"] == pytest.approx(1, abs=1e-3) and "one line" in monitors.collapsed(row)
    assert monitors.collapsed({"loss": 1.0}) is None


def test_the_rank_counts_directions_whichever_side_is_longer():
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(256, 3, generator=generator)).Q
    few = torch.randn(100, 3, generator=generator) @ basis.T
    wide = monitors.representation(few)["effective_rank"]
    rows = torch.nn.functional.normalize(few, dim=1)
    singular = torch.linalg.svdvals((rows - rows.mean(0)).double())
    share = (singular / singular.sum())[:3]
    assert wide == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=0.02)
    assert 2.9 < wide < 3.2


def test_alignment_and_uniformity_are_those_of_a_plain_loop():
    views = unit(7, 2, 5)
    got = monitors.representation(3 * views.flatten(0, 1))
    alignment = sum(sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in views.tolist()) / 7
    uniformity = []
    for view in range(2):
        potentials = []
        for i in range(7):
            for j in range(i):
                one, other = views[i, view].tolist(), views[j, view].tolist()
                potentials.append(math.exp(-2 * sum((a - b) ** 2 for a, b in zip(one, other, strict=True))))
        uniformity.append(math.log(sum(potentials) / len(potentials)))
    assert got["alignment"] == pytest.approx(alignment, rel=1e-12)
    assert got["uniformity"] == pytest.approx(sum(uniformity) / 2, rel=1e-12)


def test_one_crop_alone_gives_numbers_too():
    assert all(value.isfinite() for value in monitors.representation(unit(2, 5)).values())
