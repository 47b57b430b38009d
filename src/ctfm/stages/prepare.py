"""DICOM series of one shard to stored volumes, and the index of all shards with its quality page."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from ctfm import files, logs, provenance, tables
from ctfm import spec as specs
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Criteria, Machine, Prepare
from ctfm.errors import UserError
from ctfm.idc import cost, download, funnel
from ctfm.imaging import convert, converters, intake, quality

KEPT_COLUMNS = ["SeriesInstanceUID", "StudyInstanceUID", "PatientID", "collection_id", "shard"]
CorpusOption = Annotated[str | None, typer.Option(help="Entry of `corpora` (with --config).")]

log = logging.getLogger(__name__)


def prepare(
    series: Annotated[Path, typer.Option(help="series.parquet of `ctfm select`.")],
    shard: Annotated[int, typer.Option(help="Which shard of it.")],
    out: Annotated[Path, typer.Option(help="Folder of the corpus; the shard gets its own folder in it.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
    corpus: CorpusOption = None,
) -> None:
    """Download, check, convert and resample the series of one shard; goes on where it was interrupted.

    Writes shard=NNNNN/{<SeriesInstanceUID>.b2nd, thumbnails/, index.parquet, cross_checks.parquet}. A series that
    can't be used, or whose headers don't meet the criteria, is listed with its reason and stops nothing.
    """
    job = job_spec("prepare", spec, config, corpus=corpus)
    corpus_series, machine = tables.read("series", series), specs.machine()
    cost.check_room(corpus_series, shard, Prepare(**job["prepare"]), machine, out)
    chosen = corpus_series.query("shard == @shard")
    folder = files.ensure_folder(out / f"shard={shard:05d}")
    sources = zip(chosen["SeriesInstanceUID"], chosen["series_aws_url"], strict=True)
    keys = {str(uid): convert.key(job, str(url)) for uid, url in sources}
    rules = _rules(job, list(keys))
    made = intake.reuse(folder, keys, rules.wanted)
    _clear(folder / ".dicom", machine)
    todo = chosen[~chosen["SeriesInstanceUID"].isin(made)]
    log.info("shard %d: %d series, of which %d are done", shard, len(chosen), len(made))
    for uid, fault in logs.progress(intake.fetched(todo, folder / ".dicom", machine), f"shard {shard}", len(todo)):
        made[uid] = intake.one(folder, uid, fault, keys[uid], rules)
        _clear(folder / ".dicom" / uid, machine)
    download.check_reached([row["reason"] for row in made.values()], machine)
    _clear(folder / ".dicom", machine)
    rows = [{**row, **made[row["SeriesInstanceUID"]]} for row in chosen[KEPT_COLUMNS].to_dict("records")]
    if (seen := sum(row["status"] in ("ok", "quarantined") for row in rows)) != len(chosen):
        raise RuntimeError(f"{len(chosen)} series went in, {seen} came out or are quarantined")
    checks = tables.of("cross_checks", intake.cross_checks(folder, rules.checked, shard))
    tables.write(checks, "cross_checks", folder / "cross_checks.parquet")
    facts = {"code": provenance.code("prepare"), "spec": files.digest(job)}
    tables.write(tables.of("volumes", rows), "volumes", folder / "index.parquet", facts)


def index(
    shards: Annotated[int, typer.Option(help="How many shards there are; their folders lie in --out.")],
    out: Annotated[Path, typer.Option(help="Folder of the corpus.")],
    selected: Annotated[Path, typer.Option(help="funnel.parquet of `ctfm select`.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
    corpus: CorpusOption = None,
) -> None:
    """Join the tables of all shards into index.parquet and cross_checks.parquet.

    Writes also funnel.parquet (from the index to the volumes), quality.html and run.json.
    """
    job = job_spec("prepare", spec, config, corpus=corpus)
    folders = [out / f"shard={shard:05d}" for shard in range(shards)]
    table, facts = _all([folder / "index.parquet" for folder in folders], files.digest(job))
    checks = pd.concat([tables.read("cross_checks", folder / "cross_checks.parquet") for folder in folders])
    good = _some(table)
    whole = funnel.whole(tables.read("funnel", selected), table, Criteria(**job["criteria"]))
    tables.write(table, "volumes", out / "index.parquet", facts)
    tables.write(checks, "cross_checks", out / "cross_checks.parquet")
    tables.write(whole, "funnel", out / "funnel.parquet")
    with files.atomic(out / "quality.html") as temporary:
        temporary.write_text(quality.page(table, out, whole, checks))
    record = provenance.stamp(job) | {
        "code": facts["code"],
        "series": len(table),
        "ok": len(good),
        "quarantined": {str(k): int(n) for k, n in table.loc[table["status"] != "ok", "reason"].value_counts().items()},
        "data": files.digest(sorted(zip(good["SeriesInstanceUID"], good["sha256"], strict=True))),
    }
    files.write_json(record, out / "run.json")
    log.info("%d of %d series are ready; see %s", len(good), len(table), out / "quality.html")


def _rules(job: dict[str, Any], uids: list[str]) -> intake.Rules:
    settings = Prepare(**job["prepare"])
    sample = frozenset(converters.sample(uids, settings.cross_check, seed=0))
    return intake.Rules(settings, Criteria(**job["criteria"]), sample)


def _clear(folder: Path, machine: Machine) -> None:
    if not machine.keep_dicom:
        shutil.rmtree(folder, ignore_errors=True)


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
