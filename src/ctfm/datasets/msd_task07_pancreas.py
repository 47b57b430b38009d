"""Tumours of the pancreas: task 07 of the Decathlon. Antonelli et al., doi:10.1038/s41467-022-30695-9."""

from __future__ import annotations

from functools import partial

from ctfm.datasets import _msd

SOURCE = _msd.source("Task07_Pancreas", "4f7080cfca169fa8066d17ce6eb061e4")
MARKER = _msd.MARKER
LABELS = {"pancreas": 1, "cancer": 2}
GROUPS = {"pancreas": "organ", "cancer": "tumour"}
check = partial(_msd.check, labels=LABELS, source=SOURCE)
cases = _msd.cases
