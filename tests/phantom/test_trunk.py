"""Body, lungs and diaphragm of a phantom."""

from __future__ import annotations

import numpy as np
import pytest

from ctfm.phantom import trunk


def test_profile_interpolates_like_numpy_and_holds_the_ends():
    z = np.array([-500.0, -40.0, 3.0, 77.0, 900.0], np.float32)
    knots, values = (-100, 0, 100), (10, 20, 60)
    np.testing.assert_allclose(trunk.profile(z, knots, values), np.interp(z, knots, values), atol=0.5)


def test_the_right_diaphragm_is_the_higher_one(scanned):
    body, _, _ = scanned
    peaks = [float(trunk.dome(np.array(x), np.array(-5.0), body)) for x in (-60.0, 60.0)]
    assert peaks == pytest.approx([body.dome_right_mm, body.dome_left_mm])
    assert peaks[0] > peaks[1] > trunk.DOME_BASE


def test_lobes_lie_as_in_a_person(centre):
    assert centre("lung_upper_lobe_left")[0] > 30 > -30 > centre("lung_upper_lobe_right")[0]
    for side in ("left", "right"):
        upper, lower = centre(f"lung_upper_lobe_{side}"), centre(f"lung_lower_lobe_{side}")
        assert upper[2] > lower[2] and upper[1] < lower[1]  # above and in front
    middle = centre("lung_middle_lobe_right")
    assert middle[2] < centre("lung_upper_lobe_right")[2] and middle[1] < centre("lung_lower_lobe_right")[1]


def test_air_surrounds_the_body_and_fat_lies_under_the_skin(scanned):
    _, image, label = scanned
    assert np.median(image.array[:, 0, 0]) < -900
    belly = image.array[image.shape[0] // 3, :, image.shape[2] // 2]
    skin = np.flatnonzero(belly > -500)[0]
    assert -160 < belly[skin + 1] < 0
    assert not label.array[image.shape[0] // 3, : skin + 1, image.shape[2] // 2].any()
