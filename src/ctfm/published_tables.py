"""Reading the tables that were published with the paper, one small function for each form.

A reader takes the files of its form and returns the rows of ``metrics`` and ``summary`` of one task, as if the
task had been run. To read another form, write its function and add a line to ``FORMS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ctfm import published, resources, tables
from ctfm.config import Evaluate
from ctfm.errors import UserError, nearest
from ctfm.metrics.summary import OURS, QUOTED, summarise

ORGAN_COLUMNS = {"model": ("model", "arm"), "organ": ("organ", "structure", "label", "class"), "dice": ("dice",)}
NO_CASES = "from a published mean per structure; without values per case there is no interval over patients, and no p"


class Imported(NamedTuple):
    """What the files of one form hold: the rows of ``metrics`` and of ``summary`` of one task."""

    task: str
    metrics: pd.DataFrame
    summary: pd.DataFrame


def find(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each known form in a folder.

    Raises:
        UserError: there is none.
    """
    found = {form: sorted(folder.glob(form)) for form in FORMS}
    found = {form: files for form, files in found.items() if files}
    if not found:
        raise UserError(f"{folder}: no table of a known form ({', '.join(FORMS)}); name the folder that holds them")
    return found


def organ_scores(files: Sequence[Path], cases: int) -> Imported:
    """Read tables of mean Dice per structure: model, structure of TotalSegmentator (version 2), Dice.

    Each mean is over the test cases that have the structure. Macro means, group means and win rates follow from
    them; intervals over patients do not, so none is given.

    Args:
        files: CSV files, each with one or more models.
        cases: test cases behind the means, which the tables don't tell.

    Raises:
        UserError: a table lacks a column, or has wrong structures or values, or the models don't match.
    """
    scores = pd.concat([_organ_table(path) for path in files], ignore_index=True)
    _check_arms(scores)
    groups = _groups()
    fixed = {"task": "wholebody", "dataset": "totalsegmentator", "shots": "all", "seed": 0, "split_hash": "published"}
    fixed |= {"case_id": "mean over cases", "patient": "mean over cases", "metric": "dice", "note": NO_CASES}
    rows = [
        {**fixed, "encoder": r.arm, "label": r.organ, "group": groups[r.organ], "value": r.dice}
        for r in scores.itertuples()
    ]
    metrics = tables.of("metrics", rows)
    summary = tables.of("summary", summarise(metrics, Evaluate(), cases))
    summary = summary[summary.method.isin([OURS, QUOTED])]  # the paper's interval needs values per case too
    own = summary.method == OURS
    summary.loc[own, "n"] = np.where(summary[own].group == "all", cases, np.nan)  # how many have a label isn't told
    summary.loc[own, "note"] = [_note(row.metric, row.note) for row in summary[own].itertuples()]
    return Imported("wholebody", metrics, summary)


# Which function reads which files. More forms were published: predictions of triage, results of retrieval.
FORMS: dict[str, Callable[[Sequence[Path], int], Imported]] = {"*_organ_scores.csv": organ_scores}


def _note(metric: str, note: str) -> str:
    """Keep the count of ties of a win rate, and say why there is no interval."""
    ties = f"{note.split(';')[0]}; " if metric.endswith("_win_rate") else ""
    return ties + NO_CASES


def _organ_table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a CSV table ({str(error).splitlines()[0]})") from error
    columns = {wanted: _column(path, table, wanted, words) for wanted, words in ORGAN_COLUMNS.items()}
    table = table[list(columns.values())].set_axis(list(columns), axis=1)
    if table.empty:
        raise UserError(f"{path}: the table has no rows")
    dice = pd.to_numeric(table.dice, errors="coerce")
    bad = table[~dice.between(0, 1)]
    if len(bad):
        raise UserError(f"{path}: row {bad.index[0] + 2}: Dice must be from 0 to 1, not '{bad.dice.iloc[0]}'")
    known = _groups()
    for organ in table.organ:
        if organ not in known:
            raise UserError(f"{path}: '{organ}' is no structure of TotalSegmentator 2{nearest(str(organ), known)}")
    return table.assign(dice=dice, arm=[arm(str(model)) for model in table.model], file=path.name)


def _column(path: Path, table: pd.DataFrame, wanted: str, words: Sequence[str]) -> str:
    """Return the one column whose name holds one of the words, in any case."""
    found = [name for name in table.columns if any(word in str(name).lower() for word in words)]
    if len(found) != 1:
        problem = "has no column" if not found else f"has {len(found)} columns"
        there = ", ".join(map(str, table.columns))
        raise UserError(f"{path}: {problem} for the {wanted} ({' or '.join(words)} in its name); there are: {there}")
    return found[0]


def arm(model: str) -> str:
    """Return the encoder's name for a model as the tables call it: ``CT FM (Ours)`` is ``ctfm``."""
    plain = re.sub(r"[^a-z0-9]+", "_", model.lower()).strip("_")
    short = plain.replace("_", "")
    return next((name for name in published.OURS if short.startswith(name)), plain)


def _check_arms(scores: pd.DataFrame) -> None:
    """Raise unless every model has the same structures, each once."""
    twice = scores[scores.duplicated(["arm", "organ"])]
    if len(twice):
        first = twice.iloc[0]
        raise UserError(f"{first.file}: '{first.organ}' of model '{first.model}' is there twice; keep one")
    organs = scores.groupby("arm").organ.agg(frozenset)
    for name, own in organs.items():
        missing = sorted(frozenset().union(*organs) - own)
        if missing:
            raise UserError(
                f"model '{name}' lacks {', '.join(missing[:5])}, which others have; means would not compare"
            )


def _groups() -> dict[str, str]:
    table = pd.read_csv(resources.path("labels", "totalsegmentator_v2.csv"))
    return dict(zip(table["name"], table["group"], strict=True))
