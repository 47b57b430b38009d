"""Choose CT series from the index of the Imaging Data Commons, and say what they will cost."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from ctfm import spec as specs
from ctfm import tables
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Config, Corpus, Prepare
from ctfm.errors import UserError
from ctfm.files import need_file, write_json
from ctfm.idc import cost, measure, query

log = logging.getLogger(__name__)

CorpusOption = Annotated[str | None, typer.Option(help="Entry of `corpora` (with --config).")]


def select(
    out: Annotated[Path, typer.Option(help="Folder of series.parquet, funnel.parquet, collections.parquet.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
    corpus: CorpusOption = None,
) -> None:
    """Write the tables of chosen series, of what each step left, and of collections; and selection.json.

    Without --spec and --config the paper's criteria are applied to the installed index.
    """
    job = _job("select", spec, config, corpus)
    settings, seed = Corpus(**job["corpus"]), job["seed"]
    chosen = query.select(settings, seed, where=f"corpora.{job['name']}")
    tables.write(chosen.series, "series", out / "series.parquet")
    tables.write(chosen.funnel, "funnel", out / "funnel.parquet")
    tables.write(chosen.collections, "collections", out / "collections.parquet")
    write_json(chosen.facts, out / "selection.json")
    for row in chosen.funnel.itertuples():
        log.info("%9d series %8d patients  %s", row.series, row.patients, row.step)


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
