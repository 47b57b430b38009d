"""The numbers of the paper (``resources/paper.csv``), and which of ours may stand beside them.

A published value is comparable only with one on the same data: the same name of the data set entry, and as
many test cases. Phantoms and one's own scans are never comparable, whatever the metric.
"""

from __future__ import annotations

import pandas as pd

from ctfm import resources

OURS = ("ctfm", "random", "suprem")  # the paper's own arms; the others are quoted from elsewhere
KEY = ["encoder", "reference", "shots", "group", "metric"]
OTHER_DATA = "not comparable with the paper: other data"


def table() -> pd.DataFrame:
    """Return all rows of ``resources/paper.csv``; empty text where a cell is empty, NaN for empty numbers."""
    text = pd.read_csv(resources.path("paper.csv"), dtype=str, keep_default_na=False)
    numbers = ["value", "low", "high", "n"]
    text[numbers] = text[numbers].apply(pd.to_numeric)
    return text


def comparable(dataset: str, cases: int) -> pd.DataFrame:
    """Return the published rows that were measured on this data set.

    Args:
        dataset: name of the entry of ``datasets``.
        cases: number of its test cases.
    """
    paper = table()
    return paper[(paper.dataset == dataset) & (paper.n.isna() | (paper.n == cases))]


def arm(encoder: str) -> str:
    """Return the arm of the paper that an encoder of ours answers to: ``ctfm_2`` is ``ctfm``; else its own name."""
    return next((name for name in OURS if encoder == name or encoder.startswith((f"{name}_", f"{name}-"))), encoder)


def values(dataset: str, cases: int) -> dict[tuple[str, ...], float]:
    """Return the comparable values by (encoder, reference, shots, group, metric), encoders as the paper's arms."""
    rows = comparable(dataset, cases)
    return dict(zip(rows[KEY].itertuples(index=False, name=None), rows.value, strict=True))
