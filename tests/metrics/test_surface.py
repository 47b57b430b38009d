"""Surface metrics against MONAI, distance transforms of SciPy and SimpleITK, and closed forms."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import SurfaceDiceMetric, compute_average_surface_distance, compute_hausdorff_distance
from monai.metrics.utils import get_mask_edges
from scipy import ndimage

from ctfm.metrics import surface

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (1.5, 0.7, 2.3)]


def blob(seed, shape=(18, 25, 30), level=0.08):
    """Return a random shape, which may touch the array's faces and fall into parts."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return noise > level * noise.max() * 3


def near(mask, seed):
    """Return a mask like the other one, with a tenth of its voxels' neighbourhood changed."""
    return ndimage.median_filter(mask ^ (np.random.default_rng(seed).random(mask.shape) < 0.1), 3)


PAIRS = {
    "apart": (blob(0), blob(1)),
    "alike": (blob(2), near(blob(2), 3)),
    "far": (np.pad(blob(4, (6, 6, 6)), (0, 30)), np.pad(blob(5, (6, 6, 6)), (30, 0))),
}
given = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
spaced = pytest.mark.parametrize("spacing", SPACINGS, ids=str)


def tensors(*masks):
    """Return masks as MONAI wants them: (1, 1, z, y, x), without a background channel."""
    return [torch.from_numpy(mask)[None, None] for mask in masks]


def monai(truth, prediction, spacing, tolerance=2.0):
    given, true = tensors(prediction, truth)
    options = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every empty mask
        dice = SurfaceDiceMetric([tolerance], include_background=True)(given, true, spacing=spacing)
        values = [
            compute_average_surface_distance(given, true, **options),
            compute_average_surface_distance(given, true, symmetric=True, **options),
            compute_hausdorff_distance(given, true, percentile=95, **options),
            dice,
        ]
    return [float(value) for value in values]


def ours(truth, prediction, spacing, tolerance=2.0):
    found = surface.distances(truth, prediction, spacing)
    return [surface.asd(found), surface.assd(found), surface.hd95(found), surface.nsd(found, tolerance)]


@given
@spaced
def test_equal_to_monai(pair, spacing):
    assert ours(*pair, spacing) == pytest.approx(monai(*pair, spacing), rel=1e-5)


@given
def test_border_equals_monai_and_label_contours_of_itk(pair):
    for mask in pair:
        edges, _ = get_mask_edges(mask, mask, crop=False)
        assert np.array_equal(surface.border(mask), edges)
        inside = np.pad(mask, 1)
        contour = sitk.LabelContour(sitk.GetImageFromArray(inside.astype(np.uint8)))
        assert np.array_equal(surface.border(inside), sitk.GetArrayFromImage(contour) > 0)


@given
@spaced
def test_every_distance_equals_distance_transforms_of_scipy_and_itk(pair, spacing):
    truth, prediction = pair
    found = surface.distances(truth, prediction, spacing)
    edges = surface.border(truth), surface.border(prediction)
    for one, (of, to) in zip(found, (edges[::-1], edges), strict=True):
        assert one == pytest.approx(ndimage.distance_transform_edt(~to, sampling=spacing)[of], abs=1e-9)
        image = sitk.GetImageFromArray(to.astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        distance = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
        outside = np.maximum(sitk.GetArrayFromImage(distance), 0)  # below zero within the surface itself
        assert one == pytest.approx(outside[of], abs=1e-3)


def test_plates_at_a_known_distance():
    truth, prediction = np.zeros((2, 20, 6, 7), bool)
    truth[4], prediction[11] = True, True
    assert ours(truth, prediction, (2.5, 1.0, 1.0), tolerance=17.5) == [17.5, 17.5, 17.5, 1.0]
    assert ours(truth, prediction, (2.5, 1.0, 1.0), tolerance=17.4)[3] == 0
    prediction[4, 0] = True  # a row of the truth's own plate is found too: 7 of 49 points at no distance
    found = surface.distances(truth, prediction, (2.5, 1.0, 1.0))
    assert surface.asd(found) == pytest.approx(17.5 * 42 / 49)
    assert sorted(found.to_prediction)[:14] == [0] * 7 + [1] * 7


@pytest.mark.parametrize("axis", range(3))
def test_two_voxels_are_as_far_apart_as_the_spacing_says(axis):
    masks = np.zeros((2, 9, 9, 9), bool)
    masks[0, 2, 2, 2] = True
    masks[1][tuple(7 if a == axis else 2 for a in range(3))] = True
    mm = 5 * (0.5, 1.0, 4.0)[axis]
    assert ours(*masks, (0.5, 1.0, 4.0)) == [mm, mm, mm, float(mm <= 2)]


def test_nested_balls_and_direction():
    z, y, x = np.indices((61, 61, 61)) - 30
    radius = np.sqrt(z**2 + y**2 + x**2)
    inner, outer = radius <= 15, radius <= 25
    found = surface.distances(inner, outer, (1, 1, 1))
    assert surface.assd(found) == pytest.approx(10, abs=0.5) and surface.hd95(found) == pytest.approx(10, abs=1)
    swapped = surface.distances(outer, inner, (1, 1, 1))
    assert surface.assd(swapped) == pytest.approx(surface.assd(found)) and surface.hd95(swapped) == surface.hd95(found)
    both = inner | (radius >= 29)  # what is predicted beside a perfect mask costs in one direction only
    assert (
        surface.asd(surface.distances(both, inner, (1, 1, 1)))
        == 0
        < surface.asd(surface.distances(inner, both, (1, 1, 1)))
    )


def test_equal_masks_and_empty_ones():
    mask, empty = blob(0), np.zeros((18, 25, 30), bool)
    assert ours(mask, mask, (3, 1, 1)) == [0, 0, 0, 1]
    for pair in ((mask, empty), (empty, mask)):
        assert ours(*pair, (3, 1, 1)) == [math.inf, math.inf, math.inf, 0]
        asd, assd, _, dice = monai(*pair, (3, 1, 1))
        assert (asd, assd, dice) == (math.inf, math.inf, 0)
    assert ours(empty, empty, (3, 1, 1)) == pytest.approx([math.nan] * 4, nan_ok=True)
    assert [*map(len, surface.distances(empty, empty, (3, 1, 1)))] == [0, 0]


@pytest.mark.parametrize("kind", ["u1", "i2", "<i4", ">u2", "i8", "u8"])
def test_rows_of_present_and_missed_labels(kind):
    truth, prediction = np.zeros((2, 11, 21, 31), kind)
    truth[2:6, 2:8, 2:9] = prediction[2:6, 3:9, 2:9] = 7
    truth[8:, 15:, 20:] = 9
    prediction[0, 0, 0] = 3
    ids = {"liver": 7, "cyst": 9, "spleen": 3, "rib": 200}
    rows = surface.rows(truth, prediction, ids, {"liver": "organs"}, (3, 1, 1), tolerance_mm=1)
    found = {(row["label"], row["metric"]): (row["value"], row["note"]) for row in rows}
    asd, assd, hd95, nsd = ours(truth == 7, prediction == 7, (3, 1, 1), tolerance=1)
    worst = math.hypot(30, 20, 30)
    assert found == {
        ("liver", "asd"): (asd, ""),
        ("liver", "assd"): (assd, ""),
        ("liver", "hd95"): (hd95, ""),
        ("liver", "nsd"): (nsd, "within 1 mm"),
        ("liver", "missed"): (0, ""),
        ("cyst", "asd"): (pytest.approx(math.nan, nan_ok=True), "missed: not defined"),
        ("cyst", "assd"): (pytest.approx(worst), "missed: the largest distance in the scan"),
        ("cyst", "hd95"): (pytest.approx(worst), "missed: the largest distance in the scan"),
        ("cyst", "nsd"): (0, "missed; within 1 mm"),
        ("cyst", "missed"): (1, "missed"),
    }
    assert {row["label"]: row["group"] for row in rows} == {"liver": "organs", "cyst": "other"}
    assert surface.rows(truth, prediction, {}, {}, (3, 1, 1), 1) == []


def test_no_distance_exceeds_the_penalty_for_missing():
    truth, prediction = np.zeros((2, 5, 6, 7), np.uint8)
    truth[0, 0, 0] = prediction[-1, -1, -1] = 1
    truth[2, 2, 2] = 2
    rows = surface.rows(truth, prediction, {"near": 1, "lost": 2}, {}, (1.5, 0.7, 2.3), 1)
    hd95 = {row["label"]: row["value"] for row in rows if row["metric"] == "hd95"}
    assert hd95["near"] == pytest.approx(hd95["lost"])


def test_bad_input_is_refused():
    mask = blob(0)
    with pytest.raises(ValueError, match="shapes differ"):
        surface.distances(mask, mask[1:], (1, 1, 1))
    with pytest.raises(ValueError, match="shapes differ"):
        surface.rows(mask.astype(int), mask[1:].astype(int), {"a": 1}, {}, (1, 1, 1), 1)
    with pytest.raises(ValueError, match="masks must be bool, not uint8"):
        surface.distances(mask.astype(np.uint8), mask, (1, 1, 1))
    for spacing in ((1, 1), (1, 0, 1), (1, math.nan, 1), (1, math.inf, 1)):
        with pytest.raises(ValueError, match="spacing must be 3 positive numbers"):
            surface.distances(mask, mask, spacing)
