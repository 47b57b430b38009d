"""Lung tumours: task 06 of the Medical Segmentation Decathlon. Antonelli et al., doi:10.1038/s41467-022-30695-9."""

from __future__ import annotations

from functools import partial

from ctfm.datasets import _msd

SOURCE = _msd.source("Task06_Lung", "8afd997733c7fc0432f71255ba4e52dc")
MARKER = _msd.MARKER
LABELS = {"cancer": 1}
GROUPS = {"cancer": "tumour"}
check = partial(_msd.check, labels=LABELS, source=SOURCE)
cases = _msd.cases
