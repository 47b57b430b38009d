from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import sliding_window_inference

from ctfm.imaging import tiles

CLASSES, WINDOW = 5, (8, 12, 16)
PLENTY = 1e9


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Sequential(
            torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, CLASSES, 3, padding=1)
        )
    return layers.eval().requires_grad_(False)


def tiling(overlap=0.625, batch=1, memory=PLENTY, **options):
    made = {"classes": CLASSES, "window": WINDOW, "device": "cpu", **options}
    return tiles.Tiling(overlap=overlap, batch=batch, memory=memory, **made)


def reader(volume):
    def read(start, size):
        out = np.zeros(size, np.float32)
        low = [max(0, s) for s in start]
        high = [min(n, s + k) for n, s, k in zip(volume.shape, start, size, strict=True)]
        inside = tuple(slice(a - s, b - s) for s, a, b in zip(start, low, high, strict=True))
        out[inside] = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        return out

    return read


def noise(shape):
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("shape", [(20, 30, 40), (8, 12, 16), (9, 12, 33), (5, 30, 10), (3, 4, 5)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.625])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_monai(net, shape, overlap, batch):
    volume = noise(shape)
    ours = tiles.segment(reader(volume), shape, net, tiling(overlap, batch))
    logits = sliding_window_inference(
        torch.from_numpy(volume)[None, None], WINDOW, 2, net, overlap=overlap, mode="gaussian"
    )[0]
    best = torch.sort(logits, dim=0, descending=True)
    near = (best.values[0] - best.values[1] < 1e-3 * (best.values[0] - best.values[-1])).numpy()
    assert near.mean() < 0.01
    assert ours.shape == shape and ours.dtype == np.uint8
    assert np.array_equal(ours[~near], best.indices[0].numpy()[~near])


@pytest.mark.parametrize("offset", [0, 1000])
def test_half_precision_costs_only_near_ties(offset):
    """Logits of a confident network, and far from zero, against sums in double precision."""
    classes, shape = 20, (12, 30, 40)
    logits = 10 * np.random.default_rng(1).standard_normal((classes, *shape)) + offset
    random = np.random.default_rng(2)
    where = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape).numpy()
    total, given = np.zeros((classes, *shape)), tiling(classes=classes)
    importance = tiles.importance(WINDOW).double().numpy()

    def infer(images):
        box = images[0, 0].long().numpy()
        seen = logits.reshape(classes, -1)[:, box] + random.standard_normal((classes, *WINDOW))
        np.add.at(total.reshape(classes, -1), (slice(None), box), importance * seen)
        return torch.from_numpy(seen).float()[None]

    ours = tiles.segment(reader(where), shape, infer, given)
    best = np.sort(total, axis=0)
    other = ours != total.argmax(axis=0)
    assert other.mean() < 1e-3
    assert ((best[-1] - best[-2])[other] < 2e-3 * (best[-1] - best[0])[other]).all()


@pytest.mark.parametrize("shape", [(20, 60, 70), (9, 33, 18), (3, 4, 5)])
@pytest.mark.parametrize("overlap", [0.0, 0.625])
def test_less_memory_gives_the_same_labels(net, shape, overlap):
    volume, calls = noise(shape), []

    def infer(images):
        calls.append(len(images))
        return net(images)

    made = {}
    for memory in (PLENTY, 60_000, tiling().least_memory):
        given = tiling(overlap, memory=memory)
        made[memory] = (tiles.segment(reader(volume), shape, infer, given), len(calls))
        calls.clear()
        padded = tuple(max(n, w) for n, w in zip(shape, WINDOW, strict=True))
        cut = tiles.blocks(padded, given)
        assert max(np.prod(block.shape) for block in cut) * given.column_bytes <= memory
        seen = np.zeros(padded[1:], int)
        for block in cut:
            seen[block.inside] += 1
        assert (seen == 1).all()
    labels = [array for array, _ in made.values()]
    assert np.array_equal(labels[0], labels[1]) and np.array_equal(labels[0], labels[2])
    if min(shape) > 10:
        assert made[PLENTY][1] <= made[60_000][1] < made[tiling().least_memory][1]


def test_windows_of_few_blocks_are_computed_twice():
    """By hand: windows of 160 start at 0, 60 and 90 of 250; a cut at 60 lets the first part see one of them alone."""
    given = tiling(classes=118, window=(96, 160, 160), memory=1.24e9)
    cut = tiles.blocks((300, 250, 250), given)
    assert len(cut) == 2 and sum(len(block.windows) for block in cut) == 12
    assert len(tiles.blocks((300, 250, 250), replace(given, memory=1.5e9))) == 1


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


def test_each_window_is_read_once_batches_are_full_and_progress_is_told(net):
    asked, seen = [], []

    def read(start, size):
        asked.append((start, size))
        return np.zeros(size, np.int16)

    def infer(images):
        assert images.shape == (2, 1, *WINDOW) and images.dtype == torch.float32
        return net(images)

    def watch(layers):
        for layer in layers:
            seen.append(len(layers))
            yield layer

    tiles.segment(read, (20, 12, 16), infer, tiling(0.5, 2), watch)
    assert asked == [((z, 0, 0), WINDOW) for z in (0, 4, 8, 12)]
    assert seen == [4, 4, 4, 4]


MEASURE = """
import json, re, sys
from pathlib import Path
import numpy as np, torch
from ctfm.imaging import tiles
torch.set_num_threads(1)
shape, window, memory = json.loads(sys.argv[1])
given = tiles.Tiling(classes=118, window=tuple(window), overlap=0.625, batch=1, device="cpu", memory=memory)
answer = torch.ones(1, 118, *window)
answer[0, 7] = 2
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
run = lambda shape: tiles.segment(lambda start, size: np.ones(size, np.int16), shape, lambda images: answer, given)
run((1, 1, 1))  # loads what is loaded once
before = peak() - 24 * 40 * 40 * 118 * 2
labels = run(tuple(shape))
assert (labels == 7).all()
print(peak() - before)
"""


def grown(memory):
    """Return by how many bytes a process grows that segments a scan with 118 classes."""
    job = json.dumps([(40, 88, 88), (24, 40, 40), memory])
    run = subprocess.run([sys.executable, "-c", MEASURE, job], check=True, capture_output=True, text=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_is_bounded_whatever_the_size_of_the_scan():
    """Edges are a quarter of 350 x 350 voxels and windows of 96 x 160 x 160: all is a 64th. It is of any height."""
    beside = 8e6  # labels, and some copies of one class of a window
    assert grown(20e6) < 20e6 + beside < 40e6 < grown(1e9) < 44e6 + beside
