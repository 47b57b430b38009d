from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import sliding_window_inference

from ctfm.imaging import tiles

CLASSES, WINDOW = 5, (8, 12, 16)


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Sequential(
            torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, CLASSES, 3, padding=1)
        )
    return layers.eval().requires_grad_(False)


def reader(volume):
    def read(start, size):
        out = np.zeros(size, np.float32)
        low = [max(0, s) for s in start]
        high = [min(n, s + k) for n, s, k in zip(volume.shape, start, size, strict=True)]
        inside = tuple(slice(a - s, b - s) for s, a, b in zip(start, low, high, strict=True))
        out[inside] = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        return out

    return read


@pytest.mark.parametrize("shape", [(20, 30, 40), (8, 12, 16), (9, 12, 33), (5, 30, 10), (3, 4, 5)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.625])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_monai(net, shape, overlap, batch):
    volume = np.random.default_rng(0).random(shape, np.float32)
    ours = tiles.segment(
        reader(volume), shape, net, classes=CLASSES, window=WINDOW, overlap=overlap, batch=batch, device="cpu"
    )
    logits = sliding_window_inference(
        torch.from_numpy(volume)[None, None], WINDOW, 2, net, overlap=overlap, mode="gaussian"
    )[0]
    best = torch.sort(logits, dim=0, descending=True)
    clear = (best.values[0] - best.values[1] > 1e-4).numpy()
    assert clear.mean() > 0.99
    assert ours.shape == shape and ours.dtype == np.uint8
    assert np.array_equal(ours[clear], best.indices[0].numpy()[clear])


@pytest.mark.parametrize("size", [5, 16, 17, 100])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.625, 0.9])
def test_windows_cover_and_equal_monai(size, overlap):
    window = min(16, size)
    step = max(1, int(window * (1 - overlap))) if size > window else window
    wanted = [s[0].start for s in dense_patch_slices((size,), (window,), (step,))]
    assert sorted(set(tiles.starts(size, 16, overlap))) == sorted(set(wanted))


def test_importance_equals_monai():
    wanted = compute_importance_map(WINDOW, mode="gaussian", sigma_scale=0.125).clamp(min=1e-3)
    torch.testing.assert_close(tiles.importance(WINDOW), wanted, rtol=1e-4, atol=1e-5)


def test_each_window_is_read_once_and_batches_are_full(net):
    asked = []

    def read(start, size):
        asked.append((start, size))
        return np.zeros(size, np.int16)

    def infer(images):
        assert images.shape == (2, 1, *WINDOW) and images.dtype == torch.float32
        return net(images)

    tiles.segment(read, (20, 12, 16), infer, classes=CLASSES, window=WINDOW, overlap=0.5, batch=2, device="cpu")
    assert asked == [((z, 0, 0), WINDOW) for z in (0, 4, 8, 12)]
