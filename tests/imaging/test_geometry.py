from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ctfm.errors import Quarantine
from ctfm.imaging import geometry
from ctfm.imaging.volume import Volume

SLOPE = np.array([3.0, -2.0, 4.0])  # HU per mm along (L, P, S)
PIXEL = (0.8, 1.1)


def scene(offsets: np.ndarray, seed: int) -> tuple[geometry.Stack, np.ndarray]:
    """Slices of a field that is linear in the world, displaced by ``offsets`` (n, 3: right, down, normal; mm)."""
    axes = Rotation.random(random_state=seed).as_matrix()
    places = np.array([10.0, -20, 30]) + offsets @ axes.T
    slices = geometry.stack(places, np.concatenate([axes[:, 0], axes[:, 1]]), PIXEL)
    rows, columns = np.mgrid[:12, :14]
    plane = rows[..., None] * PIXEL[0] * axes[:, 1] + columns[..., None] * PIXEL[1] * axes[:, 0]
    array = np.array([np.rint((plane + place) @ SLOPE) for place in places[slices.order]], dtype=np.int16)
    return slices, array


OFFSETS = {
    "regular": np.stack([np.zeros(9), np.zeros(9), np.arange(9) * 2.0], 1),
    "tilted": np.stack([np.zeros(9), np.arange(9) * 0.7, np.arange(9) * 2.0], 1),
    "tilted backwards": np.stack([np.zeros(9), -np.arange(9) * 0.7, np.arange(9) * 2.0], 1),
    "moved sideways": np.stack([[0, 0, 0, 1.3, 1.3, -2, -2, 0, 0], np.zeros(9), np.arange(9) * 2.0], 1),
    "uneven and tilted": np.stack([np.arange(9) * -0.3, np.arange(9) * 0.5, np.cumsum([0, 2, 2, 2, 3, 3, 3, 1, 2])], 1),
}


@pytest.mark.parametrize("name", OFFSETS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_linear_field_stays_where_it_is(name: str, seed: int) -> None:
    """Linear interpolation is exact on a linear field, so every voxel's value tells where it truly lies."""
    offsets = np.random.default_rng(seed).permutation(OFFSETS[name])
    slices, array = scene(offsets, seed)
    geometry.check(slices, (12, 14), 8.0)
    volume = geometry.assemble(array, slices)
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    low, high = np.floor(slices.shifts.min(axis=0)), slices.shifts.max(axis=0)
    start, stop = np.ceil(high - low).astype(int), np.floor(slices.shifts.min(axis=0) - low + [11, 13]).astype(int)
    common = (slice(None), slice(start[0], stop[0] + 1), slice(start[1], stop[1] + 1))  # where every slice reaches
    assert volume.array[common].size >= 9 * 4 * 9
    assert np.abs(volume.array - volume.world(index) @ SLOPE)[common].max() <= 1.0
    gram = volume.affine[:3, :3].T @ volume.affine[:3, :3]
    np.testing.assert_allclose(gram, np.diag(np.square(volume.spacing)), atol=1e-9)


def test_regular_slices_are_not_copied_and_sorted_by_place() -> None:
    slices, array = scene(OFFSETS["regular"][::-1], 0)
    assert slices.order.tolist() == list(range(9))[::-1]
    assert geometry.assemble(array, slices).array is array
    assert slices.even and slices.straight and slices.tilt_degrees == pytest.approx(0, abs=1e-6)


def test_no_slice_is_cut_off() -> None:
    slices, array = scene(OFFSETS["tilted"], 0)
    volume = geometry.assemble(array, slices)
    assert volume.shape == (9, 12 + 7, 14)  # 5.6 mm are 7 pixels
    assert slices.tilt_degrees == pytest.approx(np.degrees(np.arctan(0.35)))
    assert (volume.array[4, :3] == -1024).all()


@pytest.mark.parametrize(
    ("heights", "ratio", "code"),
    [
        ([0, 1, 2, 2, 3, 4], 8, "duplicate_slices"),
        ([0, 1, 2, 4, 5, 6], 8, "missing_slice"),
        ([0, 1, 2, 5, 6, 7], 8, "missing_slice"),
        ([0, 1, 2, 4.5, 5.5, 6.5], 2, "uneven_spacing"),
        ([0, 1, 2, 4.5, 5.5, 6.5], 8, None),
        ([*range(17), 18, 20, 22], 8, None),  # thin at the base of the skull, thick above
        ([*range(17), 18, 20, 23], 8, "missing_slice"),
        ([*range(17), 18, 20], 8, "missing_slice"),
        ([*range(8), 9, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22], 8, "missing_slice"),
        ([0, 1, 2, 3, 5, 7, 9, 11], 8, None),  # two parts of a protocol, nothing is lost
        ([0, 600, 1200, 1800, 2400, 3000, 3600], 8, "bad_geometry"),
    ],
)
def test_distances(heights: list[float], ratio: float, code: str | None) -> None:
    slices, _ = scene(np.array(heights)[:, None] * [0, 0, 1.0], 3)
    if code is None:
        geometry.check(slices, (12, 14), ratio)
        return
    with pytest.raises(Quarantine) as caught:
        geometry.check(slices, (12, 14), ratio)
    assert caught.value.code == code


def test_directions_that_are_none() -> None:
    places = np.arange(9).reshape(3, 3).astype(float)
    for orientation, pixel in [
        ([1, 0, 0, 1, 0, 0], PIXEL),
        ([0] * 6, PIXEL),
        ([2, 0, 0, 0, 2, 0], PIXEL),
        ([1, 0, 0, 0, 1, np.nan], PIXEL),
        ([1, 0, 0, 0, 1, 0], (0.0, 1.0)),
        ([1, 0, 0, 0, 1, 0], (1.0, 100.0)),
    ]:
        with pytest.raises(Quarantine) as caught:
            geometry.stack(places, np.array(orientation, dtype=float), pixel)
        assert caught.value.code == "bad_geometry"


def test_places_and_grids_beyond_memory() -> None:
    far = np.array([[0.0, 0, 0], [0, 0, 2e5]])
    with pytest.raises(Quarantine, match="bad_geometry"):
        geometry.stack(far, np.array([1.0, 0, 0, 0, 1, 0]), PIXEL)
    places = np.arange(40)[:, None] * [0, 0, 2.0]
    fine = geometry.stack(places, np.array([1.0, 0, 0, 0, 1, 0]), (0.01, 0.01))
    with pytest.raises(Quarantine, match="too_large"):
        geometry.check(fine, (20000, 20000), 8.0)
    places[7] += [300.0, 0, 0]  # one slice far aside: the field of view would grow by 30000 pixels
    moved = geometry.stack(places, np.array([1.0, 0, 0, 0, 1, 0]), (0.01, 0.01))
    assert moved.grid((2000, 2000)) == (40, 2000, 32000)
    with pytest.raises(Quarantine, match="too_large"):
        geometry.check(moved, (2000, 2000), 8.0)


@pytest.mark.parametrize("name", OFFSETS)
def test_the_grid_is_foretold(name: str) -> None:
    slices, array = scene(OFFSETS[name], 0)
    assert geometry.assemble(array, slices).shape == slices.grid((12, 14))


def sheared(order: tuple[int, int, int], tilt: float = 0.35) -> Volume:
    """A volume of a linear field, sheared as by a tilted gantry, its axes in some order."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1.1], [0, 0.8, 0], [2.0, 0, 0]])  # columns: slices, rows, columns; LPS
    affine[1, 0] = -tilt * 2.0
    affine[:3, 3] = 10, -20, 30
    index = np.stack(np.meshgrid(*map(np.arange, (9, 14, 12)), indexing="ij"), axis=-1)
    array = np.rint(Volume(np.empty((9, 14, 12)), affine).world(index) @ SLOPE).astype(np.int16)
    return Volume(array.transpose(order), affine[:, [*order, 3]])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_sheared_volume_becomes_straight_and_stays_where_it_is(order):
    volume = sheared(order)
    made, tilt = geometry.straighten(volume)
    assert not volume.upright and made.upright
    assert tilt == pytest.approx(np.degrees(np.arctan(0.35)))
    index = np.stack(np.meshgrid(*map(np.arange, made.shape), indexing="ij"), axis=-1)
    seen = made.array > -1024
    inside = np.all([np.roll(seen, step, axis) for step in (-1, 1) for axis in (1, 2)], axis=0)  # no rim mixed with air
    assert inside.sum() > 0.6 * volume.array.size
    assert np.abs(made.array - made.world(index) @ SLOPE)[inside].max() <= 1.0
    assert geometry.straighten(made) == (made, 0.0)


def test_shears_that_no_gantry_makes_are_refused():
    volume = sheared((0, 1, 2), tilt=1.5)
    with pytest.raises(Quarantine, match=r"bad_geometry.*degrees"):
        geometry.straighten(volume)
    skew = volume.affine.copy()
    skew[0, 0] = skew[0, 1] = 0.5
    with pytest.raises(Quarantine, match="no two axes"):
        geometry.straighten(Volume(volume.array, skew))
