"""Stage ``datasets``: one labelled data set into the volume store, with a table of its cases."""

from __future__ import annotations

import csv
import logging
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from ctfm import files, logs, plugins, provenance, resources, tables
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Dataset
from ctfm.datasets import Case
from ctfm.errors import Quarantine, UserError
from ctfm.imaging import labelled
from ctfm.spec import machine

SPLITS = ("train", "val", "test")
CASES_PER_WORKER = 4  # fewer are read faster than a process starts

log = logging.getLogger(__name__)


def datasets(
    out: Annotated[Path, typer.Option(help="Folder of the data set's volumes and table.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
    dataset: Annotated[str | None, typer.Option(help="Entry of `datasets`, with --config.")] = None,
) -> None:
    """Write volumes/<case>.b2nd, volumes/<case>_label.b2nd, cases.parquet and run.json."""
    job = job_spec("datasets", spec, config, dataset=dataset)
    settings = Dataset(**job["dataset"])
    plugin, root = plugins.get("datasets", settings.kind), Path(settings.root)
    plugin.check(root)
    rows = _split(list(plugin.cases(root)), settings)
    folder = files.ensure_folder(out / "volumes")
    for case, row, kept in _kept(rows, plugin, settings, folder):
        row.update(kept, image=f"volumes/{case.case}.b2nd", label=f"volumes/{case.case}_label.b2nd")
    _write([row for _, row in rows], job, settings, plugin, out)


def split_table(kind: str, name: str) -> dict[str, str]:
    """Return {case: split} of resources/splits/<kind>_<name>.csv.

    Raises:
        UserError: the file is missing, or a line of it is wrong.
    """
    path = resources.path("splits", f"{kind}_{name}.csv")
    with path.open(newline="") as stream:
        table = {row["case"]: row["split"] for row in csv.DictReader(stream)}
    if wrong := [case for case, split in table.items() if split not in SPLITS]:
        raise UserError(f"{path}: split '{table[wrong[0]]}' of case '{wrong[0]}' must be one of {', '.join(SPLITS)}")
    return table


def _split(cases: list[Case], settings: Dataset) -> list[tuple[Case, dict[str, Any]]]:
    """Give each case its split; cases that the split leaves out or that are not on disk are excluded."""
    wanted = {case.case: case.split for case in cases}
    if settings.split != "official":
        wanted = split_table(settings.kind, settings.split)
    rows = []
    for case in cases:
        row: dict[str, Any] = {"case": case.case, "patient": case.patient, "split": wanted.get(case.case, "")}
        good = row["split"] in SPLITS
        row |= {"status": "ok"} if good else _excluded("not_in_split", f"split '{settings.split}' does not list it")
        rows.append((case, row))
    for name in sorted(set(wanted) - {case.case for case in cases}):
        row = {"case": name, "patient": name} | _excluded("absent", "listed in the split, not in the data set")
        rows.append((Case(name, name, "", Path(), {}), row))
    _check_patients([row for _, row in rows if row["status"] == "ok"])
    return rows


def _check_patients(rows: list[dict[str, Any]]) -> None:
    seen: dict[str, str] = {}
    for row in rows:
        if seen.setdefault(row["patient"], row["split"]) != row["split"]:
            raise UserError(
                f"patient '{row['patient']}' is in two splits, '{seen[row['patient']]}' and '{row['split']}' "
                f"(case '{row['case']}'); a patient may be in one only: mend the split list"
            )


def _kept(
    rows: list[tuple[Case, dict[str, Any]]], plugin: ModuleType, settings: Dataset, folder: Path
) -> Iterator[tuple[Case, dict[str, Any], dict[str, Any]]]:
    """Yield (case, its row, what its files tell) of the cases in the split, read by several processes."""
    chosen = [(case, row) for case, row in rows if row["status"] == "ok"]
    table = {"ids": plugin.LABELS, "groups": plugin.GROUPS}
    jobs = [(case.case, case.image, case.labels, table, settings.spacing_mm, folder) for case, _ in chosen]
    workers = min(machine().loader_workers, len(jobs) // CASES_PER_WORKER)

    def told(found: Iterable[dict[str, Any]]) -> Iterator[tuple[Case, dict[str, Any], dict[str, Any]]]:
        for (case, row), kept in zip(chosen, logs.progress(found, "cases", len(jobs)), strict=True):
            yield case, row, kept

    if workers < 2:
        yield from told(map(_one, jobs))
        return
    # spawn: image libraries start threads, which a forked process must not inherit
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from told(pool.map(_one, jobs))


def _one(job: tuple[Any, ...]) -> dict[str, Any]:
    """Store one case; return its part of the row, whether it went well or not."""
    try:
        return labelled.keep(*job)
    except Quarantine as reason:
        log.warning("%s is excluded: %s", job[0], reason)
        return _excluded(reason.code, reason.detail)


def _excluded(code: str, detail: str) -> dict[str, Any]:
    return {"split": "", "status": "excluded", "reason": code, "detail": detail}


def _write(rows: list[dict[str, Any]], job: dict[str, Any], settings: Dataset, plugin: ModuleType, out: Path) -> None:
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        first = f"{rows[0]['case']}: {rows[0]['reason']}, {rows[0]['detail']}" if rows else "no case is listed"
        raise UserError(f"{settings.root}: none of {len(rows)} cases is usable ({first})")
    overlap = sum(row.pop("overlap_voxels", 0) for row in rows)
    blank = {"reason": "", "detail": "", "image": "", "label": ""}
    kept = [blank | (row if row["status"] == "ok" else row | {"image": "", "label": ""}) for row in rows]
    tables.write(tables.of("cases", kept), "cases", out / "cases.parquet")
    files.write_json(
        provenance.stamp(job, f"datasets.{settings.kind}")
        | {
            "source": plugin.SOURCE,
            "cases": {split: sum(row["split"] == split for row in good) for split in SPLITS},
            "excluded": len(rows) - len(good),
            "overlap_voxels": overlap,
        },
        out / "run.json",
    )
    log.info("%d cases stored, %d excluded (see %s)", len(good), len(rows) - len(good), out / "cases.parquet")
