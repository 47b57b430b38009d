"""Labelled data sets: one file, one layout on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One labelled scan as published.

    Attributes:
        case: its name in the data set.
        patient: whose it is; the case's own name where the data set doesn't say.
        split: train, val or test in the data set's own split; empty when it has none.
        image: the CT: a volume file, or the folder of a DICOM series.
        labels: one mask per structure by name, or one map of ids; or, for the scan as a whole, what it shows, and
            None where the data set tells nothing that can be read.
        study: kind of examination; empty where the data set doesn't say.
        age: of the patient, years; None where the data set doesn't say.
        sex: ``f`` or ``m``; empty where the data set doesn't say.
        cohorts: for retrieval: by the name of each set of scans that is ranked by itself, whether this one asks
            (``query``) or is in the corpus, and its ``attributes`` there: name to value, None where it isn't known.
    """

    case: str
    patient: str
    split: str
    image: Path
    labels: dict[str, Path] | Path | tuple[str, ...] | None
    study: str = ""
    age: float | None = None
    sex: str = ""
    cohorts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
