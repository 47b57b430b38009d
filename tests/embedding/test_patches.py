"""The grid against the splitter that the published code uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowSplitter

from ctfm.embedding import patches, read
from ctfm.imaging import store
from ctfm.imaging.preprocess import Preprocess
from ctfm.imaging.volume import Volume

SPACING = (3.0, 1.0, 1.0)
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]] @ np.diag([*SPACING, 1.0])


def scan(folder, shape=(30, 41, 52), low=(0, 0, 0), high=None, **preprocess):
    array = np.random.default_rng(0).integers(-1024, 2048, shape).astype(np.int16)
    store.save(Volume(array, AFFINE), folder / "scan.b2nd")
    return read.Scan(store.open_volume(folder / "scan.b2nd"), low, high or shape, Preprocess(**preprocess)), array


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.625, 0.75])
@pytest.mark.parametrize("shape", [(24, 32, 32), (25, 33, 64), (30, 41, 52), (61, 33, 90)])
def test_patches_are_those_of_monai(tmp_path, shape, overlap):
    """The same values at the same places in the same order, with the published padding by zeros after scaling."""
    given, array = scan(tmp_path, shape)
    cut = patches.grid(shape, (24, 32, 32), overlap)
    ours = torch.cat(list(patches.batches(given, cut, 3)))
    image = torch.from_numpy((array.astype(np.float32) + 1024) / 3072)[None, None]
    wanted = list(SlidingWindowSplitter((24, 32, 32), overlap, pad_value=0)(image))
    assert cut.corners == [tuple(place) for _, place in wanted] and len(cut) == len(wanted)
    torch.testing.assert_close(ours, torch.cat([patch for patch, _ in wanted]))


def test_the_paper_s_own_numbers():
    """Specification: 455 patches of 24 x 128 x 128 at overlap 0.625 on a scan of 125 x 300 x 400 voxels."""
    cut = patches.grid((125, 300, 400), (24, 128, 128), 0.625)
    assert cut.shape == (13, 5, 7) and len(cut) == 455
    assert cut.starts[0][:3] == [0, 9, 18] and cut.starts[1] == [0, 48, 96, 144, 192]


def test_a_scan_smaller_than_a_patch_is_padded_to_a_whole_one(tmp_path):
    given, array = scan(tmp_path, (10, 20, 50))
    cut = patches.grid(given.shape, (24, 32, 32), 0.625)
    (first, *_) = torch.cat(list(patches.batches(given, cut, 8)))
    assert first.shape == (1, 24, 32, 32) and cut.shape[:2] == (1, 1)
    np.testing.assert_allclose(first[0, :10, :20], (array[:, :, :32] + 1024.0) / 3072, atol=1e-6)
    assert not first[0, 10:].any() and not first[0, :, 20:].any()


def test_what_lies_outside_of_the_box_is_zero_even_if_the_window_starts_lower(tmp_path):
    low, high = (3, 5, 7), (20, 30, 40)
    given, array = scan(tmp_path, low=low, high=high, hu_window=(-2000.0, 2048.0))
    assert given.shape == (17, 25, 33)
    part = given.read((-1, 0, 30), (4, 25, 6))
    assert not part[0].any() and not part[:, :, 3:].any()
    np.testing.assert_allclose(part[1:, :, :3], (array[3:6, 5:30, 37:40] + 2000.0) / 4048, atol=1e-6)


def test_boxes_are_in_millimetres_and_centres_in_the_patient(tmp_path):
    given, _ = scan(tmp_path, low=(2, 4, 6))
    cut = patches.grid(given.shape, (8, 16, 16), 0.5)
    box, corner = cut.boxes_mm(given)[-1], np.add(cut.corners[-1], (2, 4, 6))
    np.testing.assert_allclose(box[:3], corner * SPACING)
    np.testing.assert_allclose(box[3:] - box[:3], np.multiply((8, 16, 16), SPACING))
    middle = np.append(corner + np.array((3.5, 7.5, 7.5)), 1)
    np.testing.assert_allclose(cut.centres_world(given)[-1], (AFFINE @ middle)[:3])


def test_labels_are_cut_like_the_scan(tmp_path):
    given, array = scan(tmp_path)
    ids = (array > 0).astype(np.uint8) * 7
    store.save(Volume(ids, AFFINE), tmp_path / "labels.b2nd")
    given = read.Scan(
        given.volume, given.low, given.high, given.preprocess, store.open_volume(tmp_path / "labels.b2nd")
    )
    cut = patches.grid(given.shape, (16, 16, 16), 0.5)
    images, maps = torch.cat(list(patches.batches(given, cut, 5))), list(patches.labels(given, cut))
    for image, found in zip(images[:, 0], maps, strict=True):
        assert np.array_equal(found > 0, image.numpy() > np.float32(1024) / 3072)


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_batches_are_full_but_the_last(tmp_path, size):
    given, _ = scan(tmp_path)
    cut = patches.grid(given.shape, (16, 16, 16), 0.5)
    lengths = [len(batch) for batch in patches.batches(given, cut, size)]
    assert sum(lengths) == len(cut) and set(lengths[:-1]) <= {size}
