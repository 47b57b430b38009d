"""Liver tumours: task 03 of the Medical Segmentation Decathlon. Antonelli et al., doi:10.1038/s41467-022-30695-9."""

from __future__ import annotations

from functools import partial

from ctfm.datasets import _msd

SOURCE = _msd.source("Task03_Liver", "a90ec6c4aa7f6a3d087205e23d4e6397")
MARKER = _msd.MARKER
LABELS = {"liver": 1, "cancer": 2}
GROUPS = {"liver": "organ", "cancer": "tumour"}
check = partial(_msd.check, labels=LABELS, source=SOURCE)
cases = _msd.cases
