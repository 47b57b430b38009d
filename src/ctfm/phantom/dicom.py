"""A DICOM corpus of phantoms: CT Image Storage, one folder a series; some series have a fault, each a known one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from ctfm.files import atomic, ensure_folder
from ctfm.imaging.volume import Volume
from ctfm.phantom import anatomy, scanner
from ctfm.phantom.anatomy import Region
from ctfm.phantom.shapes import turned

STREAM = 2
THICKNESS_MM = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
# How the patient lies: position, direction of slices, rows and columns against (S, P, L), pitch in degrees.
ARRANGEMENTS = (
    ("HFS", (-1, 1, 1), 0.0),
    ("HFS", (1, 1, 1), 0.0),
    ("FFS", (1, 1, -1), 0.0),
    ("HFP", (-1, -1, -1), 0.0),
    ("HFS", (-1, 1, 1), 6.0),
)
FAULTS = ("localizer", "missing_slice", "truncated", "wrong_rescale", "mixed_orientations")
STORED_OFFSET = 1024  # stored value minus HU
PLACE = {"chest": ("THORAX", "CHEST"), "abdomen": ("ABDOMEN", "ABDOMEN")}
MAKERS = (
    ("SIEMENS", "phantom 16", "B30f"),
    ("GE MEDICAL SYSTEMS", "phantom 64", "STANDARD"),
    ("Philips", "phantom 8", "B"),
)


@dataclass(frozen=True)
class Slice:
    """One image: (rows, columns) HU, the centre of its first pixel, and its directions (LPS)."""

    hu: np.ndarray
    position: np.ndarray
    orientation: np.ndarray
    pixel_mm: tuple[float, float]


def write_corpus(folder: Path, *, series: int, broken: int, slices: int, matrix: int, seed: int) -> dict[str, str]:
    """Write all series, each into ``folder/<SeriesInstanceUID>/``, and return {uid: collection}.

    Every fourth series is a second study of the patient before. Identifiers depend on every argument but
    ``folder``, so that other settings never mix with files that lie there already.
    """
    origin = f"ctfm phantom {seed} {slices} {matrix}"
    collections = {}
    for index in range(series + broken):
        fault = FAULTS[(index - series) % len(FAULTS)] if index >= series else ""
        region: Region = "abdomen" if index % 2 else "chest"
        header, images = _series(index, fault, region, slices, matrix, seed)
        header |= _identity(origin, index, fault)
        if fault and (index - series) // len(FAULTS) % 2 and fault == "localizer":
            header["SeriesDescription"] = "Topogram 0.6 T20f"
        place = folder / header["SeriesInstanceUID"]
        write_series(place, images, header, intercept=0 if fault == "wrong_rescale" else -STORED_OFFSET)
        if fault == "truncated":
            _truncate(place)
        collections[header["SeriesInstanceUID"]] = f"phantom_{region}"
    return collections


def write_series(folder: Path, images: list[Slice], header: Mapping[str, Any], intercept: int = -STORED_OFFSET) -> None:
    """Write the images of one series as ``0001.dcm`` and so on, in their order.

    Args:
        folder: made if absent.
        images: what to write; pixels are stored as HU + 1024 in int16.
        header: tags by keyword that all images share, with ``SeriesInstanceUID``.
        intercept: RescaleIntercept; anything but -1024 is a fault.
    """
    ensure_folder(folder)
    for number, image in enumerate(images, start=1):
        dataset = _dataset(image, header, number, intercept)
        with atomic(folder / f"{number:04d}.dcm") as temporary:
            dataset.save_as(temporary, enforce_file_format=True)


def slices_of(volume: Volume) -> list[Slice]:
    """Return the planes of a volume along its first axis, in its order."""
    spacing = volume.spacing
    orientation = np.concatenate([volume.affine[:3, 2] / spacing[2], volume.affine[:3, 1] / spacing[1]])
    starts = volume.world(np.array([[z, 0, 0] for z in range(volume.shape[0])]))
    return [Slice(hu, at, orientation, spacing[1:]) for hu, at in zip(volume.array, starts, strict=True)]


def flipped(volume: Volume, signs: tuple[int, int, int]) -> Volume:
    """Return the same scan with the axes of sign -1 reversed; nothing moves in the patient."""
    direction = np.asarray(signs)
    last = np.where(direction < 0, np.asarray(volume.shape) - 1, 0)
    affine = volume.affine.copy()
    affine[:3, :3] *= direction
    affine[:3, 3] = volume.world(last)
    array = volume.array[:: signs[0], :: signs[1], :: signs[2]]
    return Volume(np.ascontiguousarray(array), affine)


def _series(
    index: int, fault: str, region: Region, slices: int, matrix: int, seed: int
) -> tuple[dict[str, Any], list[Slice]]:
    """Draw and scan one series; return its tags, without identifiers, and its images."""
    body = anatomy.draw(np.random.default_rng([seed, STREAM, _patient(index)]))
    rng = np.random.default_rng([seed, STREAM, index, 1])
    position, signs, pitch = ARRANGEMENTS[0 if fault else index % len(ARRANGEMENTS)]
    thickness = float(rng.choice(THICKNESS_MM))
    step = thickness if fault or rng.random() < 0.7 else 0.8 * thickness
    shape = (slices + int(rng.integers(0, 7)), matrix, matrix)
    pixel = round(float(rng.uniform(290, 350)) / matrix, 4)
    affine = anatomy.upright(body, shape, (step, pixel, pixel), region, rng)
    affine = _pitched(affine, shape, pitch)
    scan = scanner.draw(rng, prone=position == "HFP")
    image, _ = anatomy.render(body, scan, rng, shape, affine)
    upright, image = image, flipped(image, signs)
    header = _header(body, region, rng) | {"PatientPosition": position, "SliceThickness": thickness}
    if fault == "localizer":
        header["ImageType"] = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return header, _WITH_FAULT.get(fault, lambda same, _: slices_of(same))(image, upright)


def _coronal(image: Volume, upright: Volume) -> list[Slice]:
    """Return coronal planes, head up, as many as there were axial ones."""
    head_up = flipped(upright, (-1, 1, 1))
    affine = head_up.affine[:, (1, 0, 2, 3)]
    planes = slices_of(Volume(np.ascontiguousarray(head_up.array.transpose(1, 0, 2)), affine))
    first = max(0, (len(planes) - len(image.array)) // 2)
    return planes[first : first + len(image.array)]


def _with_hole(image: Volume, _: Volume) -> list[Slice]:
    planes = slices_of(image)
    del planes[len(planes) // 2]
    return planes


def _half_turned(image: Volume, _: Volume) -> list[Slice]:
    """Return slices of which the second half lies the other way round, as if the patient had turned over."""
    half = image.shape[0] // 2
    return slices_of(image)[:half] + slices_of(flipped(image, (1, -1, -1)))[half:]


_WITH_FAULT: dict[str, Callable[[Volume, Volume], list[Slice]]] = {
    "localizer": _coronal,
    "missing_slice": _with_hole,
    "mixed_orientations": _half_turned,
}


def _truncate(folder: Path) -> None:
    """Cut the middle file of a series in its pixels."""
    files = sorted(folder.glob("*.dcm"))
    path = files[len(files) // 2]
    content = path.read_bytes()
    with atomic(path) as temporary:
        temporary.write_bytes(content[: len(content) * 2 // 3])


def _pitched(affine: np.ndarray, shape: tuple[int, int, int], degrees: float) -> np.ndarray:
    """Turn a grid about the patient's left-right axis through its middle: oblique slices."""
    turn = turned("x", degrees)
    half = (np.asarray(shape) - 1) / 2
    out = affine.copy()
    out[:3, :3] = turn @ affine[:3, :3]
    out[:3, 3] = affine[:3, 3] + affine[:3, :3] @ half - out[:3, :3] @ half
    return out


def _patient(index: int) -> int:
    return index - 1 if index % 4 == 3 else index


def _identity(origin: str, index: int, fault: str) -> dict[str, str]:
    """Return identifiers, which follow from the seed alone."""
    patient = _patient(index)
    return {
        "PatientID": f"PHANTOM-{patient:04d}",
        "PatientName": f"Phantom^{patient:04d}",
        "StudyInstanceUID": generate_uid(entropy_srcs=[origin, "study", str(index)]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[origin, "series", str(index), fault]),
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[origin, "frame", str(index)]),
        "AccessionNumber": f"{index:04d}",
    }


def _header(body: anatomy.Body, region: str, rng: np.random.Generator) -> dict[str, Any]:
    maker, model, kernel = MAKERS[rng.integers(len(MAKERS))]
    contrast = {} if body.phase == "native" else {"ContrastBolusAgent": "phantom"}
    return contrast | {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "StudyDate": "20200101",
        "StudyTime": "120000",
        "SeriesDescription": f"{PLACE[region][0]} {body.phase} {kernel}",
        "Manufacturer": maker,
        "ManufacturerModelName": model,
        "ConvolutionKernel": kernel,
        "BodyPartExamined": PLACE[region][1],
        "KVP": int(rng.choice((100, 120, 140))),
        "PatientSex": body.sex.upper(),
        "PatientAge": f"{body.age:03d}Y",
        "PatientBirthDate": "",
        "StudyID": "1",
        "ReferringPhysicianName": "",
        "SeriesNumber": 2,
        "AcquisitionNumber": 1,
    }


def _dataset(image: Slice, header: Mapping[str, Any], number: int, intercept: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[header["SeriesInstanceUID"], str(number)])
    tags = Dataset()
    tags.SOPClassUID, tags.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    tags.SpecificCharacterSet, tags.Modality, tags.InstanceNumber = "ISO_IR 192", "CT", number
    for keyword, value in header.items():
        setattr(tags, keyword, value)
    tags.ImagePositionPatient = _decimals(image.position)
    tags.ImageOrientationPatient = _decimals(image.orientation)
    tags.PixelSpacing = _decimals(image.pixel_mm)
    normal = np.cross(image.orientation[:3], image.orientation[3:])
    (tags.SliceLocation,) = _decimals([normal @ image.position])
    tags.RescaleSlope, tags.RescaleIntercept, tags.RescaleType = 1, intercept, "HU"
    tags.WindowCenter, tags.WindowWidth = 40, 400
    tags.Rows, tags.Columns = image.hu.shape
    tags.SamplesPerPixel, tags.PhotometricInterpretation, tags.PixelRepresentation = 1, "MONOCHROME2", 1
    tags.BitsAllocated, tags.BitsStored, tags.HighBit = 16, 16, 15
    tags.PixelData = (image.hu + STORED_OFFSET).astype("<i2").tobytes()
    return FileDataset("", tags, file_meta=meta, preamble=b"\0" * 128)


def _decimals(values: Any) -> list[DSfloat]:
    """Return numbers as decimal strings of at most 16 characters; what is nearly zero is zero."""
    return [DSfloat(float(value) if abs(value) > 1e-9 else 0.0, auto_format=True) for value in values]
