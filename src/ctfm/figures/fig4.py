"""Figure 4 of the paper: head-CT triage, from the tables of a task that answers with probabilities.

Panels as in the paper: (a) the scans of each data set, normal and abnormal; (b) F1 and ROC curves on the data set that
was learnt from; (c) the same on the first of the further data sets, with the same models and thresholds. And (d): the
AUC over the share of training cases.

Bars: F1 at the threshold that validation cases chose, with its bootstrap interval; the open mark beside it: F1 at 0.5
with the interval that the paper gives. Published values are stars, and stand only beside the same data.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import roc_curve

from ctfm import published
from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.metrics import decisions
from ctfm.metrics.decisions import AUC, F1
from ctfm.metrics.summary import OURS, PUBLISHED, QUOTED, by_size

KEYS = ["panel", "task", "dataset", "encoder", "shots", "seed", "split", "metric", "method"]
COLUMNS = [*KEYS, "estimate", "low", "high", "n", "paper", "x", "y", "note"]
LAYOUT = "abB\ndcC"
CLASSES = {"normal": style.PALE, "abnormal": style.GREY}


class View(NamedTuple):
    """The rows of one task on one data set."""

    rows: pd.DataFrame
    metrics: pd.DataFrame
    dataset: str
    shots: list[str]  # the last is the largest
    looks: dict[str, style.Look]

    def pick(self, metric: str, method: str = OURS, shots: str = "") -> pd.DataFrame:
        """Return the rows of one metric and method: of the largest training set, of one, or of all (``*``)."""
        rows = self.rows[(self.rows.metric == metric) & (self.rows.method == method) & (self.rows.reference == "")]
        return rows if shots == "*" else rows[rows.shots == (shots or self.shots[-1])]


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the tables of the first such task.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel.
    """
    views = _views(results)
    if not views:
        text = (
            "Figure 4 needs a task that answers with probabilities (evaluate/<task>/summary.parquet), and\n"
            "there is none in this run. Add an entry of kind 'triage' to tasks."
        )
        return style.nothing(settings, text, "snakemake evaluate"), pd.DataFrame(columns=COLUMNS)
    figure = style.blank(settings, 0.62)
    axes = figure.subplot_mosaic(LAYOUT, width_ratios=[1, 1, 1.3])
    second = views[1] if len(views) > 1 else None
    panels = [
        ("a", _data(axes["a"], views, results)),
        ("b", _rates(axes["b"], "b", views[0])),
        ("b", _curves(axes["B"], views[0])),
        ("c", _rates(axes["c"], "c", second) if second else _nothing(axes["c"], axes["C"])),
        ("c", _curves(axes["C"], second) if second else pd.DataFrame()),
        ("d", _shares(axes["d"], views[0])),
    ]
    _legend(figure, views[0])
    drawn = pd.concat([rows.assign(panel=letter) for letter, rows in panels if len(rows)], ignore_index=True)
    return figure, drawn.reindex(columns=COLUMNS)


def _views(results: Results) -> list[View]:
    """Return the first task with an AUC: the data set that it learnt from, then the others."""
    rows = results.summary
    tasks = rows[rows.metric == AUC].task.unique()
    rows = rows[rows.task.isin(tasks[:1])]
    metrics = results.metrics[results.metrics.task.isin(tasks[:1])]
    own = rows[rows.method == OURS]
    references = [name for name in own.reference.unique() if name]
    first = references[0] if references else ""
    looks = style.looks([*sorted(set(own.encoder) - {first}), *([first] if first else [])], first)
    found = []
    for dataset, part in own.groupby("dataset", sort=False):
        shots = sorted(part.shots.unique(), key=by_size)
        here = rows[rows.dataset == dataset]
        found.append(View(here, metrics[metrics.dataset == dataset], str(dataset), shots, looks))
    return sorted(found, key=lambda view: not (results.cases(view.dataset).split == "train").any())


def _data(axes: Axes, views: list[View], results: Results) -> pd.DataFrame:
    """Draw how many scans of each split are normal and abnormal; of a data set without a table, those of the test."""
    counted = [row for view in views for row in _counted(view, results)]
    names = list(dict.fromkeys((row["dataset"], row["split"]) for row in counted))
    for row in counted:
        y, left = names.index((row["dataset"], row["split"])), row["x"]
        axes.barh(y, row["estimate"], left=left, height=0.65, color=CLASSES[row["metric"]])
        if row["metric"] == "abnormal":
            axes.text(1.02, y, f"{row['n']}", va="center", fontsize=5.5, transform=axes.get_yaxis_transform())
    for y, (dataset, _) in enumerate(names):
        axes.text(0.02, y, dataset, va="center", fontsize=5.5)
    axes.set_yticks(range(len(names)), [split for _, split in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share: normal (light), abnormal (dark)")
    style.heading(axes, "a", "Scans")
    return pd.DataFrame(counted)


def _counted(view: View, results: Results) -> list[dict]:
    cases = results.cases(view.dataset)
    cases = cases[cases.status == "ok"]
    ill = {split: [len(names) > 0 for names in own.labels] for split, own in cases.groupby("split")}
    if not ill:
        targets = view.metrics[view.metrics.metric == decisions.TARGET].drop_duplicates("case_id")
        ill = {"test": list(targets.value == 1)}
    rows = []
    for split in (name for name in ("train", "val", "test") if name in ill):
        fixed = {"dataset": view.dataset, "split": split, "n": len(ill[split]), "note": "counted"}
        share = float(np.mean(ill[split]))
        for metric, estimate, left in (("normal", 1 - share, 0.0), ("abnormal", share, 1 - share)):
            rows.append({**fixed, "metric": metric, "estimate": estimate, "x": left})
    return rows


def _rates(axes: Axes, letter: str, view: View) -> pd.DataFrame:
    """Draw F1 of each encoder: at its own threshold, by the paper's definition, and as printed."""
    ours, theirs, quoted = (view.pick(F1, method) for method in (OURS, PUBLISHED, QUOTED))
    names = list(view.looks)
    arms = {published.arm(name): place for place, name in reversed(list(enumerate(names)))}
    for row in ours.itertuples():
        x, look = names.index(row.encoder), view.looks[row.encoder]
        axes.bar(x, row.estimate, width=0.75, color=look.colour, alpha=0.35)
        style.interval(axes, x - 0.2, row.estimate, row.low, row.high, look)
    for row in theirs.itertuples():
        x, look = names.index(row.encoder), view.looks[row.encoder]
        style.interval(axes, x, row.estimate, row.low, row.high, look, filled=False)
    for row in quoted[quoted.encoder.isin(list(arms))].itertuples():
        spot = arms[row.encoder] + 0.2
        axes.plot([spot, spot], [row.low, row.high], color=style.PAPER_COLOUR, linewidth=0.7)
        style.paper_mark(axes, spot, row.estimate)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("F1")
    n = int(ours.n.max()) if len(ours) else 0
    style.heading(axes, letter, f"{view.dataset}, n = {n}")
    return pd.concat([ours, theirs, quoted])


def _curves(axes: Axes, view: View) -> pd.DataFrame:
    """Draw the ROC curve of each encoder and training seed with the largest training set."""
    table, found = view.metrics[view.metrics.shots == view.shots[-1]], []
    axes.plot([0, 1], [0, 1], color=style.PALE, linewidth=0.8)
    estimates = view.pick(AUC).set_index("encoder")
    for encoder, arm in decisions.arms(table).items():
        look = view.looks[encoder]
        for seed, probability in zip(arm.seeds, arm.probability, strict=True):
            wrong, right, _ = roc_curve(arm.target, probability)
            axes.plot(wrong, right, color=look.colour, linewidth=0.9)
            fixed = {"dataset": view.dataset, "encoder": encoder, "shots": view.shots[-1], "seed": seed}
            found.append(pd.DataFrame({**fixed, "metric": "roc", "x": wrong, "y": right}))
        axes.plot([], [], color=look.colour, label=_told(encoder, estimates))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("1 − specificity")
    axes.set_ylabel("sensitivity")
    axes.legend(loc="lower right", title="AUC", title_fontsize=5.5, fontsize=5)
    return pd.concat([view.pick(AUC), *found])


def _told(encoder: str, estimates: pd.DataFrame) -> str:
    row = estimates.loc[encoder]
    paper = f"\npaper: {row.paper:.3f}" if np.isfinite(row.paper) else ""
    interval = f"{row.low:.3f}–{row.high:.3f}" if np.isfinite(row.low) else "no interval"
    return f"{encoder} {row.estimate:.3f} ({interval}){paper}"


def _shares(axes: Axes, view: View) -> pd.DataFrame:
    """Draw the AUC over the share of training cases."""
    rows = view.pick(AUC, shots="*")
    style.heading(axes, "d", f"{view.dataset}: fewer training cases")
    if len(view.shots) < 2:
        what = "One training set only.\nList shares such as 0.1\nunder tasks.<task>.shots."
        style.missing(axes, what, "snakemake evaluate")
        return rows[:0]
    for place, (encoder, look) in enumerate(view.looks.items()):
        own = rows[rows.encoder == encoder].set_index("shots").reindex(view.shots)
        x = np.arange(len(view.shots)) + 0.12 * (place - (len(view.looks) - 1) / 2)
        axes.plot(x, own.estimate, color=look.colour, linewidth=0.7, alpha=0.7)
        for spot, row in zip(x, own.itertuples(), strict=True):
            style.interval(axes, spot, row.estimate, row.low, row.high, look)
    axes.set_xticks(range(len(view.shots)), view.shots)
    axes.set_xlabel("share or number of training cases")
    axes.set_ylabel("AUC")
    return rows


def _nothing(*panels: Axes) -> pd.DataFrame:
    for axes in panels[1:]:
        axes.set_axis_off()
    style.heading(panels[0], "c", "Zero-shot")
    what = "Tested on one data set only. Name another\nunder tasks.<task>.external."
    style.missing(panels[0], what, "snakemake evaluate")
    return pd.DataFrame()


def _legend(figure: Figure, view: View) -> None:
    extra = {"at 0.5, the paper's interval": ("o", "white")}
    if view.rows.paper.notna().any():
        extra["published"] = (style.PAPER_MARKER, style.PAPER_COLOUR)
    handles = [Line2D([], [], marker=k.marker, label=n, color=k.colour, markersize=4) for n, k in view.looks.items()]
    handles += [
        Line2D([], [], marker=marker, label=text, color=style.INK, markerfacecolor=face, linewidth=0, markersize=4)
        for text, (marker, face) in extra.items()
    ]
    title = f"Task '{view.rows.task.iloc[0]}'; training cases: {view.shots[-1]}, unless said. Intervals over patients."
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title=title, title_fontsize=6)
