"""Write the scan of a head as a DICOM series."""

from __future__ import annotations

from pathlib import Path

from pydicom.uid import generate_uid

from ctfm.phantom import dicom, head
from ctfm.phantom.head import Head


def write(folder: Path, subject: Head, origin: str, description: str = "CT Plain") -> None:
    """Write one series; of a broken one a slice in the middle is missing.

    Args:
        folder: made if absent.
        subject: whose head; its form counts.
        origin: what the identifiers follow from.
        description: of the series.
    """
    volume = head.scan(subject)
    planes = dicom.slices_of(volume)
    planes = [planes[place] for place in head.kept_slices(subject, len(planes))]
    if subject.form == "broken":
        del planes[len(planes) // 2]
    header = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientID": origin.replace(" ", "-"),
        "PatientName": "Phantom",
        "PatientPosition": "HFS",
        "BodyPartExamined": "HEAD",
        "Manufacturer": "phantom",
        "SeriesDescription": description,
        "SliceThickness": volume.spacing[0],
        **{
            f"{level}InstanceUID": generate_uid(entropy_srcs=[origin, level, description])
            for level in ("Study", "Series")
        },
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[origin, "frame"]),
    }
    dicom.write_series(folder, planes, header)
