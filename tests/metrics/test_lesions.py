"""Lesions matched by hand, and against components and overlaps of SimpleITK on random shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from ctfm.metrics import lesions


def blobs(seed, shape=(20, 26, 31), level=0.55):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.6)
    return noise > level * noise.max()


def components(mask):
    """Return a mask of each component, by SimpleITK."""
    parts = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), True))
    return [parts == i for i in range(1, parts.max() + 1)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("overlap", [0.05, 0.3, 1.0])
def test_equal_to_components_of_itk_one_by_one(seed, overlap):
    truth, other = blobs(seed), blobs(seed + 100)
    prediction = np.where(np.indices(truth.shape)[2] < 15, truth, other)  # one half is right
    hits = [(prediction & part).sum() / part.sum() >= overlap for part in components(truth)]
    right = [(truth & part).sum() / part.sum() >= overlap for part in components(prediction)]
    expected = (sum(hits), len(hits) - sum(hits), len(right) - sum(right))
    assert lesions.match(truth, prediction, overlap) == expected


def test_pieces_bridges_and_floods():
    truth = np.zeros((9, 9, 30), bool)
    truth[2:5, 2:5, 2:12] = truth[2:5, 2:5, 14:24] = True
    pieces = truth.copy()
    pieces[:, :, 5:8] = False
    assert lesions.match(truth, pieces, 0.5) == (2, 0, 0)  # two pieces of the first lesion, found once
    bridge = truth.copy()
    bridge[2:5, 2:5, 12:14] = True
    assert lesions.match(truth, bridge, 0.5) == (2, 0, 0)
    assert lesions.match(truth, np.ones_like(truth), 0.1) == (2, 0, 1)
    assert lesions.match(truth, np.zeros_like(truth), 0.1) == (0, 2, 0)
    assert lesions.match(np.zeros_like(truth), truth, 0.1) == (0, 0, 2)
    assert lesions.match(np.zeros_like(truth), np.zeros_like(truth), 0.1) == (0, 0, 0)


def test_corners_hang_together():
    truth = np.zeros((4, 4, 4), bool)
    truth[0, 0, 0] = truth[1, 1, 1] = truth[3, 3, 3] = True
    assert lesions.match(truth, truth, 1) == (2, 0, 0)


def test_rows_tell_volumes_and_every_failure():
    truth, prediction = np.zeros((2, 10, 10, 10), np.uint8)
    truth[1:3, 1:3, 1:3] = 2
    truth[6:9, 6:9, 6:9] = 2
    prediction[1:3, 1:3, 1:3] = 2
    prediction[0, 9, 9] = 2
    truth[0, 0, 0] = 4
    prediction[9, 0, 0] = 5
    made = lesions.rows(truth, prediction, {"a": 2, "b": 4, "c": 5, "d": 6}, {"a": "tumour"}, 0.5, 0.1)
    found = {(row["label"], row["metric"]): (row["value"], row["note"]) for row in made}
    of = lambda name: {metric: value for (label, metric), value in found.items() if label == name}  # noqa: E731
    assert of("a") == {
        "lesions_found": (1, ""),
        "lesions_missed": (1, ""),
        "lesions_false_positive": (1, ""),
        "lesion_sensitivity": (0.5, ""),
        "truth_ml": (17.5, ""),
        "predicted_ml": (4.5, ""),
        "volume_error_ml": (13.0, ""),
    }
    assert of("b")["lesions_missed"] == (1, "missed") and of("b")["lesion_sensitivity"] == (0, "missed")
    assert of("c")["lesions_false_positive"] == (1, "absent from the truth")
    assert math.isnan(of("c")["lesion_sensitivity"][0]) and math.isnan(of("d")["lesion_sensitivity"][0])
    assert of("d")["predicted_ml"] == (0, "absent from both")
    assert {row["label"]: row["group"] for row in made} == {"a": "tumour", "b": "other", "c": "other", "d": "other"}


def test_bad_input_is_refused():
    mask = blobs(0)
    with pytest.raises(ValueError, match="shapes differ"):
        lesions.match(mask, mask[1:], 0.1)
    for share in (0, 1.1, math.nan):
        with pytest.raises(ValueError, match="overlap must be above 0"):
            lesions.match(mask, mask, share)
