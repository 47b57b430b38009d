"""Stage ``probe``: score every checkpoint of a pre-training run by few-shot probing, and choose one."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pandas as pd
import typer

from ctfm import cases as case_table
from ctfm import files, logs, plugins, provenance, tables, weights
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Probe, Strict
from ctfm.errors import UserError, nearest
from ctfm.tasks import CaseFile
from ctfm.training import checkpoints, sampling

TIE = 1e-6

log = logging.getLogger(__name__)


def probe(
    pretrained: Annotated[Path, typer.Option(help="Folder that 'ctfm pretrain' made.")],
    cases: Annotated[Path, typer.Option(help="cases.parquet of the data set.")],
    out: Annotated[Path, typer.Option(help="Folder of scores.parquet, selected.json and run.json.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
    encoder: Annotated[str | None, typer.Option(help="Entry of `pretrain`, with --config.")] = None,
) -> None:
    """Train a decoder on a few cases with each checkpoint's encoder frozen, and score it on other cases."""
    job = job_spec("probe", spec, config, encoder=encoder)
    settings = Probe(**job["probe"])
    kind = plugins.get("tasks", job["task"]["kind"])
    options = kind.Settings(**job["task"]["options"])
    validation, shots, used = _draw(case_table.usable(cases), cases.parent, settings)
    rows: list[dict[str, Any]] = []
    run = files.read_json(pretrained / "run.json")
    for path in logs.progress(checkpoints.of_run(pretrained / "checkpoints", run["fingerprint"]), "checkpoints"):
        for seed in settings.seeds:
            work = out / "work" / f"{path.stem}-{seed}"
            found = _score(kind, options, job, path, shots[seed], validation, work, seed)
            rows += _rows(job["name"], path, settings.shots, seed, found)
    table = tables.of("scores", rows)
    chosen = select(table, settings.metric) | {"validation": len(validation)}
    modules = (f"tasks.{job['task']['kind']}", f"encoders.{job['encoder']['kind']}")
    tables.write(table, "scores", out / "scores.parquet")
    files.write_json(provenance.stamp(job, *modules) | used, out / "run.json")
    files.write_json(chosen, out / "selected.json")
    shutil.rmtree(out / "work", ignore_errors=True)
    log.info("%s: %s", chosen["checkpoint"], chosen["why"])


def select(table: pd.DataFrame, metric: str) -> dict[str, Any]:
    """Choose the checkpoint with the highest mean of ``metric`` over seeds; among equals (1e-6) the earliest.

    Args:
        table: rows of ``scores``.
        metric: one of its metrics.

    Raises:
        UserError: the metric was not measured.
    """
    own = table[table["metric"] == metric]
    means = own.groupby("checkpoint").agg({"epoch": "first", "value": "mean"}).dropna().sort_values("epoch")
    if means.empty:
        known = sorted(set(table["metric"]))
        raise UserError(f"probe.metric: '{metric}' was not measured{nearest(metric, known)}")
    equal = means[means["value"] >= means["value"].max() - TIE]
    best = equal.iloc[0]
    seeds = own["seed"].nunique()
    return {
        "checkpoint": str(best.name),
        "epoch": int(best["epoch"]),
        "metric": metric,
        "value": float(best["value"]),
        "why": f"highest mean {metric} over {seeds} seed(s) of {len(means)} checkpoints"
        + (f"; the earliest of {len(equal)} equal ones" if len(equal) > 1 else ""),
    }


def _draw(
    table: pd.DataFrame, folder: Path, settings: Probe
) -> tuple[list[CaseFile], dict[int, list[CaseFile]], dict[str, Any]]:
    """Draw the cases that score (of the validation split first) and, for each seed, those that train.

    Test cases are never used: the numbers of the test split would no longer be those of unseen cases.
    """
    train, val, test = (case_table.of_split(table, folder, split) for split in ("train", "val", "test"))
    validation = sampling.few_shot(val, min(settings.validation, len(val)), 0, "probe-validation")
    if missing := settings.validation - len(validation):
        validation += sampling.few_shot(train, missing, 0, "probe-validation")
    patients = {case.patient for case in validation}
    rest = [case for case in train if case.patient not in patients]
    shots = {seed: sampling.few_shot(rest, settings.shots, seed) for seed in settings.seeds}
    trained = [case for drawn in shots.values() for case in drawn]
    case_table.check_apart(trained, validation, "the probe's training and validation")
    case_table.check_apart([*trained, *validation], test, "the test split and in the probe")
    names = {str(seed): [case.case for case in drawn] for seed, drawn in shots.items()}
    used = {"train": names, "validation": [case.case for case in validation]}
    return validation, shots, used | {"split_hash": case_table.split_hash(table)}


def _score(
    kind: ModuleType,
    options: Strict,
    job: dict[str, Any],
    path: Path,
    train: list[CaseFile],
    validation: list[CaseFile],
    work: Path,
    seed: int,
) -> dict[str, Any]:
    """Return step and scores of one checkpoint and seed; what an earlier start finished is not done again."""
    content = checkpoints.read(path)
    step, fingerprint = (content[checkpoints.KEY][name] for name in ("step", "fingerprint"))
    names = [[case.case for case in part] for part in (train, validation)]
    key = files.digest([job, fingerprint, step, names, seed])
    done = work.with_suffix(".json")
    if done.is_file() and (kept := files.read_json(done))["key"] == key:
        return kept
    about = job["encoder"]
    weights.save_encoder(
        work / "encoder",
        name=job["name"],
        kind=about["kind"],
        options=about["options"],
        state=checkpoints.encoder(content),
        facts={"checkpoint": path.name},
    )
    kind.fit(options, work / "encoder", train, [], work, seed=seed, frozen=True)
    kind.predict(work / "model", validation, work / "predictions")
    scores = kind.scores(kind.measure(options, validation, work / "predictions"))
    log.info("%s, seed %d: %s", path.name, seed, ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
    files.write_json({"key": key, "step": step, "scores": scores}, done)
    shutil.rmtree(work)
    return {"step": step, "scores": scores}


def _rows(name: str, path: Path, shots: int, seed: int, found: dict[str, Any]) -> list[dict[str, Any]]:
    epoch = int(path.stem.partition("=")[2])
    fixed = {"encoder": name, "checkpoint": path.name, "epoch": epoch, "step": found["step"], "shots": shots}
    return [fixed | {"seed": seed, "metric": metric, "value": value} for metric, value in found["scores"].items()]
