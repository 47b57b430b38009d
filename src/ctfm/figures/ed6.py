"""Extended Data Figure 6 of the paper: pre-training ablations, from the scores of the probe.

Panels: macro Dice (a) and micro Dice (b) of the last checkpoint of every pre-training run: each seed of the probe a
mark, their mean a bar, Student's t interval over seeds a line; (c) macro Dice of every checkpoint. Probing uses
validation cases, so this compares runs and is no estimate for unseen cases. The paper's values are open stars: they
are of three other validation scans.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ctfm import published
from ctfm.config import Figures
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.metrics import intervals

METRICS = {"macro_dice": "macro Dice", "micro_dice": "micro Dice"}
COLUMNS = ["panel", "encoder", "checkpoint", "epoch", "shots", "seed", "metric", "value", "paper"]
CONFIDENCE = 0.95


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the tables of scores.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel.
    """
    scores = results.scores[results.scores.metric.isin(list(METRICS))]
    if scores.empty:
        text = (
            "Extended Data Figure 6 needs scores of probed checkpoints (probe/<encoder>/scores.parquet), and\n"
            "there are none in this run. Add a section 'probe'."
        )
        return style.nothing(settings, text, "snakemake ablations"), pd.DataFrame(columns=COLUMNS)
    looks = style.looks(sorted(scores.encoder.unique()))
    figure = style.blank(settings, 0.45)
    axes = figure.subplots(1, 3)
    last = scores[scores.epoch == scores.groupby("encoder").epoch.transform("max")]
    drawn = [
        _last(axes[0], "a", "macro_dice", last, looks),
        _last(axes[1], "b", "micro_dice", last, looks),
        _epochs(axes[2], "c", scores[scores.metric == "macro_dice"], looks),
    ]
    return figure, pd.concat([rows.assign(panel=panel) for rows, panel in zip(drawn, "abc", strict=True)])[COLUMNS]


def _last(axes: Axes, letter: str, metric: str, last: pd.DataFrame, looks: dict[str, style.Look]) -> pd.DataFrame:
    rows = last[last.metric == metric].sort_values(["encoder", "seed"])
    paper = _paper(metric)
    for y, (name, look) in enumerate(looks.items()):
        values = rows[rows.encoder == name].value
        axes.plot(values, [y] * len(values), look.marker, color=look.colour, markersize=3.2, markeredgewidth=0)
        axes.plot([values.mean()] * 2, [y - 0.3, y + 0.3], color=look.colour)
        limits = intervals.over_seeds(values, CONFIDENCE)
        axes.plot([limits.low, limits.high], [y, y], color=look.colour, linewidth=0.6, zorder=1.5)
        if name in paper:
            style.paper_mark(axes, paper[name], y + 0.4, filled=False)
    axes.set_yticks(range(len(looks)), list(looks) if letter == "a" else [""] * len(looks))
    axes.set_ylim(max(len(looks), 4) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(METRICS[metric])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    seeds = rows.groupby("encoder").seed.nunique()
    style.heading(axes, letter, f"Last checkpoint, n = {seeds.max()} seeds")
    return rows.assign(paper=rows.encoder.map(paper))


def _paper(metric: str) -> dict[str, float]:
    """Return the paper's values of ablation runs, by the names that config/ablations.yaml gives them."""
    table = published.table()
    table = table[(table.task == "ablation") & (table.reference == "") & (table.metric == metric)]
    return dict(zip(table.encoder, table.value, strict=True))


def _epochs(axes: Axes, letter: str, scores: pd.DataFrame, looks: dict[str, style.Look]) -> pd.DataFrame:
    rows = scores.sort_values(["encoder", "epoch", "seed"])
    for name, look in looks.items():
        means = rows[rows.encoder == name].groupby("epoch").value.mean()
        axes.plot(means.index + 1, means, marker=look.marker, color=look.colour, markersize=3, label=name)
    axes.set_xlabel("epochs of pre-training")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel("macro Dice, mean of seeds")
    axes.legend(loc="best")
    style.heading(axes, letter, "Every checkpoint")
    return rows
