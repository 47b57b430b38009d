"""What the figures of tumours share: which tasks there are, and how their encoders look."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.metrics.summary import OURS, TUMOUR, by_size

EMPTY = ["panel", "task", "encoder", "metric"]


class Tumours(NamedTuple):
    """The tasks that have tumours, and how encoders look; the first reference is grey."""

    rows: pd.DataFrame  # of the summary: the tumour, ours and without a reference
    tasks: list[str]
    looks: dict[str, style.Look]

    def of(self, task: str, metric: str) -> pd.DataFrame:
        """Return the rows of a task and metric, of its largest number of training cases."""
        rows = self.rows[(self.rows.task == task) & (self.rows.metric == metric)]
        return rows[rows.shots == most(rows.shots)]


def read(results: Results) -> Tumours | None:
    """Return the tasks of a run that have tumours; None if there is none."""
    rows = results.summary[(results.summary.group == TUMOUR) & (results.summary.method == OURS)]
    if rows.empty:
        return None
    references = sorted(set(rows.reference) - {""}, key=lambda name: (name != "random", name))
    ours = sorted(set(rows.encoder) - set(references))  # the best colours are for them
    looks = style.looks([*ours, *references[1:], *references[:1]], next(iter(references), ""))
    names = [*ours, *references]
    return Tumours(rows[rows.reference == ""], sorted(set(rows.task)), {name: looks[name] for name in names})


def most(shots: pd.Series) -> str:
    """Return the largest number of training cases."""
    return max(set(shots), key=by_size, default="")


def nothing(settings: Figures, what: str) -> tuple[Figure, pd.DataFrame]:
    """Return a figure that says what is missing and how to make it."""
    text = (
        f"{what} needs a task with tumours and its summary (evaluate/<task>/summary.parquet),\n"
        f"and there is no group '{TUMOUR}' in this run. Add an entry of kind 'tumour' to tasks."
    )
    return style.nothing(settings, text, "snakemake evaluate"), pd.DataFrame(columns=EMPTY)


def handles(found: Tumours) -> list[Line2D]:
    """Return what the legend shows of the encoders."""
    return [style.handle(name, look) for name, look in found.looks.items()]
