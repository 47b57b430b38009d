"""What the figures of segmentation share: the choice of rows, the drawing of estimates, and the legend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctfm import published
from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.metrics.summary import LABEL, OURS, TUMOUR, WIN_RATE, by_size

METRIC, WINS = "dice", "dice" + WIN_RATE
NUMBERS = ["estimate", "low", "high", "n", "p_value", "p_holm", "seeds", "seed_low", "seed_high"]
KEYS = ["panel", "task", "dataset", "encoder", "reference", "shots", "group", "metric", "method"]
COLUMNS = [*KEYS, *NUMBERS, "seed_estimates", "paper", "note"]
LEVEL = 0.05  # of the adjusted p values


class View(NamedTuple):
    """The rows of one task, and how its encoders look."""

    rows: pd.DataFrame
    task: str
    dataset: str
    shots: list[str]  # the last is the largest
    references: list[str]
    looks: dict[str, style.Look]  # references first

    @property
    def ours(self) -> list[str]:
        """The encoders that are no references; without any, all."""
        return [name for name in self.looks if name not in self.references] or list(self.looks)

    @property
    def lead(self) -> str:
        """The encoder that labels are ordered by: the one that answers to the paper's, or the first."""
        return next((name for name in self.ours if published.arm(name) == "ctfm"), self.ours[0])

    def pick(self, metric: str = METRIC, method: str = OURS, reference: str = "", shots: str = "") -> pd.DataFrame:
        """Return the rows of one metric and setting: the largest number of cases, one, or all (``*``)."""
        rows = self.rows[(self.rows.metric == metric) & (self.rows.method == method)]
        rows = rows[rows.shots == (shots or self.shots[-1])] if shots != "*" else rows
        return rows[rows.reference == reference]

    def against(self, reference: str, shots: str = "") -> pd.DataFrame:
        """Return the paired differences to a reference."""
        return self.pick(reference=reference, shots=shots) if reference else self.rows[:0]

    def groups(self) -> list[str]:
        """Return the names of the groups of labels."""
        known = set(self.pick(shots="*").group)
        return sorted(name for name in known if name != "all" and not name.startswith(LABEL))


def views(results: Results) -> list[View]:
    """Return the segmentation tasks of a run, the one with the most labels first; an encoder looks alike in all.

    Tumours have figures of their own.
    """
    rows = results.summary[results.summary.metric.isin([METRIC, WINS])]
    rows = rows[~rows.task.isin(set(rows[rows.group == TUMOUR].task))]
    own = rows[rows.method == OURS]
    references = _references(own)
    names = [*references, *sorted(set(own.encoder) - set(references))]
    first, rest = references[:1], sorted(names, key=lambda name: name in references)  # the best colours are for ours
    looks = style.looks([*rest, *first], next(iter(first), ""))
    tasks = own.groupby("task")["group"].nunique().sort_values(ascending=False, kind="stable").index
    return [_view(rows[rows.task == task], {name: looks[name] for name in names}) for task in tasks]


def _view(rows: pd.DataFrame, looks: dict[str, style.Look]) -> View:
    own = rows[rows.method == OURS]
    shots = sorted(own.shots.unique(), key=by_size)
    looks = {name: look for name, look in looks.items() if name in set(own.encoder)}
    return View(rows, str(own.task.iloc[0]), str(own.dataset.iloc[0]), shots, _references(own), looks)


def _references(rows: pd.DataFrame) -> list[str]:
    """Return the reference encoders, that compared with most others first."""
    pairs = rows[rows.reference != ""].drop_duplicates(["encoder", "reference"])
    counts = pairs.reference.value_counts()
    return sorted(counts.index, key=lambda name: (-counts[name], name))


def nothing(settings: Figures, what: str) -> tuple[Figure, pd.DataFrame]:
    """Return a figure that says what is missing and how to make it."""
    text = (
        f"{what} needs a segmentation task with its summary (evaluate/<task>/summary.parquet),\n"
        f"and there is none with '{METRIC}' in this run. Add an entry of kind 'segment' to tasks."
    )
    return style.nothing(settings, text, "snakemake evaluate"), pd.DataFrame(columns=COLUMNS)


def joined(panels: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all panels with their letter, ready to be written as text."""
    table = pd.concat([rows.assign(panel=letter) for letter, rows in panels.items() if len(rows)])
    table = table.reindex(columns=COLUMNS)
    return table.assign(seed_estimates=[_text(values) for values in table.seed_estimates])


def _text(values: object) -> str:
    return " ".join(f"{v:.6g}" for v in values) if isinstance(values, Iterable) else ""


def patients(rows: pd.DataFrame) -> str:
    """Return the number of patients behind the rows; tables from elsewhere don't tell it for every label."""
    if rows.n.isna().any():
        return "n not known"
    low, high = int(rows.n.min()), int(rows.n.max())
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def dodged(
    axes: Axes,
    rows: pd.DataFrame,
    names: list[str],
    view: View,
    *,
    width: float = 0.5,
    across: bool = False,
    filled: pd.Series | None = None,
) -> None:
    """Draw estimates with intervals and published values, encoders side by side within each of the named groups.

    Args:
        axes: where to.
        rows: of the summary, with groups among ``names``.
        names: the groups, in their places.
        view: how the encoders look.
        width: how far apart the encoders of a group lie.
        across: groups from top to bottom, estimates left to right.
        filled: whether the mark of each row is filled; ``None``: all are.
    """
    order = list(view.looks)
    pairs = sorted(set(zip(rows.encoder, rows.reference, strict=True)), key=lambda p: [order.index(n) for n in p if n])
    for row in rows.itertuples():
        offset = width * (pairs.index((row.encoder, row.reference)) - (len(pairs) - 1) / 2) / len(pairs)
        place = names.index(row.group) + offset
        x, y = (row.estimate, place) if across else (place, row.estimate)
        full = filled is None or bool(filled[row.Index])
        style.interval(axes, x, y, row.low, row.high, view.looks[row.encoder], across=across, filled=full)
        if np.isfinite(row.paper):
            beside = place + (-0.45 if across else 0.45) * width / len(pairs)
            style.paper_mark(axes, *((row.paper, beside) if across else (beside, row.paper)))
    if across:
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
    else:
        axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(axis="y" if across else "x", visible=False)


def curves(axes: Axes, rows: pd.DataFrame, view: View, *, filled: pd.Series | None = None) -> None:
    """Draw estimates over the numbers of training cases: intervals over patients, and each training seed alone."""
    compared = [name for name in view.looks if name in set(rows.encoder)]
    for place, name in enumerate(compared):
        own, look = rows[rows.encoder == name].set_index("shots"), view.looks[name]
        x = np.arange(len(view.shots)) + 0.3 * (place - (len(compared) - 1) / 2) / len(compared)
        axes.plot(x, own.estimate.reindex(view.shots), color=look.colour, linewidth=0.7, alpha=0.7)
        for spot, shots in zip(x, view.shots, strict=True):
            if shots in own.index:
                row = own.loc[shots]
                full = filled is None or bool(filled[(rows.encoder == name) & (rows.shots == shots)].iloc[0])
                style.interval(axes, spot, row.estimate, row.low, row.high, look, filled=full)
                several = row.seed_estimates if len(row.seed_estimates) > 1 else []
                style.seeds(axes, spot, several, (row.seed_low, row.seed_high), look)
    axes.set_xticks(range(len(view.shots)), view.shots)
    axes.set_xlim(-0.5, len(view.shots) - 0.4)
    axes.margins(y=0.12)
    axes.set_xlabel("labelled training cases")


def write(axes: Axes, rows: pd.DataFrame, view: View) -> None:
    """Write the difference of the leading encoder beside each of its points."""
    for row in rows[rows.encoder == view.lead].itertuples():
        spot = (view.shots.index(row.shots), row.estimate)
        axes.annotate(f"{row.estimate:+.3f}", spot, (5, 3), textcoords="offset points", fontsize=5, color=style.INK)


def significant(rows: pd.DataFrame) -> pd.Series:
    """Return which rows have an adjusted p value below the level; without any test all count as drawn full."""
    return (rows.p_holm < LEVEL) | rows.p_holm.isna().all()


def sure(rows: pd.DataFrame) -> pd.Series:
    """Return which differences would stand for other patients and for other training runs; untested ones count."""
    one_side = (rows.seed_low > 0) | (rows.seed_high < 0)
    return significant(rows) & (one_side | rows.p_holm.isna().all())


def no_reference(axes: Axes, letter: str, title: str) -> None:
    """Say in a panel of comparisons that nothing was there to compare with."""
    style.heading(axes, letter, title)
    what = "No reference encoder among those evaluated.\nName one under evaluate.references."
    style.missing(axes, what, "snakemake evaluate")


def legend(figure: Figure, view: View, extra: dict[str, style.Look], *, seeds: bool = True) -> None:
    """Write the encoders, further marks, and what the lines mean under the figure.

    Args:
        figure: the figure.
        view: its task.
        extra: further marks by their text; the colour white means an open mark.
        seeds: whether training seeds are drawn one by one.
    """
    handles = [_handle(name, look.marker, look.colour, look.colour) for name, look in view.looks.items()]
    handles += [_handle(text, look.marker, style.INK, look.colour) for text, look in extra.items()]
    lines = "Thick lines: intervals over patients" + (", thin: over training seeds (short bars)." if seeds else ".")
    if view.pick().low.isna().all():
        lines = "No intervals: there are no values per case for two patients or more."
    title = f"Task '{view.task}' on '{view.dataset}'; training cases: {view.shots[-1]}, unless said. {lines}"
    columns = min(7, len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=title, title_fontsize=6)


def _handle(text: str, marker: str, colour: str, face: str) -> Line2D:
    return Line2D([], [], marker=marker, label=text, color=colour, markerfacecolor=face, markersize=4, linewidth=0.8)
