from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid
from pydicom.dataset import Dataset

from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine
from ctfm.imaging import dicom, frames, headers
from ctfm.imaging.volume import Volume, from_sitk, orient
from tests.imaging import dicom_maker as maker

ANY = Criteria(min_instances=1, thickness_mm=None)
HU = maker.body((20, 32, 40))
SHARED = {"orientation", "measures", "rescale", "type"}


def group(**values: Any) -> list[Dataset]:
    """Return a sequence of one item."""
    item = Dataset()
    for key, value in values.items():
        setattr(item, key, value)
    return [item]


def functional(file: Dataset, kinds: set[str]) -> Dataset:
    """Return an item with the functional groups of an ordinary slice."""
    item = Dataset()
    if "position" in kinds:
        item.PlanePositionSequence = group(ImagePositionPatient=file.ImagePositionPatient)
    if "orientation" in kinds:
        item.PlaneOrientationSequence = group(ImageOrientationPatient=file.ImageOrientationPatient)
    if "measures" in kinds:
        item.PixelMeasuresSequence = group(PixelSpacing=file.PixelSpacing, SliceThickness=file.SliceThickness)
    if "rescale" in kinds:
        item.PixelValueTransformationSequence = group(
            RescaleSlope=file.RescaleSlope, RescaleIntercept=file.RescaleIntercept, RescaleType="HU"
        )
    if "type" in kinds:
        item.CTImageFrameTypeSequence = group(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    return item


def enhance(
    folder: Path,
    out: Path,
    shared: set[str] = SHARED,
    files: int = 1,
    sop_class: str = frames.ENHANCED_CLASSES[0],
    change: Callable[[Dataset], object] | None = None,
) -> Path:
    """Write the slices of a folder anew as multi-frame objects, in the order of their (random) names."""
    out.mkdir()
    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    for number, part in enumerate(np.array_split(np.arange(len(slices)), files)):
        some = [slices[i] for i in part]
        whole = pydicom.dcmread(sorted(folder.iterdir())[0])
        for key in (*frames.NEEDED, "SliceThickness", "InstanceNumber", "ImageType"):
            del whole[key]
        whole.SOPClassUID, whole.NumberOfFrames = sop_class, len(some)
        whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        whole.file_meta.MediaStorageSOPClassUID = sop_class
        whole.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        whole.SharedFunctionalGroupsSequence = [functional(some[0], shared)]
        own = (SHARED | {"position"}) - shared
        whole.PerFrameFunctionalGroupsSequence = [functional(file, own) for file in some]
        whole.PixelData = b"".join(file.PixelData for file in some)
        if change:
            change(whole)
        whole.save_as(out / f"{number}.dcm")
    return out


def read(folder: Path, criteria: Criteria = ANY) -> tuple[Volume, dict]:
    return dicom.read_series(folder, Prepare(min_slices=2), criteria)


def same(folder: Path, other: Path) -> dict:
    """Both folders hold the same scan; return the facts of the other one."""
    expected, facts = read(folder)
    volume, told = read(other)
    assert (volume.array == expected.array).all()
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-9)
    for key in ("slices", "spacing_mm", "thickness_mm", "num_instances", "position_count", "slice_thickness_min"):
        assert told[key] == facts[key], key
    return told


@pytest.mark.parametrize("shared", [SHARED, set(), {"orientation", "rescale"}])
@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("sop_class", frames.ENHANCED_CLASSES)
def test_enhanced_ct_is_the_same_scan(tmp_path: Path, shared: set[str], files: int, sop_class: str) -> None:
    folder = maker.write(tmp_path / "single", HU)
    told = same(folder, enhance(folder, tmp_path / "multi", shared, files, sop_class))
    assert told["ImageType"] == ["ORIGINAL/PRIMARY/VOLUME/NONE"] and told["has_localizer"] == "false"


def test_enhanced_ct_agrees_with_simpleitk(tmp_path: Path) -> None:
    """ITK reads it only when frames lie in ascending order, one rescale and one spacing are shared."""
    places = maker.positions(20, 2.0)
    folder = maker.write(tmp_path / "single", HU, places)
    order = np.argsort([pydicom.dcmread(path).ImagePositionPatient[2] for path in sorted(folder.iterdir())])
    sorted_folder = tmp_path / "sorted"
    sorted_folder.mkdir()
    paths = sorted(folder.iterdir())
    for number, i in enumerate(order):
        (sorted_folder / f"{number:04d}.dcm").write_bytes(paths[i].read_bytes())
    multi = enhance(sorted_folder, tmp_path / "multi")
    reference = orient(from_sitk(sitk.ReadImage(str(multi / "0.dcm"))))
    volume = orient(read(multi)[0])
    assert (volume.array == np.maximum(reference.array, -1024)).all()
    np.testing.assert_allclose(volume.affine, reference.affine, atol=1e-4)


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEG2000Lossless,
        uid.JPEGLSLossless,
        uid.JPEGLosslessSV1,
    ],
    ids=lambda s: uid.UID(s).name,
)
def test_compressed_frames(tmp_path: Path, syntax: str) -> None:
    folder = maker.write(tmp_path / "single", HU)
    multi = enhance(folder, tmp_path / "multi", files=2)
    for path in multi.iterdir():
        maker.recode(path, syntax)
    assert same(folder, multi)["TransferSyntax"] == syntax


def test_each_frame_has_its_own_rescale_and_place(tmp_path: Path) -> None:
    """Rescale differs from frame to frame, slices are tilted, and one slice is thicker."""

    def change(file: Dataset, i: int) -> None:
        file.RescaleIntercept = -1024 - i
        file.PixelData = (HU[i].astype(np.int32) + 1024 + i).astype("<i2").tobytes()
        file.SliceThickness = 3 if i == 4 else 2

    places = maker.positions(20, 2.0, (0, 0.2, 1))
    folder = maker.write(tmp_path / "single", HU, places, change=change)
    told = same(folder, enhance(folder, tmp_path / "multi", set()))
    assert told["tilt_degrees"] > 11 and told["slice_thickness_max"] == 3


def test_frames_of_undefined_length(tmp_path: Path) -> None:
    def change(file: Dataset) -> None:
        for key in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            file[key].is_undefined_length = True
            for item in file[key].value:
                item.is_undefined_length_sequence_item = True

    folder = maker.write(tmp_path / "single", HU)
    same(folder, enhance(folder, tmp_path / "multi", change=change))


def test_frames_count_as_instances(tmp_path: Path) -> None:
    multi = enhance(maker.write(tmp_path / "single", maker.body((51, 8, 8))), tmp_path / "multi")
    assert read(multi, Criteria())[1]["num_instances"] == 51
    with pytest.raises(Quarantine, match="num_instances > 51: 51"):
        read(multi, Criteria(min_instances=52))


def lacking(key: str) -> Callable[[Dataset], object]:
    def change(file: Dataset) -> None:
        for item in (*file.SharedFunctionalGroupsSequence, *file.PerFrameFunctionalGroupsSequence):
            for sequence in [element.keyword for element in item]:
                if key in item[sequence].value[0]:
                    del item[sequence].value[0][key]

    return change


def phases(file: Dataset) -> None:
    places = [item.PlanePositionSequence[0] for item in file.PerFrameFunctionalGroupsSequence]
    for i, place in enumerate(places):
        place.ImagePositionPatient = places[i - i % 2].ImagePositionPatient


def scout(file: Dataset) -> None:
    file.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


FAULTS: dict[str, tuple[str, Callable[[Dataset], object], str]] = {
    **{key: ("multiframe", lacking(key), f"no {key} \\({group}\\)") for key, group in frames.NEEDED.items()},
    "no groups": ("multiframe", lambda file: file.pop("PerFrameFunctionalGroupsSequence"), "groups of 0"),
    "too few groups": ("multiframe", lambda file: file.PerFrameFunctionalGroupsSequence.pop(), "20 frames, .* of 19"),
    "more frames than groups": ("multiframe", lambda file: setattr(file, "NumberOfFrames", 10**9), "of 20"),
    "phases": ("multiframe", phases, "20 frames at 10 places: several phases"),
    "scout": ("localizer", scout, "has_localizer = false: true|LOCALIZER"),
    "zero frames": ("unreadable", lambda file: setattr(file, "NumberOfFrames", 0), "NumberOfFrames is '0'"),
    "pixels cut": ("truncated", lambda file: setattr(file, "PixelData", file.PixelData[:-4000]), "fewer than"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_says_what_lacks(tmp_path: Path, name: str) -> None:
    code, change, text = FAULTS[name]
    with pytest.raises(Quarantine, match=text) as caught:
        read(enhance(maker.write(tmp_path / "single", HU), tmp_path / "multi", change=change))
    assert caught.value.code == code


def test_rescale_may_stand_at_the_top(tmp_path: Path) -> None:
    def change(file: Dataset) -> None:
        del file.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        file.RescaleSlope, file.RescaleIntercept = 1, -1024

    folder = maker.write(tmp_path / "single", HU)
    same(folder, enhance(folder, tmp_path / "multi", change=change))


def test_phases_in_several_files(tmp_path: Path) -> None:
    folder = maker.write(tmp_path / "single", HU)
    multi = enhance(folder, tmp_path / "multi")
    second = pydicom.dcmread(multi / "0.dcm")
    second.SOPInstanceUID = "1.2.3.99"
    second.save_as(multi / "1.dcm")
    for criteria, code in [(ANY, "duplicate_positions"), (ANY.model_copy(update={"unique_positions": False}), None)]:
        with pytest.raises(Quarantine) as caught:
            read(multi, criteria)
        assert caught.value.code == (code or "duplicate_slices")


def test_an_ordinary_file_is_one_frame(tmp_path: Path) -> None:
    path = next(maker.write(tmp_path, HU[:1]).iterdir())
    (frame,) = frames.of(headers.read(path))
    assert frame.name == path.name and frame.index == 0
    assert frame.numbers("PixelSpacing") == (0.8, 0.9) and frame.texts("PixelSpacing") == ("0.8", "0.9")
    assert frame.numbers("KVP") == ()
