"""Stage ``probe``: score every checkpoint of a pre-training run by few-shot probing, and choose one."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from ctfm import cases as case_table
from ctfm import files, logs, plugins, provenance, selection, tables, weights
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Probe, Strict
from ctfm.metrics.choice import choose
from ctfm.training import checkpoints, loop
from ctfm.training.pool import Pool

log = logging.getLogger(__name__)


def check(
    cases: Annotated[Path, typer.Option(help="cases.parquet of the probe's data set.")],
    out: Annotated[Path, typer.Option(help="JSON file that lists the probe's cases.")],
    tests: Annotated[list[Path], typer.Argument(help="cases.parquet of every data set that a task is tested on.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
) -> None:
    """Check that no patient whom the probe uses is in the test split of a data set of the same kind."""
    job = job_spec("probe-check", spec, config)
    kinds = {name: entry["kind"] for name, entry in job["datasets"].items()}
    drawn = selection.draw(case_table.usable(cases), cases.parent, Probe(**job["probe"]))
    alike = {path.parent.name: path for path in tests if kinds[path.parent.name] == kinds[cases.parent.name]}
    unseen = {name: selection.check_unseen(drawn, case_table.usable(path), name) for name, path in alike.items()}
    files.write_json({**drawn.named(), "test_cases_kept_apart": unseen}, out)


def probe(
    pretrained: Annotated[Path, typer.Option(help="Folder that 'ctfm pretrain' made.")],
    cases: Annotated[Path, typer.Option(help="cases.parquet of the data set.")],
    out: Annotated[Path, typer.Option(help="Folder of scores.parquet, cases.parquet, selected.json and run.json.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
    encoder: Annotated[str | None, typer.Option(help="Entry of `pretrain`, with --config.")] = None,
) -> None:
    """Train a decoder on a few cases with each checkpoint's encoder frozen, and score it on other cases."""
    loop.use_one_device()
    job = job_spec("probe", spec, config, encoder=encoder)
    settings, run = Probe(**job["probe"]), files.read_json(pretrained / "run.json")
    kind = plugins.get("tasks", job["task"]["kind"])
    usable = case_table.usable(cases)
    drawn = selection.draw(usable, cases.parent, settings)
    scorer = _Scorer(kind, kind.Settings(**job["task"]["options"]), job, drawn, _crops(settings, out), out / "work")
    scores: list[dict[str, Any]] = []
    measured: list[dict[str, Any]] = []
    for path in logs.progress(checkpoints.of_run(pretrained / "checkpoints", run["fingerprint"]), "checkpoints"):
        about = {"checkpoint": path.name, "epoch": int(path.stem.partition("=")[2])}
        for seed in settings.seeds:
            found = scorer.score(path, seed)
            fixed = {"encoder": job["name"], **about, "step": found["step"], "shots": settings.shots, "seed": seed}
            scores += [{**fixed, "metric": metric, "value": value} for metric, value in found["scores"].items()]
            measured += [{**about, "seed": seed, **row} for row in found["rows"]]
    table = tables.of("probe_cases", measured)
    chosen = choose(table, kind.scores, settings.metric) | {"validation": len(drawn.validation)}
    modules = (f"tasks.{job['task']['kind']}", f"encoders.{job['encoder']['kind']}")
    used = {**drawn.named(), "split_hash": case_table.split_hash(usable)}
    tables.write(tables.of("scores", scores), "scores", out / "scores.parquet")
    tables.write(table, "probe_cases", out / "cases.parquet")
    files.write_json(provenance.stamp(job, *modules) | used, out / "run.json")
    files.write_json(chosen, out / "selected.json")
    shutil.rmtree(out / "work", ignore_errors=True)
    log.info("%s: %s", chosen["checkpoint"], chosen["why"])


def _crops(settings: Probe, out: Path) -> Pool | bool:
    """Return the fixed crops that decoders learn from, or True where new ones are wanted in every epoch."""
    if settings.crops_per_case is None:
        log.info("new random crops in every epoch: what the encoder makes of them can't be kept, and is computed anew")
        return True
    return Pool(settings.crops_per_case, out / "work")


@dataclass(frozen=True)
class _Scorer:
    """Trains a decoder on each checkpoint's encoder and measures it; what an earlier start finished is not redone."""

    kind: ModuleType
    options: Strict
    job: dict[str, Any]
    drawn: selection.Drawn
    frozen: Pool | bool
    work: Path

    def score(self, path: Path, seed: int) -> dict[str, Any]:
        """Return ``step``, ``scores`` and ``rows`` of one checkpoint and seed."""
        content = checkpoints.read(path)
        step, fingerprint = (content[checkpoints.KEY][name] for name in ("step", "fingerprint"))
        key = files.digest([self.job, fingerprint, step, self.drawn.named(), seed])
        work = self.work / f"{path.stem}-{seed}"
        done = work.with_suffix(".json")
        if done.is_file() and (kept := files.read_json(done))["key"] == key:
            return kept
        self._save(content, path.name, work / "encoder")
        train, validation = self.drawn.train[seed], self.drawn.validation
        self.kind.fit(self.options, work / "encoder", train, [], work, seed=seed, frozen=self.frozen)
        self.kind.predict(work / "model", validation, work / "predictions")
        rows = self.kind.measure(self.options, validation, work / "predictions")
        scores = self.kind.scores(rows)
        log.info("%s, seed %d: %s", path.name, seed, ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
        found = {"key": key, "step": step, "scores": scores, "rows": rows}
        files.write_json(found, done)
        shutil.rmtree(work)
        return found

    def _save(self, content: dict[str, Any], name: str, folder: Path) -> None:
        about = self.job["encoder"]
        weights.save_encoder(
            folder,
            name=self.job["name"],
            kind=about["kind"],
            options=about["options"],
            state=checkpoints.encoder(content),
            facts={"checkpoint": name},
        )
