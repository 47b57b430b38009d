"""A trained segmentation model on disk, and its use on whole scans."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from ctfm import plugins, weights
from ctfm.config import Millimetres, Voxels
from ctfm.errors import UserError
from ctfm.files import atomic, need_file, read_json, write_json
from ctfm.imaging import store, tiles
from ctfm.imaging.preprocess import Preprocess
from ctfm.imaging.volume import Volume
from ctfm.spec import machine
from ctfm.training import loop

WEIGHTS, ABOUT = "model.safetensors", "model.json"
PROGRAM_BYTES = 1_600_000_000  # the program (0.5 GB), the weights of CT-FM's net (0.3) and its maps of a window
SMALL_OUTPUT_BYTES = 250_000_000  # two such windows at once, as PyTorch is several times slower with a lone small one
SPACING_TOLERANCE = 0.01


@dataclass(frozen=True)
class Model:
    """A segmentation net and what is needed to use it on any scan.

    Attributes:
        net: the network.
        encoder: ``kind`` and ``options`` of its architecture, and ``facts``: where its first weights came from.
        preprocess: of its encoder; of it the HU window is used.
        labels: name, id and group of output 1, 2, …; output 0 is background.
        patch: window (z, y, x), voxels.
        overlap: of the windows.
        spacing_mm: (z, y, x) of the scans it was trained on.
        task: the kind of task that it is for.
    """

    net: nn.Module
    encoder: Mapping[str, Any]
    preprocess: Preprocess
    labels: list[dict[str, Any]]
    patch: Voxels
    overlap: float
    spacing_mm: Millimetres
    task: str = "segment"

    @property
    def outputs(self) -> np.ndarray:
        """Return (256,) uint8: the output of each id of the data set."""
        table = np.zeros(256, np.uint8)
        for output, label in enumerate(self.labels, start=1):
            table[label["id"]] = output
        return table

    def segment(self, path: Path, watch: Callable[[list], Iterable] = iter) -> Volume:
        """Return the label map (uint8 ids of the data set) of a stored scan, on its grid.

        Args:
            path: of the stored scan.
            watch: wraps the list of layers of windows, to show how far it is.

        Raises:
            Quarantine: the scan can't be read.
            UserError: its spacing is not the model's.
        """
        scan = store.open_volume(path)
        check_spacing(scan, self.spacing_mm, path)
        device = next(self.net.parameters()).device
        read = lambda start, size: self.preprocess.scale(scan.crop(start, size))  # noqa: E731
        with evaluating(self.net), torch.inference_mode(), loop.autocast(device):
            outputs = tiles.segment(read, scan.shape, self.net, self.tiling(device), watch)
        ids = np.array([0, *(label["id"] for label in self.labels)], np.uint8)
        return Volume(ids[outputs], scan.affine)

    def tiling(self, device: torch.device) -> tiles.Tiling:
        """Return how a scan is cut into windows and blocks, within ``machine.predict_gigabytes``.

        Raises:
            UserError: the least that this model needs is more.
        """
        classes, limit = len(self.labels) + 1, machine().predict_gigabytes
        window_bytes = 4 * classes * math.prod(self.patch)
        batch = 2 if 2 * window_bytes <= SMALL_OUTPUT_BYTES else 1
        beside = PROGRAM_BYTES + (batch * window_bytes if device.type == "cpu" else 0)
        made = tiles.Tiling(classes, self.patch, self.overlap, batch, device, limit * 1e9 - beside)
        if made.memory < made.least_memory:
            need = math.ceil((beside + made.least_memory) / 1e8) / 10
            raise UserError(f"machine.predict_gigabytes: {limit:g} is too little for this model; it needs {need:g}")
        return made

    def fits(self, scan: store.Stored) -> bool:
        """Return whether a scan has the spacing that this model works at."""
        return fits(scan, self.spacing_mm)


def fits(scan: store.Stored, wanted_mm: Millimetres) -> bool:
    """Return whether a stored scan has the spacing that a model works at."""
    return bool(np.allclose(scan.spacing, wanted_mm, rtol=SPACING_TOLERANCE))


def check_spacing(scan: store.Stored, wanted_mm: Millimetres, path: Path) -> None:
    """Check that a stored scan has the spacing that a model works at.

    Raises:
        UserError: it hasn't.
    """
    if not fits(scan, wanted_mm):
        found, wanted = (" x ".join(f"{mm:.3g}" for mm in values) for values in (scan.spacing, wanted_mm))
        raise UserError(f"{path.name}: spacing {found} mm; the model works at {wanted} mm: resample the scan")


def save(model: Model, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write model.json and model.safetensors, each atomically, weights last."""
    write(_about(model, facts), model.net, folder)


def describe(model: Model, folder: Path, facts: Mapping[str, Any], **more: Any) -> None:
    """Write model.json: all that is known of a model but its weights."""
    write_json({**_about(model, facts), **more}, folder / ABOUT)


def _about(model: Model, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": model.task,
        "encoder": dict(model.encoder),
        "preprocess": model.preprocess.model_dump(mode="json"),
        "labels": [{"output": output, **label} for output, label in enumerate(model.labels, start=1)],
        "patch": list(model.patch),
        "overlap": model.overlap,
        "spacing_mm": list(model.spacing_mm),
        "facts": dict(facts),
    }


def write(about: Mapping[str, Any], net: nn.Module, folder: Path) -> None:
    """Write model.json and model.safetensors of a net of any task, each atomically, weights last."""
    write_json(about, folder / ABOUT)
    state = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    with atomic(folder / WEIGHTS) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})


def load(folder: Path) -> Model:
    """Load a model onto the GPU if there is one; every tensor must fit. The last one loaded is remembered.

    Raises:
        UserError: a file is missing, malformed or does not fit.
    """
    return _load(folder, changed(folder))


def changed(folder: Path) -> tuple[int, ...]:
    """Return when the files of a model were written.

    Raises:
        UserError: one is missing.
    """
    made = [need_file(folder / name, "name the folder 'model' that 'ctfm adapt' made") for name in (ABOUT, WEIGHTS)]
    return tuple(path.stat().st_mtime_ns for path in made)


def read_about(folder: Path, task: str) -> dict[str, Any]:
    """Return what model.json tells.

    Raises:
        UserError: it is malformed, or the model is of another kind of task.
    """
    about = read_json(folder / ABOUT)
    if about.get("task") != task:
        raise UserError(f"{folder / ABOUT}: a model of task '{about.get('task')}', not '{task}'")
    return about


@lru_cache(maxsize=1)
def _load(folder: Path, _changed: tuple[int, ...]) -> Model:
    about = read_json(folder / ABOUT)
    if "labels" not in about or "patch" not in about:
        raise UserError(f"{folder / ABOUT}: a model of task '{about.get('task')}', not of segmentation")
    plugin = plugins.get("encoders", about["encoder"]["kind"])
    net = plugin.segmenter(plugin.Settings(**about["encoder"]["options"]), len(about["labels"]) + 1)
    weights.load_strict(net, weights.read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
    labels = [{key: label[key] for key in ("name", "id", "group")} for label in about["labels"]]
    patch, spacing = tuple(about["patch"]), tuple(about["spacing_mm"])
    net = net.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    preprocess = Preprocess.model_validate(about["preprocess"])
    return Model(net, about["encoder"], preprocess, labels, patch, about["overlap"], spacing, about["task"])


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a net into evaluation mode, and each of its layers back after."""
    modes = {layer: layer.training for layer in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
