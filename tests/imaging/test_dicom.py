from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine
from ctfm.imaging import consistency, criteria, dicom
from ctfm.imaging.volume import Volume, from_sitk, orient
from tests.imaging import dicom_maker as maker

SETTINGS = Prepare(min_slices=16, max_gap_ratio=8.0)
ANY = Criteria(min_instances=1, thickness_mm=None, unique_positions=False)


def read(folder: Path) -> tuple[Volume, dict]:
    return dicom.read_series(folder, SETTINGS, ANY)


def refused(folder: Path) -> str:
    with pytest.raises(Quarantine) as caught:
        read(folder)
    assert caught.value.code in dicom.CODES
    return caught.value.code


def setting(**tags: object) -> maker.Change:
    def change(file: pydicom.Dataset, _: int) -> None:
        for key, value in tags.items():
            if value is None:
                delattr(file, key)
            else:
                setattr(file, key, value)

    return change


def sometimes(which: int, **tags: object) -> maker.Change:
    return lambda file, i: setting(**tags)(file, i) if i == which else None


def itk(folder: Path) -> Volume:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return from_sitk(reader.Execute())


def test_regular_series_comes_back_as_it_is(tmp_path: Path) -> None:
    hu = maker.body()
    volume, facts = read(maker.write(tmp_path, hu))
    assert volume.array.dtype == np.int16
    assert (volume.array == hu).all()
    assert volume.spacing == pytest.approx((2.0, 0.8, 0.9))
    assert volume.world(np.array([3, 4, 5])) == pytest.approx([-20 + 5 * 0.9, -30 + 4 * 0.8, 106])
    assert facts["slices"] == 20 and facts["even"] and facts["tilt_degrees"] == 0


@pytest.mark.parametrize("name", ["head_axial_1mm", "head_axial_5mm", "trunk_jpeg2000"])
def test_real_series_equal_simpleitk(shared_data: Path, name: str) -> None:
    folder = shared_data / "dicom" / name
    volume, reference = read(folder)[0], itk(folder)
    assert (volume.array == np.maximum(reference.array, -1024)).all()
    np.testing.assert_allclose(volume.affine, reference.affine, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "code"), [("localizer", "localizer"), ("exam_summary", "derived"), ("mr_not_ct", "not_ct")]
)
def test_real_series_that_are_no_scans(shared_data: Path, name: str, code: str) -> None:
    assert refused(shared_data / "dicom" / name) == code


@pytest.mark.parametrize(("name", "slices"), [("head_tilt_stereotaxis", 54), ("head_tilt_uneven_spacing", 28)])
def test_real_tilted_slices_keep_their_place_in_the_patient(shared_data: Path, name: str, slices: int) -> None:
    """Each pixel of each file is found where the standard's own formula (PS3.3 C.7.6.2.1.1) puts it."""
    folder = shared_data / "dicom" / name
    volume, facts = read(folder)
    assert facts["slices"] == slices
    assert facts["tilt_degrees"] == pytest.approx(18.5, abs=0.01)
    assert np.abs(volume.affine[:3, :3].T @ volume.affine[:3, :3] - np.diag(np.square(volume.spacing))).max() < 1e-6
    worst = []
    for path in sorted(folder.iterdir())[3:-3:6]:
        file = pydicom.dcmread(path)
        hu = np.maximum(file.pixel_array * file.RescaleSlope + file.RescaleIntercept, -1024)
        rows, columns = np.mgrid[100:400:7, 100:400:7].reshape(2, -1)
        axes = np.array(file.ImageOrientationPatient).reshape(2, 3)
        dy, dx = file.PixelSpacing
        world = np.array(file.ImagePositionPatient) + np.outer(columns * dx, axes[0]) + np.outer(rows * dy, axes[1])
        index = (world - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T
        worst.append(np.median(np.abs(_sample(volume.array, index) - hu[rows, columns])))
    assert max(worst) < 12  # noise that interpolation takes; a shear the wrong way gives hundreds at the skull


def _sample(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    return map_coordinates(array.astype(float), index.T, order=1, cval=-1024)


def _centres(array: np.ndarray) -> np.ndarray:
    """Return the centre of mass (row, column) of each slice."""
    mass = np.maximum(array + 1000.0, 0)
    rows, columns = np.indices(array.shape[1:])
    return np.stack([(mass * i).sum(axis=(1, 2)) / mass.sum(axis=(1, 2)) for i in (rows, columns)], axis=1)


@pytest.mark.parametrize("step", [2.5, None])
def test_tilted_rod_becomes_straight(tmp_path: Path, step: float | None) -> None:
    """A rod along the slices' normal is displaced from slice to slice in the files; not so in the volume."""
    angle = np.radians(-20)
    right, down = np.array([1.0, 0, 0]), np.array([0, np.cos(angle), np.sin(angle)])
    normal = np.cross(right, down)
    steps = np.full(23, 2.5) if step else np.random.default_rng(0).choice([1.5, 2.5, 4.0], 23)
    places = np.array([-30.0, -40, 50]) + np.concatenate([[0], steps.cumsum()])[:, None] * np.array([0, 0, 1.0])
    rows, columns = np.mgrid[:80, :64]
    foot = np.array([0.0, 0.0, 55.0])
    hu = np.full((24, 80, 64), -1000, np.int16)
    for plane, place in zip(hu, places, strict=True):
        world = place + rows[..., None] * 1.0 * down + columns[..., None] * 1.0 * right
        away = (world - foot) - ((world - foot) @ normal)[..., None] * normal
        plane += (1100 * np.exp(-np.square(away).sum(axis=-1) / (2 * 5**2))).astype(np.int16)
    raw = _centres(hu)
    assert np.ptp(raw[:, 0]) > 10  # leans in the files
    volume, facts = read(maker.write(tmp_path, hu, places, (*right, *down), (1.0, 1.0)))
    centres = _centres(volume.array)
    assert np.ptp(centres, axis=0).max() < 0.1
    assert facts["tilt_degrees"] == pytest.approx(20, abs=0.01)
    middle = volume.world(np.array([12, *centres.mean(axis=0)]))
    assert np.linalg.norm((middle - foot) - ((middle - foot) @ normal) * normal) < 0.2


def test_uneven_slices_are_interpolated_on_a_regular_grid(tmp_path: Path) -> None:
    """HU that grow linearly with height are reproduced exactly, wherever the slices lie."""
    heights = np.concatenate([np.arange(12) * 2.0, 22 + np.arange(1, 11) * 3.0])
    hu = np.broadcast_to((heights * 10 - 300)[:, None, None], (22, 8, 8)).astype(np.int16)
    hu = np.concatenate([hu, np.full((22, 8, 2), -1000, np.int16)], axis=2)
    volume, facts = read(maker.write(tmp_path, hu, np.array([0, 0, 7.0]) + heights[:, None] * [0, 0, 1]))
    z = volume.world(
        np.stack([np.arange(volume.shape[0]), 0 * np.arange(volume.shape[0]), 0 * np.arange(volume.shape[0])], 1)
    )
    np.testing.assert_allclose(volume.array[:, 3, 3], (z[:, 2] - 7) * 10 - 300, atol=0.51)
    assert not facts["even"] and facts["step_range_mm"] == pytest.approx([2, 3])
    assert z[0, 2] == pytest.approx(7) and z[-1, 2] == pytest.approx(7 + heights[-1])


@pytest.mark.parametrize(
    "orientation", [(0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (-1, 0, 0, 0, -1, 0), (0.8, 0.6, 0, -0.6, 0.8, 0)]
)
def test_any_orientation_agrees_with_simpleitk(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    normal = np.cross(orientation[:3], orientation[3:])
    places = maker.positions(18, 1.5, tuple(-normal))
    folder = maker.write(tmp_path, maker.body((18, 24, 30)), places, orientation)
    ours, reference = orient(read(folder)[0]), orient(itk(folder))
    assert (ours.array == reference.array).all()
    np.testing.assert_allclose(ours.affine, reference.affine, atol=1e-6)


def test_positions_rounded_to_a_tenth_stay_a_regular_grid(tmp_path: Path) -> None:
    places = maker.positions(30, 0.625).round(1)
    volume, facts = read(maker.write(tmp_path, maker.body((30, 16, 16)), places))
    assert facts["even"] and (volume.array == maker.body((30, 16, 16))).all()


def test_padding_becomes_air(tmp_path: Path) -> None:
    hu = maker.body()
    hu[:, 0] = -3000

    def change(file: pydicom.Dataset, i: int) -> None:
        values = np.frombuffer(file.PixelData, "<i2").reshape(32, 40).copy()
        values[0, :5] = 30000
        file.PixelData, file.PixelPaddingValue = values.tobytes(), 30000

    volume, facts = read(maker.write(tmp_path, hu, change=change))
    assert (volume.array[:, 0] == -1024).all()
    assert facts["padded_voxels"] == 20 * 5
    assert (volume.array[:, 1:] == hu[:, 1:]).all()


def test_padding_value_of_tissue_is_not_believed(tmp_path: Path) -> None:
    hu = maker.body()
    volume, facts = read(maker.write(tmp_path, hu, change=setting(PixelPaddingValue=1024)))
    assert (volume.array == hu).all() and facts["padded_voxels"] == 0


def test_slope_intercept_and_unused_bits(tmp_path: Path) -> None:
    hu = maker.body()

    def change(file: pydicom.Dataset, i: int) -> None:
        stored = np.rint((hu[i].astype(float) + 1000.5) / 0.5).astype("<u2")
        file.PixelRepresentation, file.BitsStored, file.HighBit = 0, 12, 11
        file.PixelData = (stored | 0x8000).tobytes()  # a retired overlay in the highest bit
        file.RescaleSlope, file.RescaleIntercept = 0.5, -1000.5

    volume, _ = read(maker.write(tmp_path, hu, change=change))
    assert (volume.array == hu).all()


def test_values_beyond_the_header_bits_keep_negative_signs(tmp_path: Path) -> None:
    change = setting(BitsStored=13, HighBit=12)
    hu = maker.body() - 1000
    volume, _ = read(maker.write(tmp_path, hu + 1000, change=change))
    assert (volume.array == maker.body()).all()


def test_copies_of_an_instance_are_dropped(tmp_path: Path) -> None:
    folder = maker.write(tmp_path, maker.body())
    shutil.copy(folder / "0003.dcm", folder / "copy.dcm")
    other = pydicom.dcmread(folder / "0004.dcm")
    other.Manufacturer = "another header, the same slice"
    other.save_as(folder / "edited.dcm")
    volume, facts = read(folder)
    assert volume.shape[0] == 20 and facts["copies_dropped"] == 2 and (volume.array == maker.body()).all()
    other.PixelData = other.PixelData[2:] + other.PixelData[:2]
    other.save_as(folder / "edited.dcm")
    assert refused(folder) == "duplicate_slices"


@pytest.mark.parametrize("change", [{"unique_positions": True}, {}])
def test_one_instance_at_two_places(tmp_path: Path, change: dict) -> None:
    """The paper's criterion refuses it by counting; without it the contents are compared."""
    twice = sometimes(5, SOPInstanceUID=pydicom.uid.generate_uid(entropy_srcs=["series", "6"]))
    folder = maker.write(tmp_path, maker.body(), change=twice)
    with pytest.raises(Quarantine) as caught:
        dicom.read_series(folder, SETTINGS, ANY.model_copy(update=change))
    assert caught.value.code == ("duplicate_positions" if change else "duplicate_slices")


def test_derived_axial_slices_with_geometry_are_kept(tmp_path: Path) -> None:
    folder = maker.write(tmp_path, maker.body(), change=setting(ImageType=["DERIVED", "SECONDARY", "AXIAL"]))
    assert read(folder)[1]["ImageType"] == ["DERIVED/SECONDARY/AXIAL"]


def wrapped(bits: int, intercept: int, signed: bool = False, padding: int | None = None) -> maker.Change:
    """Store HU less the intercept in so many bits: what is negative wraps around when it is read as unsigned."""

    def change(file: pydicom.Dataset, _: int) -> None:
        hu = np.frombuffer(file.PixelData, "<i2").reshape(32, 40).astype(np.int32) - 1024
        if padding is not None:
            hu[:6] = hu[-6:] = padding
        file.BitsStored, file.HighBit, file.PixelRepresentation = bits, bits - 1, int(signed)
        file.RescaleIntercept, file.PixelData = intercept, ((hu - intercept) % 2**bits).astype("<u2").tobytes()

    return change


FAULTS = {
    "not_ct": [
        setting(Modality="MR"),
        sometimes(4, Modality="PT"),
        setting(Modality=""),
        setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.481.5"),
    ],
    "localizer": [
        setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        sometimes(0, ImageType=["DERIVED", "LOCALIZER"]),
    ],
    "derived": [
        setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
        setting(SamplesPerPixel=3),
        setting(PhotometricInterpretation="RGB"),
    ],
    "multiframe": [setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1"), setting(NumberOfFrames=2)],
    "truncated": [sometimes(7, PixelData=None), sometimes(7, PixelData=b"\0" * 100)],
    "mixed_series": [sometimes(5, SeriesInstanceUID="1.2.3")],
    "no_geometry": [
        setting(ImagePositionPatient=None),
        sometimes(2, ImageOrientationPatient=None),
        setting(PixelSpacing=None),
        sometimes(2, ImagePositionPatient=[]),
        sometimes(2, ImagePositionPatient=["0", "nan", "0"]),
        setting(ImageOrientationPatient=["1", "0", "0", "0", "inf", "0"]),
        setting(PixelSpacing=[0.8]),
    ],
    "no_rescale": [setting(RescaleSlope=None), sometimes(3, RescaleIntercept=None), setting(RescaleSlope=0)],
    "mixed_geometry": [
        sometimes(5, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
        sometimes(5, PixelSpacing=[0.4, 0.4]),
        sometimes(5, Rows=16, PixelData=b"\0" * 16 * 40 * 2),
    ],
    "bad_geometry": [
        setting(ImageOrientationPatient=[1, 0, 0, 0.5, 0.9, 0]),
        setting(ImageOrientationPatient=[0] * 6),
        setting(PixelSpacing=[0, 0]),
        setting(PixelSpacing=[9, 60]),
        setting(PixelSpacing=[-0.8, 0.8]),
        sometimes(2, ImagePositionPatient=[0, 0, 1e6]),
    ],
    "duplicate_slices": [
        sometimes(5, ImagePositionPatient=[-20, -30, 108]),
        setting(ImagePositionPatient=[0, 0, 0]),
        sometimes(5, SOPInstanceUID=pydicom.uid.generate_uid(entropy_srcs=["series", "6"])),
    ],
    "implausible_hu": [
        setting(RescaleIntercept=5000),
        setting(RescaleIntercept=-2500),
        setting(RescaleSlope=60),
        setting(RescaleIntercept=40000),
        setting(PixelData=bytes(2 * 32 * 40)),  # air everywhere
        wrapped(12, 0),  # air shows as 3096 HU
        wrapped(12, -24, padding=-2000),  # padding as 2072, for it has no bits left
        wrapped(16, 0),  # air as 64536
        wrapped(16, -1024, padding=-2000),  # the sign of padding is lost
    ],
    "unreadable": [setting(BitsStored=None), setting(PixelRepresentation=2), setting(NumberOfFrames=0)],
    "too_large": [setting(Rows=65535, Columns=65535)],
}


@pytest.mark.parametrize(
    ("code", "number"), [(code, i) for code, changes in FAULTS.items() for i in range(len(changes))]
)
def test_each_fault_has_its_reason(tmp_path: Path, code: str, number: int) -> None:
    assert refused(maker.write(tmp_path, maker.body(), change=FAULTS[code][number])) == code


def test_faults_of_files(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent") == "no_files"
    folder = maker.write(tmp_path / "a", maker.body())
    content = (folder / "0004.dcm").read_bytes()
    for size, code in [(0, "empty_file"), (50, "unreadable"), (400, "truncated"), (len(content) - 200, "truncated")]:
        (folder / "0004.dcm").write_bytes(content[:size])
        assert refused(folder) == code
    (folder / "0004.dcm").write_bytes(b"hello" * 100)
    assert refused(folder) == "unreadable"


def test_every_reason_is_known_and_tested() -> None:
    text = Path(__file__).read_text()
    assert all(f'"{code}"' in text for code in dicom.CODES if code not in consistency.CODES)
    text = Path(__file__).with_name("test_consistency.py").read_text()
    assert all(f'"{code}: ' in text for code in consistency.CODES)
    assert all(f'"{code}"' in Path(__file__).with_name("test_criteria.py").read_text() for code in criteria.CODES)


def test_reasons_come_in_order(tmp_path: Path) -> None:
    """Files, then kinds, then criteria, then geometry, then pixels."""
    strict = Criteria(min_instances=51, thickness_mm=(3, 5))
    folder = maker.write(tmp_path, maker.body(), change=setting(RescaleIntercept=5000))
    faults = ["implausible_hu", "mixed_series", "too_few_slices", "not_ct", "unreadable"]
    for number, code in enumerate(faults):
        if number:
            file = pydicom.dcmread(folder / f"{number:04d}.dcm")
            if code == "mixed_series":
                file.SeriesInstanceUID = "1.2.3"
            if code == "not_ct":
                file.Modality = "MR"
            file.save_as(folder / f"{number:04d}.dcm")
            if code == "unreadable":
                (folder / "notes.txt").write_text("no file of the series")
        with pytest.raises(Quarantine) as caught:
            dicom.read_series(folder, SETTINGS, strict if number > 1 else ANY)
        assert caught.value.code == code


def test_survey_reads_no_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = maker.write(tmp_path, maker.body())
    with monkeypatch.context() as patch:
        patch.setattr(dicom.decoding, "fill", None)
        survey = dicom.survey(folder, SETTINGS, ANY)
    assert survey.regular and "padded_voxels" not in survey.facts
    assert (dicom.pixels(survey).array == maker.body()).all() and survey.facts["padded_voxels"] == 0
    tilted = maker.write(tmp_path / "tilted", maker.body(), maker.positions(20, 2.0, (0, 0.3, 1)))
    assert not dicom.survey(tilted, SETTINGS, ANY).regular


STATUS = Path("/proc/self/status")
READ = """
import sys
from pathlib import Path
from ctfm.config import Criteria, Prepare
from ctfm.imaging import criteria, dicom
volume, facts = dicom.read_series(Path(sys.argv[1]), Prepare(), Criteria())
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(volume.array.nbytes, int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from /proc")
def test_files_are_not_held_in_memory(tmp_path: Path) -> None:
    """Beyond the volume a process takes what its libraries take, however many files there are."""
    rows, columns = np.mgrid[:256, :256]
    plane = np.where((rows - 128) ** 2 + (columns - 128) ** 2 < 9000, 40, -1000)
    peaks = []
    for count in (60, 240):
        folder = maker.write(tmp_path / str(count), np.broadcast_to(plane, (count, 256, 256)))
        out = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=True)
        size, peak = map(int, out.stdout.split())
        peaks.append(peak - size)
    assert peaks[1] - peaks[0] < 8e6


def test_truncated_compressed_slice(shared_data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(shared_data / "dicom" / "trunk_jpeg2000", tmp_path / "s", copy_function=shutil.copyfile)
    broken = sorted(folder.iterdir())[5]
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    assert refused(folder) == "truncated"
    start = content.index(b"\xff\x4f\xff\x51")  # the codestream; what damage behind its header does can't be seen
    broken.write_bytes(content[:start] + bytes(200) + content[start + 200 :])
    assert refused(folder) == "unreadable"


@pytest.mark.parametrize(
    ("heights", "code"),
    [
        (np.delete(np.arange(21) * 2.0, 9), "missing_slice"),
        (np.delete(np.arange(23) * 2.0, [5, 9, 10]), "missing_slice"),
        (np.concatenate([np.arange(10) * 1.0, 50.3 + np.arange(10)]), "uneven_spacing"),
        (np.arange(20) * 200.0, "bad_geometry"),
    ],
)
def test_places_that_make_no_volume(tmp_path: Path, heights: np.ndarray, code: str) -> None:
    assert refused(maker.write(tmp_path, maker.body(), np.array([0.0, 0, 1]) * heights[:, None])) == code


def test_too_few_slices_and_too_much_tilt(tmp_path: Path) -> None:
    assert refused(maker.write(tmp_path / "few", maker.body((15, 32, 40)))) == "too_few_slices"
    steep = maker.positions(20, 2.0, (0, 1, 0.5))
    assert refused(maker.write(tmp_path / "steep", maker.body(), steep)) == "bad_geometry"
