"""Distances of matches to organs, by hand and beside SimpleITK; the test of the published run, and why it is none."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctfm.imaging.volume import Volume, to_sitk
from ctfm.metrics import centroid
from ctfm.metrics.centroid import Found, Searched

WANTED = [
    {"name": "heart", "id": 51, "group": "cardiac"},
    {"name": "liver", "id": 5, "group": "organs"},
    {"name": "spleen", "id": 1, "group": "organs"},
]
IDS = {one["name"]: one["id"] for one in WANTED}


def rotated(degrees: float = 20, spacing=(3.0, 1.5, 2.0), flip=(1, 1, 1)) -> np.ndarray:
    """Return an affine of (z, y, x) whose axes are turned about S, and may run backwards."""
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.diag(np.multiply(spacing[::-1], flip)))[:, ::-1]
    affine[:3, 3] = (-31.0, 12.0, 210.0)
    return affine


def blobs(affine=None) -> Volume:
    array = np.zeros((12, 20, 24), np.uint8)
    array[4:8, 6:12, 8:14] = 51
    array[9:12, 15:18, 2:7] = 5  # touches the top
    return Volume(array, rotated() if affine is None else affine)


def measured(label: Volume, found, searched=None) -> dict:
    searched = searched or Searched(np.zeros((1, 3)), np.zeros(3))
    return {(r["label"], r["metric"]): r for r in centroid.rows(label, WANTED, found, searched)}


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1)])
def test_centroids_are_those_of_simpleitk(flip):
    label = blobs(rotated(flip=flip))
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(to_sitk(label))
    organs = centroid.locate(label, IDS)
    assert set(organs) == {"heart", "liver"}
    for name, organ in organs.items():
        np.testing.assert_allclose(organ.centroid_mm, shapes.GetCentroid(IDS[name]), atol=1e-6)
    assert not organs["heart"].cut and organs["liver"].cut


def test_a_match_by_hand():
    label = blobs()
    middle = label.world(np.array([5.5, 8.5, 10.5]))
    shift = np.array([20.0, 0.0, -15.0])  # 25 mm
    found = [Found("s1", "heart", middle), Found("s2", "heart", middle + shift)]
    rows = list(centroid.rows(label, WANTED[:1], found, Searched(np.array([middle]), middle)))
    value = {(r["note"], r["metric"]): r["value"] for r in rows}
    assert value["query s1", "centroid_distance_cm"] == pytest.approx(0, abs=1e-9)
    assert value["query s1", "inside"] == 1
    assert value["query s2", "centroid_distance_cm"] == pytest.approx(2.5)
    assert value["query s2", "inside"] == 0
    assert {r["group"] for r in rows} == {"cardiac"}
    assert [centroid.query_of(r["note"]) for r in rows[-2:]] == ["s2", "s2"]
    assert centroid.query_of(centroid.ABSENT) == "" and centroid.query_of("query a; cut") == "a"


def test_inside_asks_for_the_organs_own_voxel():
    """Each voxel of the map, as a match, is inside of exactly what SimpleITK finds there."""
    label = blobs()
    image = to_sitk(label)
    rng = np.random.default_rng(0)
    for index in rng.uniform((-0.4, -0.4, -0.4), np.array(label.shape) - 0.6, (200, 3)):
        point = label.world(index)
        there = image[image.TransformPhysicalPointToIndex(point.tolist())]
        rows = measured(label, [Found("q", name, point) for name in ("heart", "liver")])
        assert rows["heart", "inside"]["value"] == (there == 51)
        assert rows["liver", "inside"]["value"] == (there == 5)


def test_the_published_test_is_true_far_outside():
    label = blobs()
    corner = label.world(np.array([0, 0, 9]))  # shares its x with the heart, and is 8 cm from nothing of it
    row = measured(label, [Found("q", "heart", corner)])
    assert row["heart", "inside"]["value"] == 0 and row["heart", "inside_published"]["value"] == 1
    # the same by tensor membership, as the published run has it
    voxels = np.argwhere(label.array == 51)
    assert (voxels == np.array([0, 0, 9])).any()
    away = measured(label, [Found("q", "heart", label.world(np.array([0, 0, 0])))])
    assert away["heart", "inside_published"]["value"] == (voxels == np.array([0, 0, 0])).any() == 0


def test_a_match_outside_of_the_scan_has_a_distance_and_is_not_inside():
    label = blobs()
    place = np.array([5.0, 8.0, 30.0])
    row = measured(label, [Found("q", "heart", label.world(place))])["heart", "inside"]
    assert row["value"] == 0 and row["note"] == "query q; outside of the scan"
    far = measured(label, [Found("q", "heart", label.world(np.array([-5.0, -8.0, -3.0])))])
    assert far["heart", "inside"]["value"] == far["heart", "inside_published"]["value"] == 0
    assert far["heart", "centroid_distance_cm"]["value"] > 0


def test_bounds_are_those_of_a_plain_loop():
    label = blobs()
    rng = np.random.default_rng(1)
    centres, middle = rng.normal(100, 60, (50, 3)), np.array([1.0, 2.0, 3.0])
    truth = label.world(np.argwhere(label.array == 51).mean(0))
    away = [np.sqrt(sum((a - b) ** 2 for a, b in zip(c, truth, strict=True))) / 10 for c in centres]
    rows = measured(label, [Found("q", "heart", centres[0])], Searched(centres, middle))
    assert rows["heart", "centroid_distance_floor_cm"]["value"] == pytest.approx(min(away))
    assert rows["heart", "centroid_distance_chance_cm"]["value"] == pytest.approx(sum(away) / 50)
    assert rows["heart", "centroid_distance_middle_cm"]["value"] == pytest.approx(np.linalg.norm(truth - middle) / 10)
    assert rows["heart", "centroid_distance_cm"]["value"] == pytest.approx(away[0])


def test_what_is_absent_or_not_asked_for_is_told_and_has_no_value():
    rows = list(
        centroid.rows(blobs(), WANTED, [Found("q", "spleen", np.zeros(3))], Searched(np.ones((1, 3)), np.ones(3)))
    )
    told = {row["label"]: (row["metric"], row["note"]) for row in rows}
    assert told["spleen"] == ("centroid_distance_cm", centroid.ABSENT)
    assert told["heart"] == ("centroid_distance_cm", centroid.NOBODY)
    assert all(np.isnan(row["value"]) for row in rows) and len(rows) == 3


def test_linear_resampling_makes_hearts_of_other_organs():
    """Why labels are never interpolated: between 50 and 52 lies 51."""
    label = np.zeros((4, 4, 8), np.uint8)
    label[..., :4], label[..., 4:] = 50, 52
    image = to_sitk(Volume(label.astype(np.float32), np.diag([2.0, 2, 2, 1])[[2, 1, 0, 3]]))
    finer = sitk.Resample(image, [16, 8, 8], sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), [1.0, 1, 1])
    assert (np.rint(sitk.GetArrayFromImage(finer)) == 51).any()
    assert centroid.locate(Volume(label, np.eye(4)), {"heart": 51}) == {}
