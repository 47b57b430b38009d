"""Stage ``datasets``: one labelled data set into the volume store, with a table of its cases."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from ctfm import archive, files, logs, plugins, provenance, splits, tables
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Dataset
from ctfm.datasets import Case
from ctfm.errors import Quarantine, UserError
from ctfm.imaging import classified, labelled
from ctfm.spec import machine

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
    rows = splits.assign(list(plugin.cases(root)), settings)
    folder = files.ensure_folder(out / "volumes")
    for case, row, kept in _kept(rows, plugin, settings, folder):
        row.update(image=f"volumes/{case.case}.b2nd", label=f"volumes/{case.case}_label.b2nd")
        row.update(kept)
    _write([row for _, row in rows], job, settings, plugin, out)


def fetch_dataset(
    out: Annotated[Path, typer.Option(help="Folder of source.json.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
    dataset: Annotated[str | None, typer.Option(help="Entry of `datasets`, with --config.")] = None,
) -> None:
    """Download a data set whose source is open, check it, unpack it to its root; write source.json."""
    job = job_spec("datasets", spec, config, dataset=dataset)
    settings = Dataset(**job["dataset"])
    plugin = plugins.get("datasets", settings.kind)
    if plugin.SOURCE["checksum"] is None:
        raise UserError(
            f"{settings.kind} can't be fetched: get it from {plugin.SOURCE['url']}, then set 'fetch: false'"
        )
    facts = archive.fetch(plugin.SOURCE, Path(settings.root), plugin.MARKER)
    plugin.check(Path(settings.root))
    files.write_json(facts, out / "source.json")


def annotated(cases: list[Case], ids: dict[str, int]) -> dict[str, int]:
    """Return what a data set tells of: all if a case has one map of ids, or findings, else structures with a mask."""
    masks: set[str] = set()
    for case in cases:
        if not isinstance(case.labels, dict):
            return ids
        masks |= set(case.labels)
    if missing := [name for name in ids if name not in masks]:
        log.warning("%d of %d structures have no mask in any case: they are left out", len(missing), len(ids))
    return {name: number for name, number in ids.items() if name in masks}


def _kept(
    rows: list[tuple[Case, dict[str, Any]]], plugin: ModuleType, settings: Dataset, folder: Path
) -> Iterator[tuple[Case, dict[str, Any], dict[str, Any]]]:
    """Yield (case, its row, what its files tell) of the cases in the split, read by several processes."""
    chosen = [(case, row) for case, row in rows if row["status"] == "ok"]
    jobs = _jobs([case for case, _ in chosen], plugin, settings, folder)
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


def _jobs(cases: list[Case], plugin: ModuleType, settings: Dataset, folder: Path) -> list[tuple[Any, ...]]:
    """Return name, function and arguments for each case: its data set's own ``keep``, or that of scans with labels."""
    if hasattr(plugin, "keep"):
        return [(case.case, plugin.keep, case, settings.spacing_mm, folder) for case in cases]
    ids = annotated(cases, plugin.LABELS)
    table = {"ids": ids, "groups": {name: plugin.GROUPS[name] for name in ids}}
    given = [(case.case, case.image, case.labels, table, settings.spacing_mm, folder) for case in cases]
    return [(arguments[0], _keep(case), *arguments) for case, arguments in zip(cases, given, strict=True)]


def _keep(case: Case) -> Callable[..., dict[str, Any]]:
    """Return what stores a case: with masks, or with what its scan shows as a whole."""
    return labelled.keep if isinstance(case.labels, dict | Path) else classified.keep


def _one(job: tuple[Any, ...]) -> dict[str, Any]:
    """Store one case; return its part of the row, whether it went well or not."""
    name, keep, *arguments = job
    try:
        return keep(*arguments)
    except Quarantine as reason:
        log.warning("%s is excluded: %s", name, reason)
        return splits.excluded(reason.code, reason.detail)


def _write(rows: list[dict[str, Any]], job: dict[str, Any], settings: Dataset, plugin: ModuleType, out: Path) -> None:
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        first = f"{rows[0]['case']}: {rows[0]['reason']}, {rows[0]['detail']}" if rows else "no case is listed"
        raise UserError(f"{settings.root}: none of {len(rows)} cases is usable ({first})")
    blank = {"reason": "", "detail": "", "image": "", "label": ""}
    kept = [blank | (row if row["status"] == "ok" else row | {"image": "", "label": ""}) for row in rows]
    tables.write(tables.of("cases", kept), "cases", out / "cases.parquet")
    files.write_json(
        provenance.stamp(job, f"datasets.{settings.kind}")
        | {
            "source": plugin.SOURCE,
            "cases": {split: sum(row["split"] == split for row in good) for split in splits.SPLITS},
            "excluded": len(rows) - len(good),
            "overlap_voxels": sum(row["overlap_voxels"] for row in good),
            "lists": splits.digests(settings),
        },
        out / "run.json",
    )
    log.info("%d cases stored, %d excluded (see %s)", len(good), len(rows) - len(good), out / "cases.parquet")
