from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

import dicom2nifti.settings as switches
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine
from ctfm.files import sha256
from ctfm.imaging import converters, dicom
from ctfm.imaging.volume import Volume, orient
from tests.imaging import dicom_maker as maker
from tests.imaging.test_frames import enhance

ANY = Criteria(min_instances=1, thickness_mm=None)
BALL = np.array([0.0, -6.0, 130.0])
ORIENTATIONS = [
    (1, 0, 0, 0, 1, 0),
    (-1, 0, 0, 0, -1, 0),
    (1, 0, 0, 0, 0, -1),
    (0, 1, 0, 0, 0, -1),
    (0, -1, 0, 1, 0, 0),
    (0.8, 0.6, 0, -0.6, 0.8, 0),
]


def settings(converter: str) -> Prepare:
    return Prepare(min_slices=16, converter=converter)


def read(folder: Path, converter: str = "auto") -> tuple[Volume, dict]:
    return converters.read(folder, settings(converter), ANY)


def check(folder: Path) -> dict:
    return converters.cross_check(folder, settings("auto"), ANY)


def stored(slope: float, intercept: float, signed: bool) -> maker.Change:
    """Store the same HU with another slope, intercept and sign."""

    def change(file: pydicom.Dataset, _: int) -> None:
        hu = np.frombuffer(file.PixelData, "<i2").astype(float) - 1024
        file.PixelRepresentation = int(signed)
        file.PixelData = np.rint((hu - intercept) / slope).astype("<i2" if signed else "<u2").tobytes()
        file.RescaleSlope, file.RescaleIntercept = slope, intercept

    return change


def uneven(folder: Path, steps: list[float]) -> Path:
    """Write smooth tissue that is sampled at uneven heights."""
    heights = np.concatenate([[0], np.cumsum(steps)])
    rows, columns = np.mgrid[:32, :40]
    waves = np.sin(heights[:, None, None] / 2.0 + rows / 5.0) * np.cos(columns / 6.0) * 300
    waves[:, :4] = -1000
    return maker.write(folder, waves.round().astype(np.int16), np.array([0, 0, 7.0]) + heights[:, None] * [0, 0, 1])


def tilted(folder: Path, degrees: float = 15) -> Path:
    """Write a soft ball around ``BALL`` (LPS mm) in slices of a tilted gantry."""
    angle = np.radians(degrees)
    right, down = np.array([1.0, 0, 0]), np.array([0, np.cos(angle), np.sin(angle)])
    places = maker.positions(20, 2.5)
    rows, columns = np.mgrid[:48, :40]
    hu = np.full((20, 48, 40), -1000.0)
    for plane, place in zip(hu, places, strict=True):
        away = place + rows[..., None] * down + columns[..., None] * right - BALL
        plane += 1100 * np.exp(-np.square(away).sum(axis=-1) / (2 * 4**2))
    return maker.write(folder, hu.round().astype(np.int16), places, (*right, *down), (1.0, 1.0))


@pytest.mark.parametrize("name", ["head_axial_1mm", "head_axial_5mm", "trunk_jpeg2000"])
def test_both_converters_agree_on_real_series(shared_data: Path, name: str) -> None:
    folder = shared_data / "dicom" / name
    found = check(folder)
    assert found["status"] == "agrees" and found["differing"] == 0 and found["max_difference_HU"] == 0
    assert found["voxels"] == read(folder, "own")[0].array.size
    volume, facts = read(folder, "dicom2nifti")
    assert facts["converter"] == "dicom2nifti" and volume.array.dtype == np.int16


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_both_agree_in_any_orientation(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    normal = np.cross(orientation[:3], orientation[3:])
    places = maker.positions(18, 1.5, tuple(-normal))
    folder = maker.write(tmp_path, maker.body((18, 24, 30)), places, orientation)
    assert check(folder) == {
        "status": "agrees",
        "voxels": 18 * 24 * 30,
        "differing": 0,
        "max_difference_HU": 0.0,
        "detail": "",
    }


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (0.5, -1000.5), (2, -2000), (1.25, 100)])
@pytest.mark.parametrize("signed", [True, False])
def test_both_agree_on_stored_values(tmp_path: Path, slope: float, intercept: float, signed: bool) -> None:
    if not signed and intercept > -1000:
        intercept = -1024
    folder = maker.write(tmp_path, maker.body(), change=stored(slope, intercept, signed))
    found = check(folder)
    assert found["status"] == "agrees" and found["max_difference_HU"] <= 1


def test_the_key_says_which_converter_reads(tmp_path: Path) -> None:
    folder = maker.write(tmp_path, maker.body())
    volumes = {}
    for key, expected in [("own", "own"), ("auto", "own"), ("dicom2nifti", "dicom2nifti")]:
        volume, facts = read(folder, key)
        assert facts["converter"] == expected and facts["converter_note"] == ""
        volumes[key] = orient(volume)
    assert (volumes["own"].array == volumes["dicom2nifti"].array).all()
    np.testing.assert_allclose(volumes["own"].affine, volumes["dicom2nifti"].affine, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "steps", "expected"),
    [("mixed", [5.0] * 20 + [1.0] * 15, "dicom2nifti"), ("random", [1.5, 4.0, 2.5, 4.0, 2.5] * 5, "own")],
)
def test_auto_keeps_what_is_nearer_to_the_slices(tmp_path: Path, name: str, steps: list[float], expected: str) -> None:
    """Measured here at other pixels, and with NumPy's interpolation along the slices' normal alone."""
    folder = uneven(tmp_path, steps)
    facts = read(folder)[1]
    assert facts["converter"] == expected and "root mean square" in facts["converter_note"]
    errors = {}
    for key in ("own", "dicom2nifti"):
        candidate = orient(read(folder, key)[0])
        z = candidate.affine[2, 0] * np.arange(candidate.shape[0]) + candidate.affine[2, 3]
        errors[key] = 0.0
        for path in folder.iterdir():
            file = pydicom.dcmread(path)
            hu = file.pixel_array[17, 11] - 1024.0
            found = np.interp(file.ImagePositionPatient[2], z, candidate.array[:, 17, 11].astype(float))
            errors[key] += (found - hu) ** 2
    assert min(errors, key=errors.__getitem__) == expected


def test_both_converters_put_a_tilted_ball_at_its_place(tmp_path: Path) -> None:
    folder = tilted(tmp_path)
    for key in ("own", "dicom2nifti"):
        volume, facts = read(folder, key)
        assert facts["converter"] == key
        axes = volume.affine[:3, :3] / volume.spacing
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
        mass = np.maximum(volume.array + 990.0, 0)
        centre = [np.average(index, weights=mass) for index in np.indices(volume.shape)]
        assert np.linalg.norm(volume.world(np.array(centre)) - BALL) < 0.1, key


@pytest.mark.parametrize("name", ["head_tilt_stereotaxis", "head_tilt_uneven_spacing"])
def test_auto_on_real_tilted_series(shared_data: Path, name: str) -> None:
    """Our own stays nearer to the slices there: it doesn't interpolate across planes."""
    volume, facts = read(shared_data / "dicom" / name)
    assert facts["converter"] == "own" and "dicom2nifti is off by" in facts["converter_note"]
    assert volume.array.min() >= -1024


def test_series_that_cant_be_judged_stay_with_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str) -> None:
        raise RuntimeError(f"{path}: unknown compression")

    monkeypatch.setattr(sitk, "ReadImage", fails)
    facts = read(uneven(tmp_path, [5.0] * 20 + [1.0] * 15))[1]
    assert facts["converter"] == "own" and "can't be judged" in facts["converter_note"]


def test_misfit_knows_a_displacement(tmp_path: Path) -> None:
    folder = maker.write(tmp_path, maker.body())
    volume, _ = read(folder, "own")
    files = dicom.series_files(folder)
    assert converters.misfit(volume, files) == 0
    moved = volume.affine.copy()
    moved[2, 3] += 2.0
    assert converters.misfit(Volume(volume.array, moved), files) > 100


REFUSED = {
    "AttributeError": lambda file, i: file.__delattr__("InstanceNumber"),
    "padding": lambda file, i: setattr(file, "PixelPaddingValue", 30000),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusal_falls_back_to_our_own_with_a_note(tmp_path: Path, reason: str) -> None:
    folder = maker.write(tmp_path, maker.body(), change=REFUSED[reason])
    volume, facts = read(folder, "dicom2nifti")
    assert (volume.array == maker.body()).all()
    assert facts["converter"] == "own" and reason in facts["converter_note"]
    found = check(folder)
    assert found["status"] == "refused" and reason in found["detail"]


@pytest.mark.parametrize("converter", ["own", "auto", "dicom2nifti"])
def test_several_frames_in_a_file_are_never_left_to_dicom2nifti(tmp_path: Path, converter: str) -> None:
    """It would forget the shared rescale: all values 1024 HU too high."""
    folder = enhance(maker.write(tmp_path / "single", maker.body()), tmp_path / "many")
    volume, facts = read(folder, converter)
    assert facts["converter"] == "own" and (volume.array == maker.body()).all()
    assert ("shared rescale" in facts["converter_note"]) == (converter == "dicom2nifti")
    assert check(folder)["status"] == "refused"


def test_small_unevenness_is_not_taken_for_even(tmp_path: Path) -> None:
    """dicom2nifti tolerates distances of 5 and 5.3 mm and would put slices millimetres off."""
    folder = uneven(tmp_path, [5.0] * 15 + [5.3] * 15)
    facts = read(folder, "dicom2nifti")[1]
    assert facts["converter"] == "own" and "even" in facts["converter_note"]


def test_large_series_spare_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converters, "ROOM", 1000)
    assert "memory" in read(tilted(tmp_path))[1]["converter_note"]


def test_irregular_series_are_not_cross_checked(tmp_path: Path) -> None:
    found = check(tilted(tmp_path))
    assert found["status"] == "refused" and found["detail"].startswith("irregular: ")


def test_padding_is_left_out_of_the_comparison(tmp_path: Path) -> None:
    def change(file: pydicom.Dataset, _: int) -> None:
        values = np.frombuffer(file.PixelData, "<i2").reshape(32, 40).copy()
        values[0, :5] = 40
        file.PixelData, file.PixelPaddingValue = values.tobytes(), 40  # -984 HU: air to one, padding to the other

    found = check(maker.write(tmp_path, maker.body(), change=change))
    assert found["status"] == "agrees" and found["voxels"] == 20 * (32 * 40 - 5)


def test_a_planted_disagreement_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = maker.write(tmp_path, maker.body())
    right = dicom.pixels

    def wrong(survey: dicom.Survey) -> Volume:
        volume = right(survey)
        volume.array[3, 4, 5] += 2
        volume.array[6, 7, 8] -= 300
        return volume

    monkeypatch.setattr(dicom, "pixels", wrong)
    found = check(folder)
    assert found["status"] == "differs" and found["differing"] == 2 and found["max_difference_HU"] == 300


def test_compare_sees_places_and_shapes() -> None:
    volume = Volume(maker.body(), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 0.5
    assert "0.500 mm" in converters.compare(volume, Volume(volume.array, moved), False)["detail"]
    assert converters.compare(volume, Volume(volume.array[1:], np.eye(4)), False)["status"] == "differs"
    close = Volume(volume.array + np.int16(1), np.eye(4))
    assert converters.compare(volume, close, False)["status"] == "agrees"  # rounding


def test_nothing_is_left_behind_and_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    voice = logging.getLogger("dicom2nifti")
    voice.setLevel(logging.INFO)
    monkeypatch.setattr(switches, "resample_padding", 7)
    before = {name: value for name, value in vars(switches).items() if not callable(value)}
    for name, folder in [
        ("even", maker.write(tmp_path / "even", maker.body())),
        ("tilted", tilted(tmp_path / "tilted")),
        ("refused", maker.write(tmp_path / "refused", maker.body(), change=REFUSED["AttributeError"])),
    ]:
        files = {path.name: sha256(path) for path in folder.iterdir()}
        read(folder, "dicom2nifti")
        assert {path.name: sha256(path) for path in folder.iterdir()} == files, name
        assert not list(temporary.iterdir()), name
        assert {key: value for key, value in vars(switches).items() if not callable(value)} == before, name
        assert voice.level == logging.INFO, name


FAULTS = {
    "not_ct": lambda file, i: setattr(file, "Modality", "MR"),
    "localizer": lambda file, i: setattr(file, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "no_geometry": lambda file, i: file.__delattr__("PixelSpacing"),
    "no_rescale": lambda file, i: file.__delattr__("RescaleSlope"),
    "duplicate_positions": lambda file, i: setattr(file, "ImagePositionPatient", [0, 0, 2 * (i // 2)]),
    "implausible_hu": lambda file, i: setattr(file, "RescaleIntercept", 5000),
}


@pytest.mark.parametrize("code", FAULTS)
def test_bad_input_has_the_same_reason_whoever_reads(tmp_path: Path, code: str) -> None:
    folder = maker.write(tmp_path, maker.body(), change=FAULTS[code])
    for key in ("own", "auto", "dicom2nifti"):
        with pytest.raises(Quarantine) as caught:
            read(folder, key)
        assert caught.value.code == code


def test_missing_and_broken_files(tmp_path: Path) -> None:
    folder = maker.write(tmp_path / "a", maker.body())
    (folder / "0004.dcm").write_bytes((folder / "0004.dcm").read_bytes()[:-200])
    for place, code in [(folder, "truncated"), (tmp_path / "absent", "no_files")]:
        for key in ("own", "auto", "dicom2nifti"):
            with pytest.raises(Quarantine) as caught:
                read(place, key)
            assert caught.value.code == code


def test_copies_of_an_instance_count_once(tmp_path: Path) -> None:
    folder = maker.write(tmp_path, maker.body())
    shutil.copy(folder / "0003.dcm", folder / "copy.dcm")
    volume, facts = read(folder, "dicom2nifti")
    assert facts["converter"] == "dicom2nifti" and volume.shape[0] == 20


def test_the_sample_depends_on_nothing_but_seed_and_names() -> None:
    uids = [f"1.2.{i}" for i in range(50)]
    chosen = converters.sample(uids, 3, seed=0)
    assert len(set(chosen)) == 3 and set(chosen) <= set(uids)
    assert converters.sample(reversed(uids), 3, seed=0) == chosen
    assert converters.sample(uids, 3, seed=1) != chosen
    assert converters.sample(uids, 0, seed=0) == [] and len(converters.sample(uids[:2], 5, seed=0)) == 2
