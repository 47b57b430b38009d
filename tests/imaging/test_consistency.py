"""Faults of one file in a series, which only its neighbours betray; and what must not be taken for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine
from ctfm.imaging import dicom
from tests.imaging import dicom_maker as maker

ANY = Criteria(min_instances=1, thickness_mm=None)
SHAPE = (20, 32, 40)


def noisy(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Return HU in which all of the air varies."""
    hu = maker.body(shape)
    return np.where(hu == -1000, np.random.default_rng(5).integers(-1015, -985, shape), hu).astype(np.int16)


def located(file: pydicom.Dataset, number: int) -> None:
    file.SliceLocation = -2.0 * number  # it falls as the positions rise, as for a patient who lies feet first


def reason(folder: Path, change: maker.Change, hu: np.ndarray | None = None) -> str:
    """Write a series with a change to each file, read it, and return why it is refused; nothing if it is not."""
    maker.write(folder, noisy() if hu is None else hu, change=change)
    try:
        dicom.read_series(folder, Prepare(min_slices=2), ANY)
    except Quarantine as fault:
        return str(fault)
    return ""


def at(*numbers: int, **tags: object) -> maker.Change:
    """Set tags of some slices; a callable makes the value of the number."""

    def change(file: pydicom.Dataset, number: int) -> None:
        located(file, number)
        if number in numbers:
            for key, value in tags.items():
                setattr(file, key, value(number) if callable(value) else value)

    return change


def position(number: int) -> list[float]:
    return maker.positions(SHAPE[0])[number].tolist()


SWAPPED: Callable[[int], list[float]] = lambda number: position({3: 11, 11: 3}[number])  # noqa: E731


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (at(), ""),
        (at(3, 11, ImagePositionPatient=SWAPPED), "misplaced_slices: 2 of 20 slices"),
        (at(3, 11, SliceLocation=lambda n: -22.0 if n == 3 else -6.0), "misplaced_slices: 2 of 20 slices"),
        (at(5, SliceLocation=""), ""),
        (at(*range(20), SliceLocation=0.0), ""),
        (at(*range(20), SliceLocation=lambda n: float(n * 7 % 20)), ""),  # counts something else
        (at(*range(10, 20), SliceLocation=lambda n: -2.0 * (n - 10)), ""),  # of two scans, each from its own zero
        (at(7, RescaleIntercept=0), "mixed_rescale: "),
        (at(7, RescaleSlope=2), "mixed_rescale: "),
        (at(0, RescaleIntercept=-2048), "implausible_hu: "),
        (at(7, RescaleIntercept=-1014), ""),
        (at(*range(20), RescaleIntercept=-3024), "implausible_hu: "),
        (at(4, PhotometricInterpretation="RGB"), "derived: "),
        (at(4, PhotometricInterpretation="MONOCHROME1"), ""),  # shown black on white; the values are the same
        (at(*range(20), BitsStored=15), "unreadable: "),  # and HighBit 15: the lowest bit would be none
        (at(*range(20), BitsStored=15, HighBit=14), ""),
    ],
)
def test_what_neighbours_tell(tmp_path: Path, change: maker.Change, code: str) -> None:
    found = reason(tmp_path / "s", change)
    assert found.startswith(code) if code else not found


def test_slices_that_each_have_their_own_rescale_are_read(tmp_path: Path) -> None:
    """The values that are stored differ so that the HU are right."""

    def change(file: pydicom.Dataset, number: int) -> None:
        stored = np.frombuffer(file.PixelData, "<i2") - 1024
        file.RescaleIntercept = -1024 - 50 * number
        file.PixelData = (stored - int(file.RescaleIntercept)).astype("<i2").tobytes()

    assert not reason(tmp_path / "s", change)


@pytest.mark.parametrize(("slices", "rows"), [((9,), 20), ((9,), 32), ((4, 5, 6, 12), 32)])
def test_lost_pixels_are_noticed(tmp_path: Path, slices: tuple[int, ...], rows: int) -> None:
    hu = noisy()
    hu[slices, -rows:] = -1024
    assert reason(tmp_path / "s", located, hu).startswith("truncated: ")


def test_empty_rows_that_neighbours_share_are_no_loss(tmp_path: Path) -> None:
    hu = noisy()
    hu[:5, -12:] = -1024  # a field of view that begins later
    hu[:2] = -1024  # slices of nothing at an end
    hu[10:12, -1:] = -1024
    hu[15, -1:] = -1024
    assert not reason(tmp_path / "s", located, hu)


def test_clean_air_is_no_loss(tmp_path: Path) -> None:
    """Of denoised air some slices hold specks and some do not."""
    hu = maker.body(SHAPE)
    hu[::2, -3:, ::7] = -990
    assert not reason(tmp_path / "s", located, hu)


def test_padding_far_below_air_is_no_wrong_rescale(tmp_path: Path) -> None:
    hu = noisy()
    hu[:, :, :14] = -2000
    hu[:, :, -8:] = -3000
    assert not reason(tmp_path / "s", located, hu)
