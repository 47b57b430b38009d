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

from ctfm import published, published_distances, resources, tables
from ctfm.config import Evaluate
from ctfm.errors import UserError, nearest
from ctfm.metrics import decisions, localisation
from ctfm.metrics.summary import OURS, QUOTED, summarise

ORGAN_COLUMNS = {"model": ("model", "arm"), "organ": ("organ", "structure", "label", "class"), "dice": ("dice",)}
PREDICTIONS = "_combined_predictions.csv"
RUN_COLUMN = re.compile(r"(?P<model>.+)_(?P<percent>\d+(\.\d+)?)pct")
BASELINE = {"baseline": "random"}  # as these tables call the random initialisation
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


def predictions(files: Sequence[Path], _cases: int) -> Imported:
    """Read tables of probabilities per scan: its name, label (1: abnormal), ``<model>_<percent>pct`` of the training.

    What stands before ``_combined_predictions.csv`` is the data set, such as SinoCT. There are no probabilities of
    validation scans, so the threshold is 0.5. Scans are taken as patients.

    Args:
        files: CSV files, one for each data set.

    Raises:
        UserError: a table lacks a column, or has wrong or missing values, or a scan twice.
    """
    parts = sorted((_prediction_rows(path) for path in files), key=len, reverse=True)  # the larger set was learnt from
    made = [row for part in parts for row in decisions.summarise(part, Evaluate())]
    return Imported("head_triage", pd.concat(parts, ignore_index=True), tables.of("summary", made))


def distances(files: Sequence[Path], _cases: int) -> Imported:
    """Read tables of the distances that semantic search leaves (``ctfm.published_distances``), of one model each.

    Args:
        files: CSV files, one for each model, which their names tell.

    Raises:
        UserError: a table lacks a column, or has wrong values or a scan twice, or two are of one model.
    """
    parts: dict[str, pd.DataFrame] = {}
    for path in files:
        model = published_distances.model(path)
        name = BASELINE.get(model.lower(), arm(model))
        if name in parts:
            raise UserError(f"{path}: another table is of this model ('{name}') too; keep one")
        parts[name] = tables.of("metrics", published_distances.rows(path, _distance_table(path), name))
    metrics = pd.concat(parts.values(), ignore_index=True)
    made = localisation.summarise(metrics, Evaluate())
    for row in made:
        if row["metric"] == localisation.DISTANCE and row["method"] != QUOTED and not row["reference"]:
            row["note"] = "; ".join(filter(None, [row["note"], published_distances.told(metrics, row["encoder"])]))
    return Imported(published_distances.TASK, metrics, tables.of("summary", made))


# Which function reads which files. More forms were published: results of retrieval.
FORMS: dict[str, Callable[[Sequence[Path], int], Imported]] = {
    "*_organ_scores.csv": organ_scores,
    f"*{PREDICTIONS}": predictions,
    "*[Ss]emantic_[Dd]istance*.csv": distances,
}


def _distance_table(path: Path) -> pd.DataFrame:
    """Return the columns that are read, named as published; ``inside_label`` need not be there."""
    table = _csv(path)
    names = (published_distances.SCAN, published_distances.CM)
    wanted = {_column(path, table, name, (name, name.replace("_", " "))): name for name in names}
    inside = [column for column in table if str(column).lower().replace(" ", "_") == published_distances.IN]
    return table.rename(columns=wanted | dict.fromkeys(inside, published_distances.IN))


def _prediction_rows(path: Path) -> pd.DataFrame:
    table = _csv(path)
    name, label = _column(path, table, "scan", ("name", "patient_id")), _column(path, table, "label", ("label",))
    runs = {column: match for column in table if (match := RUN_COLUMN.fullmatch(str(column)))}
    if not runs:
        raise UserError(f"{path}: no column of a model, such as ct_fm_100pct; there are: {', '.join(table)}")
    if twice := list(table[name][table[name].duplicated()]):
        raise UserError(f"{path}: '{twice[0]}' is there twice; keep one")
    _within(path, table, label, "0 or 1", lambda values: values.isin([0, 1]))
    for column in runs:
        _within(path, table, column, "from 0 to 1", lambda values: values.between(0, 1))
    dataset = path.name.removesuffix(PREDICTIONS).lower()
    fixed = {"task": "head_triage", "dataset": dataset, "seed": 0, "split_hash": "published", "note": ""}
    rows = []
    for column, match in runs.items():
        own = fixed | {"encoder": BASELINE.get(match["model"], arm(match["model"])), "shots": _shots(match["percent"])}
        for metric, source in ((decisions.PROBABILITY, column), (decisions.TARGET, label)):
            rows += [
                {**own, "case_id": str(case), "patient": str(case), "metric": metric, "value": float(value)}
                for case, value in zip(table[name], table[source], strict=True)
            ]
    return tables.of("metrics", rows).assign(label="abnormal", group="all")


def _within(path: Path, table: pd.DataFrame, column: str, what: str, good: Callable[[pd.Series], pd.Series]) -> None:
    """Raise unless all values of a column are numbers that are good."""
    bad = table[~good(pd.to_numeric(table[column], errors="coerce"))]
    if len(bad):
        raise UserError(f"{path}: row {bad.index[0] + 2}: {column} must be {what}, not '{bad[column].iloc[0]}'")


def _shots(percent: str) -> str:
    """Return a share of the training cases as the results name it: 2 percent is ``0.02``, 100 percent is ``all``."""
    return "all" if float(percent) == 100 else str(float(percent) / 100)


def _note(metric: str, note: str) -> str:
    """Keep the count of ties of a win rate, and say why there is no interval."""
    ties = f"{note.split(';')[0]}; " if metric.endswith("_win_rate") else ""
    return ties + NO_CASES


def _organ_table(path: Path) -> pd.DataFrame:
    table = _csv(path)
    columns = {wanted: _column(path, table, wanted, words) for wanted, words in ORGAN_COLUMNS.items()}
    table = table[list(columns.values())].set_axis(list(columns), axis=1)
    dice = pd.to_numeric(table.dice, errors="coerce")
    bad = table[~dice.between(0, 1)]
    if len(bad):
        raise UserError(f"{path}: row {bad.index[0] + 2}: Dice must be from 0 to 1, not '{bad.dice.iloc[0]}'")
    known = _groups()
    for organ in table.organ:
        if organ not in known:
            raise UserError(f"{path}: '{organ}' is no structure of TotalSegmentator 2{nearest(str(organ), known)}")
    return table.assign(dice=dice, arm=[arm(str(model)) for model in table.model], file=path.name)


def _csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a CSV table ({str(error).splitlines()[0]})") from error
    if table.empty:
        raise UserError(f"{path}: the table has no rows")
    return table


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
