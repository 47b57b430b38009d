"""Heads: tissues at their places, bleeds where they are told, and scans of every form at its true place."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctfm.imaging import geometry
from ctfm.imaging.resample import resample_to
from ctfm.imaging.volume import Volume, to_sitk
from ctfm.phantom import head
from ctfm.phantom.head import Head

FINE = (140, 160, 160)


def person(form="plain", finding="IPH"):
    return Head(0, form, finding, seed=5, size=1.0, ventricle=1.0, bleed_mm=18.0)


def fine(who):
    """Return the tissues of a head on a fine, straight grid."""
    affine = head.grid(1.5, pixel_mm=1.5)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(FINE) - 1) / 2
    return Volume(head.paint(who, FINE, affine), affine)


def test_half_of_the_heads_bleed_and_they_repeat():
    first, again, other = (list(head.heads(*key)) for key in ((3, 12), (3, 12), (4, 12)))
    assert first == again != other
    assert sum(bool(one.finding) for one in first) == 6
    assert [one.form for one in first[:4]] == ["tilted", "uneven", "broken", "plain"]
    assert np.array_equal(head.scan(first[3]).array, head.scan(again[3]).array)


def test_tissues_from_outside_to_inside():
    volume = fine(person(finding=""))
    right = volume.array[80, 80, 80:]  # from the falx to the left ear
    assert {-1000, -20, 1100, 500, 8, 33} <= set(np.unique(volume.array))
    order = [float(v) for v in right[np.flatnonzero(np.diff(right, prepend=0))]]
    assert order[-6:] == [8.0, 1100.0, 500.0, 1100.0, -20.0, -1000.0]
    assert volume.array.max() == 1100


@pytest.mark.parametrize("finding", head.FOUND)
def test_a_bleed_is_dense_and_within_the_skull(finding):
    ill, healthy = fine(person(finding=finding)), fine(person(finding=""))
    changed = ill.array != healthy.array
    assert 58 <= ill.array[changed].min() <= ill.array[changed].max() <= 74
    assert (healthy.array[changed] < 60).all() and (healthy.array[changed] > 0).all()
    assert changed.sum() * 1.5**3 > 1500  # mm3


@pytest.mark.parametrize("form", ["plain", "tilted"])
def test_a_scan_shows_the_head_where_it_is(form):
    """SimpleITK samples the fine head at every slice's own place: the scan differs by noise and blur alone."""
    who = person(form)
    made, truth = head.scan(who), to_sitk(fine(who))
    assert made.upright == (form == "plain")
    for place in range(4, 30, 5):
        plane = Volume(made.array[[place]], made.affine.copy())
        plane.affine[:3, 0] = np.cross(made.affine[:3, 2], made.affine[:3, 1])
        plane.affine[:3, 3] = made.world(np.array([place, 0, 0]))
        found = sitk.GetArrayFromImage(sitk.Resample(truth, to_sitk(plane), sitk.Transform(), sitk.sitkLinear, -1000.0))
        assert np.corrcoef(found.ravel(), plane.array.ravel())[0, 1] > 0.97


def test_a_tilted_scan_made_straight_shows_it_too():
    who = person("tilted")
    made, tilt = geometry.straighten(head.scan(who))
    assert tilt == pytest.approx(head.TILT_DEGREES, abs=0.01)
    truth = resample_to(fine(who), made.shape, made.affine).array

    def alike(other):
        return np.corrcoef(truth[2:-2].ravel(), other[2:-2].ravel())[0, 1]

    as_it_came = Volume(head.scan(who).array, head.grid(head.STEP_MM))  # the tilt forgotten
    assert alike(made.array) > 0.95
    assert alike(resample_to(as_it_came, made.shape, made.affine).array) < 0.9


def test_an_uneven_scan_is_thin_at_the_base():
    who = person("uneven")
    kept = head.kept_slices(who, head.scan(who).shape[0])
    steps = np.diff(kept) * head.UNEVEN_MM[0]
    assert set(steps) == set(head.UNEVEN_MM) and (np.diff(steps) >= 0).all()
