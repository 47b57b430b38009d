"""Figure 2 of the paper: whole-body segmentation, from the tables of segmentation tasks.

Panels as in the paper: (a) the data, (b) macro Dice on the task with the most labels, (c) on the next task (the
paper: abdomen, Merlin split), (d) win rate over labels, (e) few-shot curve, (f) groups of labels. And (g): does
pre-training help, as the paired difference to the first reference at each number of training cases: filled where
p < 0.05 after Holm's adjustment, and the interval over training seeds does not hold zero.

Published values are stars, and stand only beside numbers from the same data; a rival's star is open where it
was measured on other data. Ages and sexes (panel a) are those of the cases used, where the data set tells them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctfm import published
from ctfm.config import Figures
from ctfm.figures import _segmentation as shared
from ctfm.figures import _style as style
from ctfm.figures._results import Results
from ctfm.figures._segmentation import View
from ctfm.metrics.summary import PUBLISHED, QUOTED

LAYOUT = "aabbcc\ndddeee\nfffggg"
RIVALS = {
    "auto3dseg": "Auto3DSeg",
    "vista3d": "VISTA3D",
    "merlin": "Merlin",
    "nnunet_totalsegmentator": "TotalSegmentator",
}


def draw(results: Results, settings: Figures) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure from the tables.

    Args:
        results: the run's tables.
        settings: width and resolution.

    Returns:
        The figure, and the numbers drawn, one row each, with their panel.
    """
    views = shared.views(results)
    if not views:
        return shared.nothing(settings, "Figure 2")
    view = views[0]
    figure = style.blank(settings, 1.0)
    axes = figure.subplot_mosaic(LAYOUT, height_ratios=[1.05, 1, 1])
    panels = {
        "a": _data(axes["a"], view, results),
        "b": _overall(axes["b"], "b", view),
        "c": _second(axes["c"], views),
        "d": _win_rates(axes["d"], view),
        "e": _few_shot(axes["e"], view),
        "f": _groups(axes["f"], view),
        "g": _gain(axes["g"], view),
    }
    extra = {"the paper's definition and interval": style.Look("white", "o")}
    if view.rows.paper.notna().any():
        extra["published"] = style.Look(style.PAPER_COLOUR, style.PAPER_MARKER)
    shared.legend(figure, view, extra)
    return figure, shared.joined(panels)


def _data(axes: Axes, view: View, results: Results) -> pd.DataFrame:
    """Draw the number of labels in each group, and how many test patients have any of them; tell who was scanned."""
    groups = results.labels(view.task).groupby("group").label.nunique()
    having = view.pick().groupby("group").n.max()
    for y, (group, count) in enumerate(groups.items()):
        axes.barh(y, count, height=0.6, color=style.PALE)
        n = having.get(group, np.nan)
        patients = f", in {n:.0f} patients" if np.isfinite(n) else ""
        axes.text(count, y, f" {count}{patients}", va="center", fontsize=5.5)
    axes.set_yticks(range(len(groups)), list(groups.index))
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlim(0, 2.1 * max(groups, default=1))
    axes.grid(visible=False)
    cases = results.cases(view.dataset).query("status == 'ok'")
    people, text = _people(cases)
    axes.set_xlabel(f"labels\n{text}")
    splits = cases.split.value_counts().reindex(["train", "val", "test"]).dropna()
    counted = ", ".join(f"{count:.0f} {name}" for name, count in splits.items())
    tested = f"{having.get('all', 0):.0f} test patients"
    style.heading(axes, "a", f"{groups.sum()} labels; {counted or tested}")
    fixed = {"task": view.task, "dataset": view.dataset, "note": "counted"}
    rows = [{"group": name, "metric": "labels", "estimate": n} for name, n in groups.items()]
    rows += [{"group": name, "metric": "cases", "estimate": n} for name, n in splits.items()]
    return pd.DataFrame([{**fixed, **row} for row in [*rows, *people]])


def _people(cases: pd.DataFrame) -> tuple[list[dict[str, Any]], str]:
    """Return rows and words on the ages and sexes of cases, as far as their table tells them."""
    ages, sexes = cases.age.dropna(), cases.sex[cases.sex.isin(["f", "m"])]
    rows, words = [], []
    if len(ages):
        found = {"estimate": ages.median(), "low": ages.min(), "high": ages.max(), "n": len(ages)}
        rows.append({"group": "all", "metric": "age", **found, "note": "median, youngest and oldest, years"})
        words.append(f"age {ages.min():.0f} to {ages.max():.0f}, median {ages.median():.0f}")
    if len(sexes):
        share = (sexes == "f").mean()
        rows.append({"group": "all", "metric": "female", "estimate": share, "n": len(sexes), "note": "share"})
        words.append(f"{100 * share:.0f} % female")
    return rows, "; ".join(words) or "age and sex: not in the table"


def _second(axes: Axes, views: list[View]) -> pd.DataFrame:
    if len(views) > 1:
        return _overall(axes, "c", views[1])
    style.heading(axes, "c", "Second task")
    what = "One segmentation task only (the paper:\nabdomen, Merlin split). Add one to tasks."
    style.missing(axes, what, "snakemake evaluate")
    return views[0].rows[:0]


def _overall(axes: Axes, letter: str, view: View) -> pd.DataFrame:
    """Draw the macro Dice of each encoder: ours, by the paper's definition, and as printed; below them, rivals."""
    ours, theirs, quoted = (
        rows[rows.group == "all"] for rows in (view.pick(), view.pick(method=PUBLISHED), view.pick(method=QUOTED))
    )
    rivals = quoted[~quoted.encoder.isin(published.OURS)]
    names = list(view.looks)
    for row in ours.itertuples():
        style.interval(
            axes, row.estimate, names.index(row.encoder), row.low, row.high, view.looks[row.encoder], across=True
        )
    for row in theirs.itertuples():
        below, look = names.index(row.encoder) + 0.25, view.looks[row.encoder]
        axes.plot([row.low, row.high], [below, below], color=look.colour, linewidth=0.7)
        axes.plot(row.estimate, below, look.marker, markerfacecolor="white", color=look.colour, markersize=2.6)
    arms = {published.arm(name): place for place, name in reversed(list(enumerate(names)))}
    for row in quoted[quoted.encoder.isin(list(arms))].itertuples():
        above = arms[row.encoder] - 0.25
        axes.plot([row.low, row.high], [above, above], color=style.PAPER_COLOUR, linewidth=0.7)
        style.paper_mark(axes, row.estimate, above)
    for y, row in enumerate(rivals.itertuples(), start=len(names)):
        style.paper_mark(axes, row.estimate, y, filled=row.dataset == view.dataset)
    ticks = [*names, *(_rival(row, view) for row in rivals.itertuples())]
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_ylim(len(ticks) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("macro Dice")
    style.heading(axes, letter, f"{view.task}, {shared.patients(ours)} patients")
    return pd.concat([ours, theirs, quoted])


def _rival(row, view: View) -> str:
    caveat = "quoted" if row.dataset == view.dataset else "quoted, other split"
    return f"{RIVALS.get(row.encoder, row.encoder)}\n({caveat})"


def _win_rates(axes: Axes, view: View) -> pd.DataFrame:
    """Draw the share of labels won against each reference, filled against the first and open against others."""
    parts = [view.pick(shared.WINS, reference=name) for name in view.references]
    rows = pd.concat([view.rows[:0], *parts])
    rows = rows[rows.encoder.isin(view.ours)]
    if rows.empty:
        shared.no_reference(axes, "d", "Win rate")
        return rows
    names = [name for name in ["all", *view.groups()] if name in set(rows.group)]  # one label alone has no rate
    rows = rows[rows.group.isin(names)]
    percent = rows.assign(**{column: 100 * rows[column] for column in ("estimate", "low", "high", "paper")})
    axes.axvline(50, color=style.INK, linewidth=0.6)
    shared.dodged(axes, percent, names, view, across=True, filled=rows.reference == view.references[0])
    axes.set_xlim(-3, 103)
    axes.set_xlabel("labels with a higher mean Dice, %")
    first, *others = (f"'{name}'" for name in view.references)
    others_text = f", open: {' or '.join(others)}" if others else ""
    style.heading(axes, "d", f"Win rate. Filled: against {first}{others_text}; {shared.patients(rows)}")
    return percent


def _few_shot(axes: Axes, view: View) -> pd.DataFrame:
    rows = view.pick(shots="*").query("group == 'all'")
    if len(view.shots) < 2:
        style.heading(axes, "e", "Few-shot")
        what = "One number of training cases only.\nList more under tasks.<task>.shots."
        style.missing(axes, what, "snakemake evaluate")
        return rows[:0]
    shared.curves(axes, rows, view)
    axes.set_ylabel("macro Dice")
    style.heading(axes, "e", f"Few-shot, {shared.patients(rows)} patients, seeds: {rows.seeds.max():.0f}")
    return rows


def _groups(axes: Axes, view: View) -> pd.DataFrame:
    names = view.groups()
    rows = view.pick()
    rows = rows[rows.group.isin(names)]
    shared.dodged(axes, rows, names, view)
    axes.set_xticks(range(len(names)), [f"{name}\n{shared.patients(rows[rows.group == name])}" for name in names])
    axes.set_ylabel("macro Dice")
    style.heading(axes, "f", "Groups of labels")
    return rows


def _gain(axes: Axes, view: View) -> pd.DataFrame:
    """Draw the paired difference to the first reference; see ``sure`` for what is filled."""
    reference = next(iter(view.references), "")
    rows = view.against(reference, shots="*").query("group == 'all'")
    rows = rows[rows.encoder.isin(view.ours)]
    if rows.empty:
        shared.no_reference(axes, "g", "Does pre-training help?")
        return rows
    axes.axhline(0, color=style.INK, linewidth=0.6)
    shared.curves(axes, rows, view, filled=shared.sure(rows))
    shared.write(axes, rows, view)
    axes.set_ylabel(f"macro Dice less that of '{reference}'")
    marks = " Filled: over patients and seeds" if rows.p_holm.notna().any() else ""
    style.heading(axes, "g", f"Does pre-training help?{marks}")
    return rows
