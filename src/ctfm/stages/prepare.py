"""DICOM series of one shard to stored volumes, and the index of all shards with its quality page."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from ctfm import files, logs, provenance, tables
from ctfm import spec as specs
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Machine, Prepare
from ctfm.errors import Quarantine, UserError
from ctfm.idc import download
from ctfm.imaging import convert, pictures, quality

BATCH = 8  # series on disk as DICOM at once, and as many on their way
KEPT_COLUMNS = ["SeriesInstanceUID", "StudyInstanceUID", "PatientID", "collection_id", "shard"]

log = logging.getLogger(__name__)


def prepare(
    series: Annotated[Path, typer.Option(help="series.parquet of `ctfm select`.")],
    shard: Annotated[int, typer.Option(help="Which shard of it.")],
    out: Annotated[Path, typer.Option(help="Folder of the corpus; the shard gets its own folder in it.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
) -> None:
    """Download, check, convert and resample the series of one shard; goes on where it was interrupted.

    Writes shard=NNNNN/{<SeriesInstanceUID>.b2nd, thumbnails/, index.parquet}. A series that can't be used is
    listed with its reason and stops nothing.
    """
    job = job_spec("prepare", spec, config)
    chosen = tables.read("series", series).query("shard == @shard")
    folder, machine = files.ensure_folder(out / f"shard={shard:05d}"), specs.machine()
    sources = zip(chosen["SeriesInstanceUID"], chosen["series_aws_url"], strict=True)
    keys = {str(uid): convert.key(job, str(url)) for uid, url in sources}
    made = _reuse(folder, keys)
    _clear(folder / ".dicom", machine)
    todo = chosen[~chosen["SeriesInstanceUID"].isin(made)]
    log.info("shard %d: %d series, of which %d are done", shard, len(chosen), len(made))
    for uid, fault in logs.progress(_fetched(todo, folder / ".dicom", machine), f"shard {shard}", len(todo)):
        made[uid] = _one(folder, uid, fault, keys[uid], Prepare(**job["prepare"]))
        _clear(folder / ".dicom" / uid, machine)
    _clear(folder / ".dicom", machine)
    rows = [{**row, **made[row["SeriesInstanceUID"]]} for row in chosen[KEPT_COLUMNS].to_dict("records")]
    facts = {"code": provenance.code("prepare"), "spec": files.digest(job)}
    if (seen := sum(row["status"] in ("ok", "quarantined") for row in rows)) != len(chosen):
        raise RuntimeError(f"{len(chosen)} series went in, {seen} came out or are quarantined")
    tables.write(tables.of("volumes", rows), "volumes", folder / "index.parquet", facts)


def index(
    shards: Annotated[list[Path], typer.Argument(help="index.parquet of every shard.")],
    out: Annotated[Path, typer.Option(help="Folder of the corpus.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
) -> None:
    """Join the tables of all shards into index.parquet; write quality.html and run.json."""
    job = job_spec("prepare", spec, config)
    table, facts = _all(shards, files.digest(job))
    good = _some(table)
    tables.write(table, "volumes", out / "index.parquet", facts)
    with files.atomic(out / "quality.html") as temporary:
        temporary.write_text(quality.page(table, out))
    record = provenance.stamp(job) | {
        "code": facts["code"],
        "series": len(table),
        "ok": len(good),
        "quarantined": {str(k): int(n) for k, n in table.loc[table["status"] != "ok", "reason"].value_counts().items()},
        "data": files.digest(sorted(zip(good["SeriesInstanceUID"], good["sha256"], strict=True))),
    }
    files.write_json(record, out / "run.json")
    log.info("%d of %d series are ready; see %s", len(good), len(table), out / "quality.html")


def _reuse(folder: Path, keys: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the rows of volumes that an earlier run finished; remove all else that it left."""
    made = {}
    for path in sorted(folder.glob("*.b2nd")):
        try:
            made[path.stem] = convert.describe(path, keys[path.stem]) | {"path": f"{folder.name}/{path.name}"}
        except (Quarantine, KeyError):
            path.unlink()
    shutil.rmtree(folder / "thumbnails", ignore_errors=True)
    return made


def _clear(folder: Path, machine: Machine) -> None:
    if not machine.keep_dicom:
        shutil.rmtree(folder, ignore_errors=True)


def _fetched(rows: pd.DataFrame, folder: Path, machine: Machine) -> Iterator[tuple[str, str]]:
    """Yield (uid, fault or '') of each series once it is here, while the next batch is on its way."""
    batches = [rows.iloc[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(download.fetch, batch, folder, machine) for batch in batches[:1]]
        for number, batch in enumerate(batches, start=1):
            faults = coming.pop().result()
            coming += [pool.submit(download.fetch, later, folder, machine) for later in batches[number : number + 1]]
            yield from ((uid, faults.get(uid, "")) for uid in batch["SeriesInstanceUID"])


def _one(folder: Path, uid: str, fault: str, key: str, settings: Prepare) -> dict[str, Any]:
    """Convert one series; return its part of the row, whether it went well or not."""
    start, source, target = time.monotonic(), folder / ".dicom" / uid, folder / f"{uid}.b2nd"
    try:
        if fault:
            code, _, detail = fault.partition(": ")
            raise Quarantine(code, detail)
        row = convert.keep(*convert.convert(source, settings), target, key)
        row["path"] = f"{folder.name}/{target.name}"
    except Quarantine as reason:
        log.warning("%s quarantined: %s", uid, reason)
        row = {"status": "quarantined", "reason": reason.code, "detail": reason.detail}
        if (image := convert.picture(source)) is not None:
            pictures.write_png(image, folder / "thumbnails" / f"{uid}.png")
    return row | {"seconds": round(time.monotonic() - start, 3)}


def _all(shards: list[Path], spec: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Join the tables of shards, and what they say of their code."""
    parts = [tables.read("volumes", path) for path in shards]
    facts = [tables.facts(path) for path in shards]
    if other := [path for path, fact in zip(shards, facts, strict=True) if fact.get("spec") != spec]:
        raise UserError(f"{other[0]}: made with other settings of 'prepare'; run 'ctfm prepare' for this shard again")
    table = pd.concat(parts)
    if (twice := table["SeriesInstanceUID"].duplicated()).any():
        raise UserError(f"series {table['SeriesInstanceUID'][twice].iloc[0]} is in two tables; name each shard once")
    code = provenance.joined([fact["code"] for fact in facts])
    return table.sort_values(["shard", "SeriesInstanceUID"], ignore_index=True), {"code": code, "spec": spec}


def _some(table: pd.DataFrame) -> pd.DataFrame:
    """Return the good rows; refuse a corpus without any."""
    good = table[table["status"] == "ok"]
    if good.empty:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in table["reason"].value_counts().head(3).items())
        raise UserError(f"none of {len(table)} series is usable; reasons: {reasons or 'no series were chosen'}")
    return good
