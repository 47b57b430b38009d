"""MONAI's own Auto3DSeg, restricted to its algorithm ``segresnet``, with an encoder's weights plugged in.

Cases are written as NIfTI files whose axes run (S, P, L), and the runner leaves axes as they are: so the weights see
what they were trained on. The encoder goes in as the start of a fine-tuning: a whole net with the encoder's weights and
a decoder drawn by seed, which the template loads strictly. Spacing, window, HU and epochs are those of ``native``.
The trained bundle is kept in the model's folder and predicts by itself, with its own intensities.

The templates are code of Project-MONAI/research-contributions, which does not come with MONAI: they are copied from a
folder, or fetched and held against a checksum. Training repeats only as far as the template does, which has no seed.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
import yaml
from monai.apps.auto3dseg import AutoRunner, BundleAlgo

from ctfm import archive, files, logs, weights
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import LPS_TO_RAS, Volume, write_nifti
from ctfm.tasks import CaseFile, _analysis, _fitting, _model, _overlay, segment

if TYPE_CHECKING:
    from ctfm.tasks.tumour import Settings

ALGORITHM = "segresnet"
BUNDLE = f"{ALGORITHM}_0"  # as the runner names the one of fold 0
MARKER = f"{ALGORITHM}/scripts/algo.py"
SOURCE = "https://github.com/Project-MONAI/research-contributions/releases/download/algo_templates/21ed8e5.tar.gz"

log = logging.getLogger(__name__)


def fit(
    settings: Settings,
    derived: _analysis.Derived,
    encoder: Path,
    train: Sequence[CaseFile],
    val: Sequence[CaseFile],
    out: Path,
    *,
    seed: int,
) -> dict[str, Any]:
    """Generate the bundle, train it, and keep it in ``out/model``; returns facts for run.json.

    Args:
        settings: the recipe.
        derived: spacing, window, HU and epochs.
        encoder: folder of the encoder's weights.
        train: training cases.
        val: validation cases, one at least.
        out: has the report of the analysis; gets ``auto3dseg/`` too, the runner's folder.
        seed: of the decoder.

    Raises:
        UserError: the templates can't be had, the encoder is of another architecture, or the training failed.
    """
    if not val:
        raise UserError("engine: 'auto3dseg' chooses its model on validation cases, and the data set's split has none")
    model = _start(settings, derived, encoder, train[0], seed)
    work = files.ensure_folder(out / "auto3dseg").resolve()
    found = templates(settings, work)
    key = _fingerprint(settings, derived, encoder, [*train, *val], seed)
    about = {"fingerprint": key, "checkpoint": "model.pt", "templates": _digest(found)}
    _forget(work, files.digest(about))
    _write(train, val, model, work / "data")
    torch.save({"state_dict": model.net.state_dict()}, work / "initial.pt")
    _run(work, _task(settings, derived, model, work), found, out / _analysis.REPORT)
    _keep(work, out / "model")
    _model.describe(model, out / "model", about, engine="auto3dseg")
    named = {"train": [case.case for case in train], "val": [case.case for case in val], "frozen": False}
    told = files.read_json(out / "model" / _model.ABOUT)
    return about | named | {key: told[key] for key in ("patch", "spacing_mm", "preprocess")}


def predict(folder: Path, cases: Sequence[CaseFile], out: Path) -> None:
    """Let the bundle predict cases; writes what ``tumour.predict`` does.

    Raises:
        UserError: a file of the bundle is missing, or what it gives is no map of the scan.
    """
    about, bundle = files.read_json(folder / _model.ABOUT), (folder / BUNDLE).resolve()
    checkpoint = files.need_file(bundle / "model" / "model.pt", "name the folder 'model' that 'ctfm adapt' made")
    ids = np.array([0, *(label["id"] for label in about["labels"])], np.uint8)
    algo = BundleAlgo(bundle.parent)
    algo.output_path = str(bundle)
    with tempfile.TemporaryDirectory(dir=files.ensure_folder(out), prefix=".") as work, _importing(bundle / "scripts"):
        inferer = algo.get_inferer(**{"bundle_root": str(bundle), "infer#ckpt_name": str(checkpoint)})
        for case in logs.progress(cases, "predicting", len(cases)):
            scan = store.open_volume(case.image).load()
            path = Path(work) / f"{case.case}.nii"
            _spl(scan, path)
            outputs = np.asarray(inferer.infer(str(path)))
            outputs = outputs.argmax(axis=0) if outputs.shape[0] > 1 else outputs[0]
            if outputs.shape != scan.shape:
                raise UserError(f"{case.case}: the bundle gave {outputs.shape} voxels, the scan has {scan.shape}")
            write_nifti(Volume(ids[outputs.astype(int)], scan.affine), out / f"{case.case}.nii.gz")
    files.write_json(_overlay.table(about["labels"]), out / "labels.json")


def templates(settings: Settings, work: Path) -> Path:
    """Return the folder of algorithm templates, fetched if the settings name an address.

    Raises:
        UserError: they can't be had, aren't the ones pinned, or need a package that isn't installed.
    """
    remedy = f"set 'templates' to a folder of them, or to {SOURCE} with its 'templates_sha256'"
    if importlib.util.find_spec("fire") is None:
        raise UserError("engine: MONAI's templates need the package 'fire': pip install fire; or take 'native'")
    if settings.templates is None:
        raise UserError(f"engine: 'auto3dseg' needs MONAI's algorithm templates: {remedy}; or take 'native'")
    if not settings.templates.startswith(("https://", "http://")):
        return files.need_file(Path(settings.templates) / MARKER, remedy).parents[2]
    if settings.templates_sha256 is None:
        raise UserError(f"templates_sha256: give the checksum of {settings.templates}, which pins their version")
    checksum = f"sha256:{settings.templates_sha256}"
    source = {"url": settings.templates, "checksum": checksum, "version": "", "bytes": None}
    archive.fetch(source, work / "templates", MARKER)
    return work / "templates"


def _keep(work: Path, folder: Path) -> None:
    """Put the trained bundle into the model's folder, and remove the images that it was trained on."""
    shutil.rmtree(folder / BUNDLE, ignore_errors=True)
    shutil.copytree(work / BUNDLE, folder / BUNDLE)
    shutil.rmtree(work / "data")


def _fingerprint(
    settings: Settings, derived: _analysis.Derived, encoder: Path, cases: Sequence[CaseFile], seed: int
) -> str:
    """Return a digest of all that a run depends on but the templates."""
    known = [[case.case, store.open_volume(case.label).meta.get("key")] for case in cases]
    used = [files.sha256(encoder / name) for name in (weights.WEIGHTS, weights.PREPROCESSING)]
    return files.digest([settings.model_dump(mode="json"), derived, used, known, seed])


def _forget(work: Path, key: str) -> None:
    """Remove what the runner has kept of another run: it looks at what is done, not at what for."""
    mark = work / "key.json"
    if not mark.is_file() or files.read_json(mark) != {"key": key}:
        for path in (work / "cache.yaml", work / BUNDLE):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        files.write_json({"key": key}, mark)


def _start(settings: Settings, derived: _analysis.Derived, encoder: Path, first: CaseFile, seed: int) -> _model.Model:
    """Return the net that the fine-tuning starts from, in the layout of the template's."""
    loaded = weights.load_encoder(encoder)
    if loaded.kind != ALGORITHM:
        raise UserError(
            f"engine: 'auto3dseg' runs '{ALGORITHM}', the encoder is of kind '{loaded.kind}'; take 'native'"
        )
    window = None if settings.hu_window == "encoder" else derived.hu_window
    recipe = segment.Settings(patch=derived.patch, hu_window=window, overlap=settings.overlap)
    labels = segment.labels_of((), store.open_volume(first.label).meta)
    made = _fitting.new(recipe, loaded, first, labels, seed, "tumour")
    return replace(made, spacing_mm=derived.spacing_mm)


def _task(settings: Settings, derived: _analysis.Derived, model: _model.Model, work: Path) -> dict[str, Any]:
    """Return the runner's input: task.yaml and what it changes in the template's hyper_parameters.yaml."""
    options = model.encoder["options"]
    return {
        "modality": "ct",
        "dataroot": str(work / "data"),
        "datalist": str(work / "datalist.json"),
        "class_names": [label["name"] for label in model.labels],
        "output_classes": len(model.labels) + 1,
        "num_fold": 1,
        "orientation_ras": False,
        "auto_scale_allowed": False,
        "resample": True,
        "resample_resolution": list(derived.spacing_mm),
        "roi_size": list(derived.patch),
        "intensity_bounds": list(model.preprocess.hu_window),
        "num_epochs": derived.epochs,
        "num_warmup_epochs": settings.warmup_epochs,
        "num_epochs_per_validation": settings.validate_every,
        "batch_size": settings.batch,
        "learning_rate": settings.learning_rate,
        "optimizer#weight_decay": settings.weight_decay,
        "network#init_filters": options["init_filters"],
        "network#blocks_down": list(options["blocks_down"]),
        "network#norm": "BATCH",  # as the encoder's; the template's own is of another kind
        "finetune#enabled": True,
        "finetune#ckpt_name": str(work / "initial.pt"),
    }


def _write(train: Sequence[CaseFile], val: Sequence[CaseFile], model: _model.Model, folder: Path) -> None:
    """Write images and label maps, in classes of the net, and the list of them: fold 0 validates."""
    files.ensure_folder(folder)
    entries = []
    for case, fold in [*((case, 1) for case in train), *((case, 0) for case in val)]:
        names = {"image": f"{case.case}.nii", "label": f"{case.case}_label.nii"}
        truth = store.open_volume(case.label).load()
        _spl(store.open_volume(case.image).load(), folder / names["image"])
        _spl(Volume(model.outputs[truth.array], truth.affine), folder / names["label"])
        entries.append({**names, "fold": fold})
    files.write_json({"training": entries}, folder.parent / "datalist.json")


def _spl(volume: Volume, path: Path) -> None:
    """Write a NIfTI file whose own axes run (S, P, L)."""
    nib.save(nib.Nifti1Image(np.ascontiguousarray(volume.array), LPS_TO_RAS @ volume.affine), path)


def _run(work: Path, task: dict[str, Any], templates_folder: Path, report: Path) -> None:
    """Run MONAI's runner up to a trained bundle; what it has done already is not done again."""
    shutil.copyfile(report, work / _analysis.REPORT)
    (work / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
    runner = AutoRunner(
        str(work),
        str(work / "task.yaml"),
        algos=ALGORITHM,
        analyze=False,
        ensemble=False,
        templates_path_or_url=str(templates_folder),
    )
    if torch.cuda.device_count() < 2:
        runner.set_device_info(cmd_prefix=f"{sys.executable} ")
    with _importing(work / "algorithm_templates"):
        try:
            runner.run()
        except (RuntimeError, ValueError, OSError) as error:
            log.debug("details", exc_info=True)
            raise UserError(f"{work}: Auto3DSeg failed ({' '.join(str(error).split())[-300:]})") from error
    files.need_file(work / BUNDLE / "model" / "model.pt", "Auto3DSeg left no model: look at its output above")


@contextmanager
def _importing(folder: Path) -> Iterator[None]:
    """Let templates import themselves, and leave no trace of them for the next ones."""
    path, before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if name.split(".")[0] in (ALGORITHM, "segmenter", "utils", "InferClass"):
                del sys.modules[name]


def _digest(folder: Path) -> str:
    """Return the digest of the templates' code, which says in run.json what trained the model."""
    found = sorted(p for p in (folder / ALGORITHM).rglob("*") if p.suffix in (".py", ".yaml"))
    return files.digest([[str(p.relative_to(folder)), files.sha256(p)] for p in found])
