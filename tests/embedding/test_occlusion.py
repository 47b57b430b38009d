"""Saliency by occlusion against naive loops, and against MONAI's own occlusion."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from monai.visualize.occlusion_sensitivity import OcclusionSensitivity
from scipy.spatial.distance import cosine

from ctfm.embedding import occlusion
from ctfm.embedding.occlusion import Plan
from tests.embedding.networks import SETTINGS, image, network

SHAPE = (19, 26, 24)


def naive(module, scan, plan):
    """Return the saliency by one pass in float64 for each block."""
    module, before = module.double(), scan.double()
    embed = lambda x: module(x[None, None])[-1].mean((2, 3, 4))[0].numpy()  # noqa: E731
    total, count = np.zeros(scan.shape), np.zeros(scan.shape)
    for start in occlusion.corners(scan.shape, plan.block, plan.overlap):
        box, after = tuple(slice(s, s + b) for s, b in zip(start, plan.block, strict=True)), before.clone()
        after[box] = plan.fill
        total[box] += cosine(embed(before), embed(after))
        count[box] += 1
    module.float()
    assert count.min() >= 1
    return total / count


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_hard_occlusion_is_the_naive_loop(kind):
    module, scan, plan = network(kind), image(SHAPE), Plan((8, 10, 12), 0.25, fill=0.2)
    found = occlusion.saliency(module, scan.numpy(), plan)
    wanted = naive(module, scan, plan)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-3 * wanted.max())


def test_followed_changes_are_nearer_to_the_truth_than_passes_in_single_precision():
    module, scan, plan = network(), image((24, 32, 32)), Plan((8, 8, 16), 0.0, fill=0.5)
    embedding, passes = occlusion.shifts(module, scan.numpy(), plan, follow=False)
    _, followed = occlusion.shifts(module, scan.numpy(), plan)
    _, truth = occlusion._embedded(
        module.double(),
        scan.double(),
        occlusion._occluded(scan.double(), occlusion.corners(scan.shape, plan.block, 0), plan.block, plan),
        occlusion.corners(scan.shape, plan.block, 0),
    )
    module.float()
    wanted = occlusion.distances(embedding, truth)
    errors = [np.abs(occlusion.distances(embedding, moved) - wanted).max() for moved in (followed, passes)]
    assert errors[0] < 1e-4 * wanted.max() and errors[0] <= errors[1]


class Shifted(torch.nn.Module):
    """An encoder less almost all of an embedding, so that directions differ much: MONAI blends in single precision."""

    def __init__(self, module, scan):
        super().__init__()
        self.module = module
        self.register_buffer("offset", 0.999 * module(scan[None, None])[-1].mean((2, 3, 4), keepdim=True))

    def forward(self, x):
        return [self.module(x)[-1] - self.offset]


def test_soft_occlusion_is_monais():
    scan, plan = image(SHAPE), Plan((10, 10, 10), 0.25, "gaussian")
    module = Shifted(network(), scan)
    found = occlusion.saliency(module, scan.numpy(), plan)
    head = torch.nn.Sequential(module, Pooled()).eval()
    theirs = OcclusionSensitivity(head, mask_size=10, overlap=0.25, n_batch=12, activate=False, verbose=False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        blended, _ = theirs(scan[None, None])
        base = head(scan[None, None])[0]
    wanted = 1 - torch.cosine_similarity(torch.as_tensor(blended)[0], base[:, None, None, None], dim=0).numpy()
    assert wanted.max() > 0.01
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-3 * wanted.max())


class Pooled(torch.nn.Module):
    """The mean of the last map."""

    def forward(self, maps):
        return maps[-1].mean((2, 3, 4))


def test_soft_occlusion_can_be_followed_too():
    module, scan, plan = network(), image(SHAPE), Plan((10, 10, 10), 0.25, "gaussian")
    embedding, passes = occlusion.shifts(module, scan.numpy(), plan, follow=False)
    again, followed = occlusion.shifts(module, scan.numpy(), plan)
    np.testing.assert_allclose(embedding, again, rtol=1e-5)
    np.testing.assert_allclose(followed, passes, atol=2e-3 * np.abs(passes).max())


def test_blocks_cover_all_and_a_small_image_is_one_block():
    starts = occlusion.corners((20, 8, 9), (8, 8, 8), 0.0)
    assert starts.tolist() == [[z, 0, x] for z in (0, 8, 12) for x in (0, 1)]
    found = occlusion.saliency(network(), image((16, 20, 5)).numpy(), Plan((32, 32, 32)))
    assert found.shape == (16, 20, 5) and np.ptp(found) == 0 and found.max() > 0


def test_blocks_that_hold_the_fill_already_cost_nothing(monkeypatch):
    scan = image((16, 16, 32)).numpy()
    scan[:, :, 16:] = 0
    seen = []
    plain = occlusion._followed
    monkeypatch.setattr(
        occlusion, "_followed", lambda m, w, change, starts: seen.append(starts) or plain(m, w, change, starts)
    )
    found = occlusion.saliency(network(), scan, Plan((8, 8, 8), 0.0))
    assert (seen[0][:, 2] < 16).all() and (found[..., 16:] == 0).all() and (found[..., :16] > 0).all()


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e-2, 1])
def test_small_distances_keep_their_digits(scale):
    rng = np.random.default_rng(0)
    vector, moved = rng.normal(size=64), scale * rng.normal(size=(3, 64))
    exact = vector.astype(np.longdouble)
    for one, found in zip(moved, occlusion.distances(vector, moved), strict=True):
        other = exact + one
        angle = exact / np.sqrt(exact @ exact) - other / np.sqrt(other @ other)
        assert found == pytest.approx(float(angle @ angle / 2), rel=1e-5)
