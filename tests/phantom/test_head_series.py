"""DICOM series of heads, read back by SimpleITK and by our own reader."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctfm.errors import Quarantine
from ctfm.imaging import scans
from ctfm.imaging.resample import resample_to
from ctfm.phantom import head, head_series
from tests.phantom.test_head import fine, person


def test_slices_lie_where_the_scan_has_them(tmp_path):
    head_series.write(tmp_path, person("tilted"), "a head")
    volume, (files) = head.scan(person("tilted")), sorted(tmp_path.glob("*.dcm"))
    assert len(files) == volume.shape[0] == head.SLICES
    for place in (0, 20):
        image = sitk.ReadImage(str(files[place]))
        assert np.array_equal(sitk.GetArrayFromImage(image)[0], volume.array[place])
        np.testing.assert_allclose(image.GetOrigin(), volume.world(np.array([place, 0, 0])), atol=1e-6)


@pytest.mark.parametrize(("form", "tilt", "even"), [("plain", 0, True), ("tilted", 14, True), ("uneven", 0, False)])
def test_read_back_it_shows_the_head(tmp_path, form, tilt, even):
    who = person(form)
    head_series.write(tmp_path, who, "a head")
    volume, facts = scans.read(tmp_path)
    assert volume.upright and facts["even"] == even and facts["tilt_degrees"] == pytest.approx(tilt, abs=0.01)
    truth = resample_to(fine(who), volume.shape, volume.affine).array
    inner = (slice(2, -2), slice(4, -4), slice(4, -4))
    assert np.corrcoef(truth[inner].ravel(), volume.array[inner].ravel())[0, 1] > 0.95


def test_a_broken_one_lacks_a_slice(tmp_path):
    head_series.write(tmp_path, person("broken"), "a head")
    with pytest.raises(Quarantine, match="missing_slice"):
        scans.read(tmp_path)
