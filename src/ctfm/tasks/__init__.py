"""Kinds of downstream task: one file, one kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CaseFile:
    """One stored case.

    Attributes:
        case: its name in the data set.
        patient: whose it is.
        image: the CT, int16 HU, ``.b2nd``.
        label: the label map, ``.b2nd``; its meta hold ``ids`` (name to id) and ``groups`` (name to group). Of a pair of
            scans (data set ``rider``): the second one.
    """

    case: str
    patient: str
    image: Path
    label: Path
