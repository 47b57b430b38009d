"""Changes that are followed through a network are those of two whole passes, wherever they are and however wide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder

from ctfm.embedding import changes
from tests.embedding.networks import image, network

EDGES = [(0, 0, 0), (5, 9, 3), (25, 29, 33), (13, 16, 15), (0, 29, 17)]


def passed(module, before, change, starts):
    """Return how the embedding changes, by a pass in float64 for each change."""
    module, made = module.double(), []
    for start, part in zip(starts, change, strict=True):
        after = before.double().clone()
        after[tuple(slice(s, s + n) for s, n in zip(start, part.shape, strict=True))] += part
        pair = torch.stack([before.double(), after])[:, None]
        made.append(module(pair)[-1].mean((2, 3, 4)).diff(dim=0)[0])
    module.float()
    return torch.stack(made)


@pytest.mark.parametrize("wide", [10**6, 1], ids=["direct", "winograd"])
@pytest.mark.parametrize("shape", [(32, 36, 40), (33, 37, 41)])
def test_a_followed_change_is_that_of_whole_passes(shape, wide, monkeypatch):
    monkeypatch.setattr(changes, "WIDE", wide)
    module, before = network(), image(shape)
    starts = np.minimum(EDGES, np.asarray(shape) - (7, 8, 6))
    change = torch.stack([image((7, 8, 6), seed=n) - 0.5 for n in range(len(starts))])
    with torch.inference_mode():
        followed = changes.Network(module, before)
        boxes = changes.Boxes(starts, starts + np.array([7, 8, 6]), shape)
        found = followed.changes(change, boxes)
        wanted = passed(module, before, change, starts)
        assert torch.allclose(followed.embedding, module(before[None, None])[-1].mean((2, 3, 4))[0], atol=1e-6)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    alone = [
        followed.changes(change[n : n + 1], changes.Boxes(starts[n : n + 1], boxes.high[n : n + 1], shape))
        for n in range(len(starts))
    ]
    assert torch.allclose(torch.cat(alone), found, atol=1e-4 * float(wanted.abs().max()))


def test_boxes_hold_what_changes_and_little_more():
    """Each convolution is run on a mark in an empty map; weights of ones let nothing vanish."""
    low, high = np.array([[0, 3, 8], [4, 4, 4]]), np.array([[2, 6, 13], [7, 5, 13]])
    for stride in (1, 2):
        conv = torch.nn.Conv3d(1, 1, 3, stride=stride, padding=1, bias=False).requires_grad_(False)
        conv.weight.fill_(1)
        after = changes.Boxes(low, high, (9, 10, 13)).after(conv)
        for n in range(2):
            mark = torch.zeros(1, 1, 9, 10, 13)
            mark[0, 0][tuple(slice(a, b) for a, b in zip(low[n], high[n], strict=True))] = 1
            seen = np.argwhere(conv(mark)[0, 0].numpy() > 0)
            assert (seen.min(axis=0) == after.low[n]).all() and (seen.max(axis=0) + 1 == after.high[n]).all()
            assert tuple(conv(mark).shape[2:]) == after.shape
        assert (after.start <= after.low).all() and (after.start >= 0).all()
        assert (after.start + after.size >= after.high).all()


def test_which_networks_changes_can_be_followed_in():
    assert changes.is_local(network())
    assert not changes.is_local(network().train())
    assert not changes.is_local(network("suprem_segresnet")) and not changes.is_local(network("suprem_unet"))
    for norm in ("instance", ("group", {"num_groups": 2})):  # each cell depends on the whole map
        assert not changes.is_local(SegResEncoder(init_filters=4, blocks_down=(1, 1), norm=norm).eval())
    assert not changes.is_local(SegResEncoder(init_filters=4, blocks_down=(1,), head_module=torch.nn.Identity()).eval())
