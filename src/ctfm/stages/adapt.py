"""Stage ``adapt``: fine-tune an encoder on a task and predict the test cases; apply the model to other scans."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from ctfm import cases as case_table
from ctfm import files, logs, plugins, provenance, weights
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.errors import SCAN_FAULTS, UserError, told
from ctfm.imaging import scans
from ctfm.tasks import CaseFile
from ctfm.training import loop

ABOUT = "model.json"

log = logging.getLogger(__name__)


def adapt(
    encoder: Annotated[Path, typer.Option(help="Folder of the encoder's weights.")],
    cases: Annotated[Path, typer.Option(help="cases.parquet of the data set.")],
    out: Annotated[Path, typer.Option(help="Folder of model/, predictions/ and run.json.")],
    external: Annotated[list[Path] | None, typer.Argument(help="cases.parquet of data sets to predict too.")] = None,
    spec: SpecOption = None,
    config: ConfigOption = None,
    task: Annotated[str | None, typer.Option(help="Entry of `tasks`, with --config.")] = None,
    shots: Annotated[str, typer.Option(help="Labelled training cases, or all; with --config.")] = "all",
    seed: Annotated[int, typer.Option(help="Seed; with --config.")] = 0,
) -> None:
    """Train on cases of the training split, choose on the validation split, predict the test split."""
    job = job_spec("adapt", spec, config, task=task, encoder=encoder.name, shots=shots, seed=seed)
    kind = plugins.get("tasks", job["task"]["kind"])
    settings = kind.Settings(**job["task"]["options"])
    table = case_table.usable(cases)
    val, test = (case_table.of_split(table, cases.parent, split) for split in ("val", "test"))
    train = case_table.training(table, cases.parent, job["shots"], job["seed"], job["task"]["few_shot"])
    case_table.check_apart([*train, *val], test, "the test split and in training or validation")
    log.info("%d training, %d validation, %d test cases", len(train), len(val), len(test))
    facts = kind.fit(settings, encoder, train, val, out, seed=job["seed"])
    if loop.rank():
        return
    key = files.digest([job, facts.get("fingerprint")])
    _predict_cases(kind, out / "model", test, out / "predictions", key)
    others = {path.parent.name: _predict_external(kind, out, path, key) for path in external or []}
    modules = (f"tasks.{job['task']['kind']}", f"encoders.{_kind_of(encoder)}")
    used = {"split_hash": case_table.split_hash(table), "test": [case.case for case in test], "external": others}
    files.write_json({**provenance.stamp(job, *modules), **facts, **used}, out / "run.json")


def predict(
    paths: Annotated[
        list[Path], typer.Argument(help="Scans: NIfTI, NRRD or MHA files, or folders of one DICOM series.")
    ],
    model: Annotated[
        Path, typer.Option("--model", "--encoder", help="Folder that 'ctfm adapt' made, or its folder 'model'.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the label maps.")],
    as_json: Annotated[bool, typer.Option("--json", help="Tell on standard output what was done, as JSON.")] = False,
) -> None:
    """Write <name>.nii.gz on each scan's own grid and labels.json, or <name>.json, as the model's task has it.

    If a scan could not be used, failures.json tells which and why.
    """
    model, about = _model_of(model)
    kind, todo = plugins.get("tasks", about["task"]), scans.named(paths, files.ensure_folder(out))
    (out / "failures.json").unlink(missing_ok=True)
    used = {key: about[key] for key in ("spacing_mm", "patch", "overlap") if key in about} | {
        "hu_window": about["preprocess"]["hu_window"]
    }
    log.info("every scan is turned to (S, P, L) and used with %s", json.dumps(used))
    done = [_attempt(kind, model, *item, out) for item in logs.progress(todo, "scans", len(todo))]
    if as_json:
        print(json.dumps({"preprocessing": used, "scans": done}, indent=2))
    failures = {row["name"]: {key: row[key] for key in ("reason", "detail")} for row in done if not row["result"]}
    if failures:
        files.write_json(failures, out / "failures.json")
        log.error("%d of %d scans failed: see %s", len(failures), len(paths), out / "failures.json")
        raise typer.Exit(1)


def _predict_cases(kind: ModuleType, model: Path, test: list[CaseFile], folder: Path, key: str) -> None:
    """Predict the cases that this very model has not predicted yet."""
    mark = folder / "model.json"
    if not mark.is_file() or files.read_json(mark) != {"key": key}:
        shutil.rmtree(folder, ignore_errors=True)
        files.write_json({"key": key}, mark)
    todo = [case for case in test if not any(folder.glob(f"{case.case}.*"))]
    if todo:
        kind.predict(model, todo, folder)


def _predict_external(kind: ModuleType, out: Path, cases: Path, key: str) -> dict[str, Any]:
    """Predict the test cases of a further data set; return what run.json tells of it."""
    table = case_table.usable(cases)
    test = case_table.of_split(table, cases.parent, "test")
    _predict_cases(kind, out / "model", test, out / "external" / cases.parent.name, key)
    return {"split_hash": case_table.split_hash(table), "test": len(test)}


def _kind_of(encoder: Path) -> str:
    return files.read_json(encoder / weights.PREPROCESSING)["kind"]


def _model_of(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the model itself, and what its model.json tells."""
    if (folder / "model" / ABOUT).is_file():
        folder = folder / "model"
    encoder = (folder / weights.PREPROCESSING).is_file()
    remedy = "this is an encoder alone: fine-tune it with 'ctfm adapt'" if encoder else "name what 'ctfm adapt' made"
    about = files.read_json(files.need_file(folder / ABOUT, remedy))
    if "spacing_mm" not in about:
        raise UserError(
            f"{folder}: a model of the kind '{about['task']}' labels no scans; 'ctfm embed' makes its vectors"
        )
    return folder, about


def _attempt(kind: ModuleType, model: Path, path: Path, name: str, out: Path) -> dict[str, str]:
    """Predict a scan; return what became of it. One that can't be used leaves nothing."""
    row = {"scan": str(path), "name": name, "result": "", "reason": "", "detail": ""}
    for suffix in scans.RESULTS:
        (out / f"{name}{suffix}").unlink(missing_ok=True)
    try:
        return {**row, "result": _predict_scan(kind, model, path, name, out)}
    except SCAN_FAULTS as fault:
        row |= told(fault)
    log.warning("%s failed: %s %s", path, row["reason"], row["detail"])
    return row


def _predict_scan(kind: ModuleType, model: Path, path: Path, name: str, out: Path) -> str:
    """Write the result of a scan; return its name."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".") as folder:
        stored, made = Path(folder) / f"{name}.b2nd", Path(folder) / "made"
        shape, affine = scans.keep(path, files.read_json(model / ABOUT)["spacing_mm"], stored)
        kind.predict(model, [CaseFile(name, name, stored, stored)], files.ensure_folder(made))
        return scans.bring(made, name, shape, affine, out)
