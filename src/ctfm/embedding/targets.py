"""What is to be told from embeddings: a table of labels, joined with them, and who is held out when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from ctfm.errors import UserError, nearest
from ctfm.files import need_file
from ctfm.imaging import scans

CASE_COLUMNS = ("case", "case_id", "id", "image_id", "filename", "VolumeName")
NOT_TARGETS = ("patient", "split")
MOST_CLASSES = 20
INNER_FOLDS = 5  # one of them is held out of the training part, to choose by


@dataclass(frozen=True)
class Labels:
    """A table of labels.

    Attributes:
        table: indexed by case; columns ``patient``, ``split`` (empty without one), and the targets.
        targets: names of the targets.
    """

    table: pd.DataFrame
    targets: list[str]


class Target(NamedTuple):
    """One target on the cases with a label: positions among the embeddings, class of each, names of the classes."""

    name: str
    rows: np.ndarray
    label: np.ndarray
    classes: list[str]


class Fold(NamedTuple):
    """Positions among the cases of a target: to fit on, to choose by, to predict."""

    train: np.ndarray
    choose: np.ndarray
    test: np.ndarray


def read(path: Path, targets: Sequence[str] = ()) -> Labels:
    """Read a table of labels (.csv or .parquet).

    Args:
        path: it has a column of names of cases (``case``, ``case_id``, ``id``, ``image_id``, ``filename`` or
            ``VolumeName``; suffixes such as .nii.gz are dropped), may have ``patient`` and ``split`` (train, val,
            test), and one column for each target; an empty cell is no label.
        targets: columns to tell; default: all others.

    Raises:
        UserError: a column is missing or is no target, or a case or patient is there twice where it may not.
    """
    given = _table(need_file(path, "name a .csv or .parquet table of labels"))
    key = next((name for name in CASE_COLUMNS if name in given.columns), None)
    if key is None:
        raise UserError(f"{path}: needs a column of the scans' names: {', '.join(CASE_COLUMNS)}")
    names = pd.Index([_stem(str(name)) for name in given[key]], name="case")
    if names.has_duplicates:
        raise UserError(f"{path}: case '{names[names.duplicated()][0]}' is listed twice; each may be there once")
    others = [str(name) for name in given.columns if name not in (key, *NOT_TARGETS)]
    if unknown := [name for name in targets if name not in others]:
        raise UserError(f"{path}: no column '{unknown[0]}'{nearest(unknown[0], others)}")
    table = given.set_index(names)
    table["patient"] = table["patient"].astype(str) if "patient" in table else names
    table["split"] = table["split"].astype(str) if "split" in table else ""
    _check_split(path, table)
    wanted = list(targets or others)
    for name in wanted:
        if not 2 <= (count := table[name].nunique()) <= MOST_CLASSES:
            raise UserError(f"{path}: column '{name}' has {count} different values; a target has 2 to {MOST_CLASSES}")
    return Labels(table, wanted)


def target(labels: Labels, name: str, cases: Sequence[str]) -> Target:
    """Return a target on those of the embedded ``cases`` that have a label for it."""
    column = labels.table[name].reindex(list(cases))
    rows = np.flatnonzero(column.notna())
    classes = sorted(labels.table[name].dropna().unique())
    number = {value: k for k, value in enumerate(classes)}
    spelled = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in classes]
    return Target(name, rows, np.array([number[v] for v in column.iloc[rows]], int), spelled)


def folds(label: np.ndarray, patient: np.ndarray, split: np.ndarray, count: int, seed: int) -> Iterator[Fold]:
    """Yield who is fitted on, chosen by and predicted: the given split, or ``count`` folds of patients.

    A given split predicts its test cases (its val cases if it has no others) and chooses by its val cases. Otherwise
    each case is predicted once; no patient is on two sides, and the classes are spread evenly.

    Raises:
        UserError: some class has fewer patients than there are folds, or the split has no cases to fit on or predict.
    """
    if (split != "").any():
        train, val, test = (np.flatnonzero(split == name) for name in ("train", "val", "test"))
        test, val = (test, val) if test.size else (val, test)
        if not train.size or not test.size:
            raise UserError("column 'split': no case with a label is in 'train', or none in 'test' or 'val'")
        yield Fold(train, val, test) if val.size else Fold(*_inner(train, label, patient, seed), test)
        return
    fewest = min(len(set(patient[label == k])) for k in np.unique(label))
    if fewest < count:
        raise UserError(f"a class has {fewest} patients, fewer than the {count} folds")
    for train, test in _cut(label, patient, count, seed):
        yield Fold(*_inner(train, label, patient, seed), test)


def _inner(train: np.ndarray, label: np.ndarray, patient: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a part of the patients off the training cases, to choose by; with too few, choose on the training cases."""
    people = min(len(set(patient[train][label[train] == k])) for k in np.unique(label[train]))
    if people < 2:
        return train, train
    fit, choose = next(_cut(label[train], patient[train], min(INNER_FOLDS, people), seed))
    return train[fit], train[choose]


def _cut(label: np.ndarray, patient: np.ndarray, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rest, held out) of ``count`` folds of patients, each patient taken for the highest class of its cases."""
    people, owner = np.unique(patient, return_inverse=True)
    highest = np.zeros(len(people), int)
    np.maximum.at(highest, owner, label)
    for _, held in StratifiedKFold(count, shuffle=True, random_state=seed).split(people, highest):
        out = np.isin(owner, held)
        yield np.flatnonzero(~out), np.flatnonzero(out)


def _check_split(path: Path, table: pd.DataFrame) -> None:
    known = set(table["split"]) - {"train", "val", "test", "", "nan"}
    if known:
        raise UserError(f"{path}: split '{sorted(known)[0]}' must be train, val or test")
    table["split"] = table["split"].replace("nan", "")
    given = table[table["split"] != ""]
    several = given.groupby("patient")["split"].nunique()
    if (several > 1).any():
        raise UserError(f"{path}: patient '{several.idxmax()}' is in two splits; a patient may be in one only")


def _stem(name: str) -> str:
    name = Path(name).name
    return next((name[: -len(s)] for s in (*scans.SUFFIXES, scans.PREPARED) if name.lower().endswith(s)), name)


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a readable table ({' '.join(str(error).split())[:200]})") from error
