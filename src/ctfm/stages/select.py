"""Choose CT series from the index of the Imaging Data Commons, and say what they will cost."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from ctfm import spec as specs
from ctfm import tables
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Config, Corpus, Prepare, Select
from ctfm.errors import UserError
from ctfm.files import need_file, write_json
from ctfm.idc import cost, measure, query, releases, source

log = logging.getLogger(__name__)

CorpusOption = Annotated[str | None, typer.Option(help="Entry of `corpora` (with --config).")]


def select(
    out: Annotated[Path, typer.Option(help="Folder of series.parquet, funnel.parquet, attribution.md and more.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
    corpus: CorpusOption = None,
) -> None:
    """Write the chosen series, what each step left, collections, licences, overlap, attribution.md, selection.json.

    Without --spec and --config the paper's criteria are applied to the releases that the paper used.
    """
    job = _job("select", spec, config, corpus)
    settings, engine, where = Corpus(**job["corpus"]), Select(**job["select"]), f"corpora.{job['name']}"
    chosen = query.select(settings, job["seed"], where, engine)
    chosen.write(out)
    for row in chosen.funnel.itertuples():
        log.info("%9d series %8d patients  %s", row.series, row.patients, row.step)


def fetch_index(
    out: Annotated[Path | None, typer.Option(help="JSON file that tells which tables there are.")] = None,
    spec: SpecOption = None,
    config: ConfigOption = None,
    corpus: CorpusOption = None,
) -> None:
    """Bring the index tables that a corpus needs into the cache; those that are there are only checked."""
    job = _job("select", spec, config, corpus)
    found = source.tables(Corpus(**job["corpus"]), Select(**job["select"]), f"corpora.{job['name']}")
    facts = {role: table.facts() for role, table in found.items()}
    for role, fact in facts.items():
        log.info(
            "%-8s %s of %s %s", role, fact["file"], fact.get("package", "the folder"), fact.get("version", "named")
        )
    if not facts:
        log.info("corpora.%s needs no table of %s", job["name"], releases.PACKAGE)
    if out:
        write_json({"tables": facts}, out)


def plan(
    series: Annotated[Path, typer.Option(help="series.parquet of `ctfm select`.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
    corpus: CorpusOption = None,
    out: Annotated[Path | None, typer.Option(help="plan.json to write; free disk is looked up there.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a selection will cost to prepare and train on; refuse when the disk is too small."""
    need_file(series, "make it with 'ctfm select'")
    job, machine = _job("plan", spec, config, corpus), specs.machine()
    settings, folder = Prepare(**job["prepare"]), (out or series).parent
    result = cost.estimate(tables.read("series", series), settings, machine, measure.seconds_per_gb(settings))
    result["free_disk_TB"] = cost.free_disk(folder) / cost.TB
    runs = {
        name: cost.training(
            entry, measure.forward_flop(entry["encoder"], entry["encoder_options"], entry["patch"]), machine
        )
        for name, entry in job["pretrain"].items()
    }
    result = cost.with_training(result, runs, machine)
    print(cost.as_json(result) if json else cost.as_text(result))
    cost.check_disk(result, folder)
    if out:
        write_json(result, out)


def _job(stage: str, spec: str | None, config: list[Path] | None, corpus: str | None) -> dict[str, Any]:
    """Return the job's spec; with neither --spec nor --config, that of the default settings."""
    if not spec and not config:
        if corpus:
            raise UserError("--corpus names an entry of a configuration; give --config FILE too")
        return specs.spec(Config(corpora={"default": Corpus()}), stage, corpus="default")
    if not spec and not corpus:
        raise UserError("--config needs --corpus too: which entry of `corpora` to take")
    return job_spec(stage, spec, config, corpus=corpus)
