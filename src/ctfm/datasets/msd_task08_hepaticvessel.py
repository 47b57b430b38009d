"""Hepatic vessels and tumours: task 08 of the Decathlon. Antonelli et al., doi:10.1038/s41467-022-30695-9."""

from __future__ import annotations

from functools import partial

from ctfm.datasets import _msd

SOURCE = _msd.source("Task08_HepaticVessel", "641d79e80ec66453921d997fbf12a29c")
MARKER = _msd.MARKER
LABELS = {"vessel": 1, "tumour": 2}
GROUPS = {"vessel": "organ", "tumour": "tumour"}
check = partial(_msd.check, labels=LABELS, source=SOURCE)
cases = _msd.cases
