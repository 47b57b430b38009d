"""Which case of a data set is in which split: its own splits, lists that come with the checkout, or a user's own.

A list has the columns ``case`` and ``split``, and may have ``patient``, which then says whose a case is. A list of
cases to leave out has ``case`` and ``reason``.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ctfm import resources
from ctfm.config import Dataset
from ctfm.datasets import Case
from ctfm.errors import UserError, nearest
from ctfm.files import need_file, sha256

OFFICIAL = "official"
SPLITS = ("train", "val", "test")
NAMED = 5  # cases that a message names

log = logging.getLogger(__name__)


def path(folder: str, kind: str, name: str) -> Path:
    """Return the file of a list: ``name`` itself if it ends in .csv, else resources/<folder>/<kind>_<name>.csv.

    Raises:
        UserError: there is no such file.
    """
    if name.endswith(".csv"):
        return need_file(name, "name a list of cases that exists, or one of those that come with the checkout")
    known = {p.stem.removeprefix(f"{kind}_"): p for p in resources.path(folder).glob(f"{kind}_*.csv")}
    if name not in known:
        raise UserError(f"{folder}: no list '{name}' of {kind}{nearest(name, known)}; or name a .csv file of your own")
    return known[name]


def read(file: Path, column: str) -> dict[str, dict[str, str]]:
    """Return {case: row} of a list.

    Raises:
        UserError: a column is missing, a case stands there twice, or a split is none.
    """
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        if missing := {"case", column} - set(reader.fieldnames or ()):
            raise UserError(f"{file}: lacks the column(s) {', '.join(sorted(missing))}; the first line names columns")
        rows = list(reader)
    _once((row["case"] for row in rows), str(file))
    for row in rows:
        if column == "split" and row["split"] not in SPLITS:
            raise UserError(
                f"{file}: split '{row['split']}' of case '{row['case']}' must be one of {', '.join(SPLITS)}"
            )
    return {row["case"]: row for row in rows}


def assign(cases: Sequence[Case], settings: Dataset) -> list[tuple[Case, dict[str, Any]]]:
    """Give each case its row of the table: its split, or why it is left out. The order is the data set's.

    Raises:
        UserError: a case is there twice, the list of the split names a case that is not, a list that comes with the
            checkout does not name one that is, or a patient is in two splits.
    """
    _once((case.case for case in cases), settings.root)
    cases = [_listed(case, row) for case, row in zip(cases, _rows(cases, settings), strict=True)]
    left_out = _left_out(cases, settings)
    made = []
    for case in cases:
        reason = left_out.get(case.case) or _unsuitable(case, settings)
        row: dict[str, Any] = {"case": case.case, "patient": case.patient, "split": case.split, "status": "ok"}
        row |= {"age": case.age, "sex": case.sex}
        made.append((case, row | excluded(*reason) if reason else row))
    check_patients([row for _, row in made if row["status"] == "ok"])
    return made


def digests(settings: Dataset) -> dict[str, str]:
    """Return the SHA-256 of each list that a data set is read with."""
    named = {"splits": None if settings.split == OFFICIAL else settings.split, "exclude": settings.exclude}
    return {folder: sha256(path(folder, settings.kind, name)) for folder, name in named.items() if name}


def excluded(code: str, detail: str) -> dict[str, Any]:
    """Return what the row of a case says that can't be used."""
    return {"split": "", "status": "excluded", "reason": code, "detail": detail}


def check_patients(rows: Iterable[Mapping[str, Any]]) -> None:
    """Check that no patient is in two splits.

    Raises:
        UserError: one is; the message names the patient and a case.
    """
    seen: dict[str, str] = {}
    for row in rows:
        if seen.setdefault(row["patient"], row["split"]) != row["split"]:
            raise UserError(
                f"patient '{row['patient']}' is in two splits, '{seen[row['patient']]}' and '{row['split']}' "
                f"(case '{row['case']}'); a patient may be in one only: mend the split list"
            )


def _rows(cases: Sequence[Case], settings: Dataset) -> list[dict[str, str] | None]:
    """Return the row of each case in the list of the split; the official split has none."""
    if settings.split == OFFICIAL:
        return [{"split": case.split} for case in cases]
    file = path("splits", settings.kind, settings.split)
    wanted = read(file, "split")
    here = {case.case for case in cases}
    absent, extra = sorted(set(wanted) - here), sorted(here - set(wanted))
    told = f"; {len(extra)} cases are there that it does not list: {_few(extra)}" if extra else ""
    if absent:
        raise UserError(
            f"{file}: {len(absent)} of its {len(wanted)} cases are not in {settings.root}: {_few(absent)}; "
            f"complete the data set, or take them off the list{told}"
        )
    if extra and not settings.split.endswith(".csv"):  # a user's own list may be of a part
        raise UserError(f"{file}: the data set in {settings.root} is another one{told}; give a list of your own")
    return [wanted.get(case.case) for case in cases]


def _listed(case: Case, row: Mapping[str, str] | None) -> Case:
    split = row["split"] if row else ""
    return replace(case, split=split, patient=(row or {}).get("patient") or case.patient)


def _left_out(cases: Sequence[Case], settings: Dataset) -> dict[str, tuple[str, str]]:
    """Return {case: (code, detail)} of the cases that a list leaves out."""
    if settings.exclude is None:
        return {}
    file = path("exclude", settings.kind, settings.exclude)
    listed = read(file, "reason")
    if absent := sorted(set(listed) - {case.case for case in cases}):
        log.warning("%s: %d cases are not in the data set: %s", file.name, len(absent), _few(absent))
    return {name: ("excluded_by_list", row["reason"]) for name, row in listed.items()}


def _unsuitable(case: Case, settings: Dataset) -> tuple[str, str] | None:
    if settings.study_types and not any(fnmatchcase(case.study, kind) for kind in settings.study_types):
        return "study_type", f"'{case.study}' is none of the study types asked for"
    if case.split not in SPLITS:
        return "not_in_split", f"split '{settings.split}' does not list it"
    return None


def _once(names: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"{where}: case '{name}' is listed twice; each may be there once")
        seen.add(name)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
