"""Small synthetic DICOM CT series for tests: a ball and a rod of known place, and one fault at will."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Change = Callable[[FileDataset, int], None]


def body(shape: tuple[int, int, int] = (20, 32, 40), seed: int = 0) -> np.ndarray:
    """Return HU (z, y, x): noise-like soft tissue in a box of air, different in every voxel."""
    hu = np.full(shape, -1000, np.int16)
    inside = tuple(slice(n // 6, n - n // 6) for n in shape)
    hu[inside] = np.random.default_rng(seed).integers(-150, 400, hu[inside].shape)
    return hu


def positions(count: int, step: float = 2.0, direction: tuple[float, float, float] = (0, 0, 1)) -> np.ndarray:
    """Return (n, 3) positions along a direction."""
    return np.array([-20.0, -30.0, 100.0]) + np.arange(count)[:, None] * step * np.asarray(direction)


def write(
    folder: Path,
    hu: np.ndarray,
    places: np.ndarray | None = None,
    orientation: tuple[float, ...] = AXIAL,
    pixel: tuple[float, float] = (0.8, 0.9),
    change: Change | None = None,
    seed: str = "series",
) -> Path:
    """Write one series, one file per slice, named in an order that has nothing to do with their places.

    Args:
        folder: made if need be.
        hu: (n, rows, columns).
        places: (n, 3) ImagePositionPatient; 2 mm apart along z by default.
        orientation: ImageOrientationPatient.
        pixel: PixelSpacing (row, column).
        change: called with each data set and its number before it is written.
        seed: makes the unique identifiers, so that two runs write the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = positions(len(hu)) if places is None else places
    names = np.random.default_rng(1).permutation(len(hu))
    for i, (plane, place) in enumerate(zip(hu, places, strict=True)):
        file = _slice(plane, place, orientation, pixel, i, seed)
        if change:
            change(file, i)
        file.save_as(folder / f"{names[i]:04d}.dcm", enforce_file_format=True)
    return folder


def _slice(
    plane: np.ndarray, place: np.ndarray, orientation: tuple[float, ...], pixel: tuple[float, float], i: int, seed: str
) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[seed, str(i)])
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    file.SeriesInstanceUID = generate_uid(entropy_srcs=[seed])
    file.Modality, file.ImageType, file.Manufacturer = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "phantom"
    file.ImagePositionPatient = [float(f"{v:.9g}") for v in place]
    file.ImageOrientationPatient = [float(f"{v:.9g}") for v in orientation]
    file.PixelSpacing, file.SliceThickness, file.InstanceNumber = list(pixel), 2.0, i + 1
    file.Rows, file.Columns = plane.shape
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.RescaleSlope, file.RescaleIntercept = 1, -1024
    file.PixelData = (plane.astype(np.int32) + 1024).astype("<i2").tobytes()
    return file


GDCM_SYNTAXES = {
    uid.JPEGLossless: "JPEGLosslessProcess14",
    uid.JPEGLosslessSV1: "JPEGLosslessProcess14_1",
    uid.JPEGLSLossless: "JPEGLSLossless",
    uid.JPEG2000Lossless: "JPEG2000Lossless",
    uid.JPEG2000: "JPEG2000",
    uid.JPEGBaseline8Bit: "JPEGBaselineProcess1",
}


def recode(path: Path, syntax: str) -> None:
    """Write a file of 16-bit pixels anew in another transfer syntax, by gdcm, or by pydicom where gdcm has none."""
    if syntax in GDCM_SYNTAXES:
        _recode_gdcm(path, GDCM_SYNTAXES[uid.UID(syntax)])
        return
    file = pydicom.dcmread(path)
    if syntax == uid.RLELossless:
        file.compress(syntax)
        file.save_as(path)
        return
    same = pydicom.Dataset(file)
    same.file_meta = file.file_meta
    same.file_meta.TransferSyntaxUID = syntax
    little = syntax != uid.ExplicitVRBigEndian
    if not little:
        same.PixelData = np.frombuffer(file.PixelData, "<u2").byteswap().tobytes()
    implicit = syntax == uid.ImplicitVRLittleEndian
    pydicom.dcmwrite(path, same, implicit_vr=implicit, little_endian=little, enforce_file_format=True)


def _recode_gdcm(path: Path, name: str) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    packed = path.with_suffix(".packed")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(packed))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    file, other = pydicom.dcmread(path), pydicom.dcmread(packed)  # gdcm changes more than the pixels
    file.file_meta.TransferSyntaxUID = other.file_meta.TransferSyntaxUID
    file["PixelData"] = other["PixelData"]
    file.save_as(path)
    packed.unlink()
