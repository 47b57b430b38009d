from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ctfm.errors import Quarantine
from ctfm.imaging import registration
from ctfm.imaging.resample import resample_to
from ctfm.imaging.volume import Volume, orient, read_image
from ctfm.phantom import rider


@pytest.fixture(scope="module")
def trunk(shared_data):
    """Return a real scan, 112 x 101 x 122 voxels of 3 mm."""
    scan = orient(read_image(shared_data / "nifti/trunk_3mm.nii.gz"))
    return Volume(scan.array.astype(np.int16), scan.affine)


def rigid(volume, degrees, shift_mm):
    """Return a (4, 4) matrix: turned about the middle of a volume by Euler angles, then moved; made by SciPy."""
    matrix, middle = np.eye(4), volume.world((np.asarray(volume.shape) - 1) / 2)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + shift_mm
    return matrix


def repeated(volume, matrix, spacing_mm, noise_hu=20.0, slices=None):
    """Return the scan of a body that lies where ``matrix`` takes it, on a grid of its own, with noise."""
    shape = [round(n * old / new) for n, old, new in zip(volume.shape, volume.spacing, spacing_mm, strict=True)]
    shape[0] = slices or shape[0]
    affine = volume.affine.copy()
    affine[:3, :3] *= np.asarray(spacing_mm) / volume.spacing
    affine[:3, 3] += (4.0, -3.0, 5.0)
    there = resample_to(volume, tuple(shape), np.linalg.inv(matrix) @ affine)
    noise = np.random.default_rng(0).normal(0, noise_hu, shape)
    return Volume(np.rint(there.array + noise).astype(np.int16), affine)


def error_mm(volume, found, true):
    """Return how far points of the body are from where they should be, mm."""
    points = volume.world(np.argwhere(registration.body(volume))[::97])
    points = np.column_stack([points, np.ones(len(points))])
    return np.linalg.norm(points @ (found - true).T, axis=1)


@pytest.mark.parametrize(
    ("degrees", "shift", "spacing"),
    [((2, -3, 4), (7, -11, 20), (2.5, 2.7, 2.7)), ((-6, 5, 8), (-30, 25, 80), (5, 2, 2))],
)
def test_a_known_motion_of_a_real_scan_is_found_to_a_fraction_of_a_voxel(trunk, degrees, shift, spacing):
    true = rigid(trunk, degrees, shift)
    found = registration.register(trunk, repeated(trunk, true, spacing))
    assert error_mm(trunk, found.matrix, true).max() < 1.0  # a third of a voxel
    turn = Rotation.from_euler("xyz", degrees, degrees=True).magnitude()
    assert found.rotation_degrees == pytest.approx(np.degrees(turn), abs=0.3)
    assert found.ncc > 0.85 and found.ncc > found.ncc_before + 0.3 and found.metric < -0.5
    json.dumps(found.facts(), allow_nan=False)


@pytest.fixture(scope="module")
def pair():
    person = rider.Person(0, 0)
    return rider.scan(person, 0), rider.scan(person, 1)


def test_the_motion_of_a_phantom_is_found(pair):
    rng = np.random.default_rng([0, rider.STREAM, 0, 1])
    rng.uniform(), rng.integers(*rider.SLICES)  # what the writer draws before
    first, second = pair
    middle = first.world((np.asarray(first.shape) - 1) / 2)
    true = np.linalg.inv(rider.moved(rng, middle))
    found = registration.register(first, second)
    assert error_mm(first, found.matrix, true).max() < 1.0 and found.ncc > 0.98


def test_the_same_scans_give_the_same_transform_and_no_scan_is_moved_without_need(pair):
    one, again = (registration.register(*pair) for _ in range(2))
    assert one.facts() == again.facts()
    other = registration.register(*pair, seed=5)
    assert not np.array_equal(other.matrix, one.matrix) and np.allclose(other.matrix, one.matrix, atol=0.3)
    same = registration.register(pair[0], pair[0])
    assert np.array_equal(same.matrix, np.eye(4))
    assert (same.ncc, same.translation_mm, same.rotation_degrees, same.overlap) == (pytest.approx(1), 0, 0, 1)


def test_there_and_back_is_no_motion(pair):
    to, back = registration.register(*pair), registration.register(*pair[::-1])
    assert error_mm(pair[0], back.matrix @ to.matrix, np.eye(4)).max() < 1.0


def test_oblique_and_flipped_axes_change_nothing(pair):
    first, second = pair
    flipped = second.affine.copy()
    flipped[:3, 3] = second.world(np.array([0, second.shape[1] - 1, second.shape[2] - 1]))
    flipped[:3, 1:3] *= -1
    turned = Volume(np.ascontiguousarray(second.array[:, ::-1, ::-1]), flipped)
    expected = registration.register(first, second).matrix
    assert error_mm(first, registration.register(first, orient(turned)).matrix, expected).max() < 0.2
    tilt = rigid(second, (5, 0, 0), (0, 0, 0))  # the same body, scanned along other axes
    oblique = resample_to(second, second.shape, tilt @ second.affine)
    assert error_mm(first, registration.register(first, oblique).matrix, expected).max() < 1.5


def test_half_a_field_of_view_is_seen_in_the_overlap(pair):
    first, second = pair
    half = Volume(second.array[: second.shape[0] // 2], second.affine)
    found = registration.register(first, half)
    whole = registration.register(first, second)
    assert error_mm(first, found.matrix, whole.matrix).max() < 1.5
    assert 0.35 < found.overlap < 0.6 and found.overlap_back > 0.9


def test_somebody_else_correlates_less(pair):
    other = rider.scan(rider.Person(4, 0, 2, True), 1)
    assert registration.register(pair[0], other).ncc < 0.7 < registration.register(*pair).ncc


def test_scans_that_cannot_be_registered_are_told(pair):
    air = Volume(np.full((20, 30, 30), -1000, np.int16), pair[0].affine)
    with pytest.raises(Quarantine, match="no_body: the second scan"):
        registration.register(pair[0], air)
    with pytest.raises(Quarantine, match="no_body: the first scan"):
        registration.register(air, pair[0])


def test_moved_puts_the_second_scan_on_the_grid_of_the_first(trunk):
    true = rigid(trunk, (0, 0, 0), (6.0, -9.0, 12.0))  # whole voxels: 2, -3 and 4
    second = Volume(trunk.array, trunk.affine.copy())
    second.affine[:3, 3] += (6.0, -9.0, 12.0)
    back = registration.moved(second, trunk.shape, trunk.affine, true)
    assert np.array_equal(back.array, trunk.array) and np.array_equal(back.affine, trunk.affine)
    assert registration.shown(second, trunk.shape, trunk.affine, true).all()
    unmoved = registration.shown(second, trunk.shape, trunk.affine, np.eye(4))
    assert unmoved.mean() == pytest.approx(np.prod(1 - np.array([4, 3, 2]) / trunk.shape), abs=1e-6)


def test_the_middle_of_a_scan_goes_to_the_middle_of_another(pair):
    matrix = registration.centred(*pair)
    middles = [volume.world((np.asarray(volume.shape) - 1) / 2) for volume in pair]
    assert np.allclose(matrix[:3, :3] @ middles[0] + matrix[:3, 3], middles[1])


def test_the_body_is_without_its_table_and_with_its_lungs():
    _, y, x = np.indices((20, 60, 60))
    inside = (y - 28) ** 2 + (x - 30) ** 2 < 20**2
    hu = np.where(inside, 40, -1000)
    hu[(y - 28) ** 2 + (x - 30) ** 2 < 8**2] = -850
    hu[:, 52:55, 5:55] = 100
    found = registration.body(Volume(hu.astype(np.int16), np.diag([3.0, 3, 3, 1])))
    assert found[:, 28, 30].all() and not found[:, 52:55].any()
    assert found.sum() / inside.sum() == pytest.approx(1, abs=0.03)
