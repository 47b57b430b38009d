"""The slices that DICOM files hold: one in an ordinary file, many in an enhanced (multi-frame) one.

Enhanced CT keeps what belongs to a slice in functional groups: of each frame, or shared by all of them
(PS3.3 C.7.6.16). A ``Frame`` answers for both kinds alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pydicom

from ctfm.errors import Quarantine
from ctfm.imaging import headers
from ctfm.imaging.headers import TAGS, Header

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CLASSES = (f"{CT_CLASS}.1", f"{CT_CLASS}.2")  # enhanced CT, and legacy converted enhanced CT
# The functional groups that are read; what a frame must have, and in which group it belongs.
GROUPS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "CTImageFrameTypeSequence",
)
NEEDED = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


@dataclass(frozen=True)
class Frame:
    """One slice.

    Attributes:
        header: of its file.
        index: number of the frame in the file, from 0.
        places: the data sets that tell of it, the nearest first.
    """

    header: Header
    index: int
    places: tuple[pydicom.Dataset, ...]

    @property
    def name(self) -> str:
        """Where it comes from, to tell of it."""
        return self.header.name if self.places[0] is self.header.tags else f"{self.header.name}, frame {self.index + 1}"

    @property
    def instance(self) -> tuple[str, int]:
        """Its SOPInstanceUID (the file's name where anonymisation took it) and number: no other slice has the same."""
        return self.header.text("SOPInstanceUID") or self.header.name, self.index

    @property
    def image_type(self) -> tuple[str, ...]:
        """ImageType, which is FrameType in functional groups."""
        return self._first(headers.texts, "FrameType") or headers.texts(self.header.tags, "ImageType")

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the values of a tag as the file has them."""
        return self._first(headers.texts, key)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return the finite numbers of a tag."""
        return self._first(headers.numbers, key)

    def _first(self, get: Callable[[pydicom.Dataset, str], tuple], key: str) -> tuple:
        return next((get(place, key) for place in self.places if TAGS[key] in place), ())


def of(header: Header) -> list[Frame]:
    """Return the slices of one file.

    Raises:
        Quarantine: ``multiframe``, with what lacks; ``unreadable``: a number of frames that is none.
    """
    count = headers.count(header.tags, "NumberOfFrames")
    if TAGS["NumberOfFrames"] in header.tags and (count is None or count < 1):
        raise Quarantine("unreadable", f"{header.name}: NumberOfFrames is '{header.text('NumberOfFrames')}'")
    count = count or 1
    if count == 1 and header.text("SOPClassUID") not in ENHANCED_CLASSES:
        return [Frame(header, 0, (header.tags,))]
    shared = _items(header, header.tags, "SharedFunctionalGroupsSequence")
    own = _items(header, header.tags, "PerFrameFunctionalGroupsSequence")
    if len(own) != count:
        raise Quarantine("multiframe", f"{header.name}: {count} frames, functional groups of {len(own)}")
    common = tuple(place for item in shared for place in _groups(header, item))
    frames = [Frame(header, i, (*_groups(header, item), *common, header.tags)) for i, item in enumerate(own)]
    _check(frames, count)
    return frames


def _check(frames: list[Frame], count: int) -> None:
    for frame in frames:
        for key, group in NEEDED.items():
            if not frame.numbers(key):
                raise Quarantine("multiframe", f"{frame.name}: no {key} ({group})")
    places = len({frame.numbers("ImagePositionPatient") for frame in frames})
    if places < count:
        detail = f"{count} frames at {places} places: several phases, energies or reconstructions"
        raise Quarantine("multiframe", f"{frames[0].header.name}: {detail}")


def _groups(header: Header, item: pydicom.Dataset) -> tuple[pydicom.Dataset, ...]:
    return tuple(place for key in GROUPS for place in _items(header, item, key)[:1])


def _items(header: Header, tags: pydicom.Dataset, key: str) -> list[pydicom.Dataset]:
    """Return the items of a sequence, which pydicom parses when it is first asked."""
    if TAGS[key] not in tags:
        return []
    try:
        value = tags[TAGS[key]].value
        return [item for item in value if isinstance(item, pydicom.Dataset)] if value else []
    except Exception as error:  # damaged bytes lead pydicom to errors of any kind
        raise Quarantine("multiframe", f"{header.name}: {key}: {' '.join(str(error).split())[:200]}") from error
