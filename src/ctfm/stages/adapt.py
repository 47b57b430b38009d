"""Stage ``adapt``: fine-tune an encoder on a task and predict the test cases; apply the model to other scans."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from ctfm import cases as case_table
from ctfm import files, logs, plugins, provenance, weights
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine
from ctfm.imaging import dicom, labelled, store
from ctfm.imaging.resample import resample, resample_to
from ctfm.imaging.volume import orient, read_image, write_nifti
from ctfm.tasks import CaseFile
from ctfm.training import loop, sampling

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
ANY = Criteria(min_instances=1, thickness_mm=None, unique_positions=False)

log = logging.getLogger(__name__)


def adapt(
    encoder: Annotated[Path, typer.Option(help="Folder of the encoder's weights.")],
    cases: Annotated[Path, typer.Option(help="cases.parquet of the data set.")],
    out: Annotated[Path, typer.Option(help="Folder of model/, predictions/ and run.json.")],
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
    train, val, test = (case_table.of_split(table, cases.parent, split) for split in ("train", "val", "test"))
    train = sampling.few_shot(train, job["shots"], job["seed"])
    case_table.check_apart([*train, *val], test, "the test split and in training or validation")
    log.info("%d training, %d validation, %d test cases", len(train), len(val), len(test))
    facts = kind.fit(settings, encoder, train, val, out, seed=job["seed"])
    if loop.rank():
        return
    _predict_cases(kind, out, test, files.digest([job, facts.get("fingerprint")]))
    modules = (f"tasks.{job['task']['kind']}", f"encoders.{_kind_of(encoder)}")
    used = {"split_hash": case_table.split_hash(table), "test": [case.case for case in test]}
    files.write_json({**provenance.stamp(job, *modules), **facts, **used}, out / "run.json")


def predict(
    paths: Annotated[
        list[Path], typer.Argument(help="Scans: NIfTI, NRRD or MHA files, or folders of one DICOM series.")
    ],
    model: Annotated[Path, typer.Option(help="Folder 'model' that 'ctfm adapt' made.")],
    out: Annotated[Path, typer.Option(help="Folder of the label maps.")],
) -> None:
    """Write <name>.nii.gz on each scan's own grid, labels.json, and failures.json if a scan could not be used."""
    about = files.read_json(files.need_file(model / "model.json", "name the folder 'model' that 'ctfm adapt' made"))
    kind, failures = plugins.get("tasks", about["task"]), {}
    files.ensure_folder(out)
    (out / "failures.json").unlink(missing_ok=True)
    for path, name in logs.progress(_named(paths), "scans", len(paths)):
        try:
            _predict_scan(kind, model, path, name, tuple(about["spacing_mm"]), out)
        except Quarantine as reason:
            failures[name] = {"reason": reason.code, "detail": reason.detail}
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            failures[name] = {"reason": "error", "detail": f"{type(error).__name__}: {error}"}
        if name in failures:
            log.warning("%s failed: %s", path, " ".join(failures[name].values()))
    if failures:
        files.write_json(failures, out / "failures.json")
        log.error("%d of %d scans failed: see %s", len(failures), len(paths), out / "failures.json")
        raise typer.Exit(1)


def _predict_cases(kind: ModuleType, out: Path, test: list[CaseFile], key: str) -> None:
    """Predict the cases that this very model has not predicted yet."""
    folder = out / "predictions"
    mark = folder / "model.json"
    if not mark.is_file() or files.read_json(mark) != {"key": key}:
        shutil.rmtree(folder, ignore_errors=True)
        files.write_json({"key": key}, mark)
    todo = [case for case in test if not any(folder.glob(f"{case.case}.*"))]
    if todo:
        kind.predict(out / "model", todo, folder)


def _kind_of(encoder: Path) -> str:
    return files.read_json(encoder / weights.PREPROCESSING)["kind"]


def _named(paths: list[Path]) -> list[tuple[Path, str]]:
    """Pair each scan with the name of its result: its own name without suffix; numbered if it came before."""
    named: dict[str, Path] = {}
    for path in paths:
        stem = path.resolve().name
        stem = next((stem.removesuffix(s) for s in SUFFIXES if stem.lower().endswith(s)), stem)
        name, count = stem, 1
        while name in named:
            count += 1
            name = f"{stem}-{count}"
        named[name] = path
    return [(path, name) for name, path in named.items()]


def _predict_scan(
    kind: ModuleType, model: Path, path: Path, name: str, spacing_mm: tuple[float, float, float], out: Path
) -> None:
    if path.is_dir():
        scan, _ = dicom.read_series(path, Prepare(), ANY)
    else:
        scan = labelled.read_scan(path)
    with tempfile.TemporaryDirectory(dir=out, prefix=".") as folder:
        stored = Path(folder) / f"{name}.b2nd"
        store.save(resample(orient(scan), spacing_mm), stored)
        kind.predict(model, [CaseFile(name, name, stored, stored)], Path(folder))
        found = read_image(Path(folder) / f"{name}.nii.gz")
        (Path(folder) / "labels.json").replace(out / "labels.json")
    write_nifti(resample_to(found, scan.shape, scan.affine, "nearest", background=0), out / f"{name}.nii.gz")
