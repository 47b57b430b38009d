"""The numbers of the paper (``resources/paper.csv``), and which of ours may stand beside them.

A published value is comparable only with one on the same data: the same name of the data set entry, and as
many test cases. Phantoms and one's own scans are never comparable, whatever the metric.
"""

from __future__ import annotations

import pandas as pd

from ctfm import resources

OURS = ("ctfm", "random", "suprem")  # the paper's own arms; the others are quoted from elsewhere
KEY = ["encoder", "reference", "shots", "group", "metric"]
RECIPE = ("data", "setting")  # tasks of the rows that tell how it was done: nothing that was measured
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
    paper = paper[~paper.task.isin(RECIPE)]
    return paper[(paper.dataset == dataset) & (paper.n.isna() | (paper.n == cases))]


def quoted(dataset: str, cases: int, metrics: set[str]) -> pd.DataFrame:
    """Return all published rows to show beside a task's own: the paper's arms, and rivals from elsewhere.

    Nothing is shown where nothing is comparable. Where something is, a rival that was measured on other data of
    the same task is shown too: its caveat and its data set say so.

    Args:
        dataset: name of the entry of ``datasets``.
        cases: number of its test cases.
        metrics: the metrics that the task has.
    """
    paper, same = table(), comparable(dataset, cases)
    rivals = paper[paper.task.isin(set(same.task)) & ~paper.encoder.isin(OURS) & (paper.source != "paper")]
    rows = pd.concat([same, rivals]).drop_duplicates("id")
    return rows[rows.metric.isin(metrics)]


def arm(encoder: str) -> str:
    """Return the arm of the paper that an encoder of ours answers to: ``ctfm_2`` is ``ctfm``; else its own name."""
    return next((name for name in OURS if encoder == name or encoder.startswith((f"{name}_", f"{name}-"))), encoder)


def values(dataset: str, cases: int) -> dict[tuple[str, ...], float]:
    """Return the comparable values by (encoder, reference, shots, group, metric), encoders as the paper's arms."""
    rows = comparable(dataset, cases)
    return dict(zip(rows[KEY].itertuples(index=False, name=None), rows.value, strict=True))
