"""What patches have in common, computed once, against each patch alone in the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch.utils.flop_counter import FlopCounterMode

from ctfm.embedding import patches, shared


def encoder(filters=2, blocks=(1, 2, 1, 1, 1), **options):
    """Return a network whose BatchNorm has seen data, so that a zero is no zero after it."""
    torch.manual_seed(0)
    made = SegResEncoder(init_filters=filters, blocks_down=blocks, **options).eval().requires_grad_(False)
    for part in made.modules():
        if isinstance(part, torch.nn.BatchNorm3d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
            part.weight.uniform_(0.5, 2)
            part.bias.normal_(0, 0.2)
    return made


def both(network, patch, shape, overlap, batch=4):
    _, ys, xs = patches.grid(shape, patch, overlap).starts
    slab = torch.rand(patch[0], ys[-1] + patch[1], xs[-1] + patch[2])
    with torch.inference_mode():
        ours = torch.cat(list(shared.maps(network, slab, (ys, xs), patch[1:], batch)))
        alone = [slab[None, None, :, y : y + patch[1], x : x + patch[2]] for y in ys for x in xs]
        return ours, torch.cat([network(image)[-1] for image in alone])


@pytest.mark.parametrize(
    ("patch", "shape", "overlap"),
    [
        ((8, 64, 64), (8, 130, 100), 0.625),
        ((6, 64, 48), (6, 100, 130), 0.75),
        ((5, 33, 47), (5, 90, 80), 0.5),  # odd edges and starts
        ((4, 20, 20), (4, 44, 44), 0.8),
        ((4, 32, 32), (4, 70, 90), 0.0),
        ((4, 64, 64), (4, 64, 64), 0.625),
    ],
)
def test_maps_are_those_of_each_patch_alone(patch, shape, overlap):
    ours, alone = both(encoder(), patch, shape, overlap)
    assert ours.shape == alone.shape
    torch.testing.assert_close(ours, alone, rtol=0, atol=2e-6 * float(alone.abs().max()))


def test_the_size_of_the_batch_changes_nothing():
    one, three = (both(encoder(), (4, 64, 64), (4, 112, 112), 0.625, batch)[0] for batch in (1, 3))
    assert one.shape == three.shape


def test_much_less_is_computed():
    """The two finest levels, most of the work, are shared."""
    network, starts = encoder(8, (1, 2, 2, 4, 4)).to("meta"), [0, 48, 96, 144]
    counts = []
    for work in (
        lambda: list(shared.maps(network, torch.empty(8, 272, 272, device="meta"), (starts, starts), (128, 128), 16)),
        lambda: network(torch.empty(16, 1, 8, 128, 128, device="meta")),
    ):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            work()
        counts.append(counter.get_total_flops())
    assert counts[1] / counts[0] > 1.4


def test_other_architectures_are_told_apart():
    assert shared.fits(encoder())
    assert not shared.fits(encoder(8, norm=("group", {"num_groups": 4})))
    assert not shared.fits(encoder(anisotropic_scales=((1, 1, 2),) * 5))
    assert not shared.fits(encoder().train())
    assert not shared.fits(torch.nn.Conv3d(1, 2, 3))


def test_an_axis_by_hand():
    """Two patches of 6 places on an axis of 10: after one convolution, the first and last place of each is its own."""
    axis = shared.Axis(np.array([0, 4]), 6, 0, 0, 10, np.arange(10))
    order, kept = axis.through(1)
    assert order[:12].tolist() == [-1, *range(10), -1]
    assert order[12:].tolist() == [-1, 0, 1, 4, 5, -1, -1, 4, 5, 8, 9, -1]
    assert (kept.low, kept.high, kept.edge) == (1, 1, 6)
    assert kept.find(1, np.arange(-1, 7)).tolist() == [-1, 18, 5, 6, 7, 8, 21, -1]
