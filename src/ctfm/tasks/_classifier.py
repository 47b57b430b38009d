"""A trained classifier on disk, and its use on whole scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ctfm import plugins, weights
from ctfm.config import Millimetres, Voxels
from ctfm.imaging import store
from ctfm.imaging.preprocess import Preprocess
from ctfm.tasks import _model
from ctfm.training import loop
from ctfm.training.classification import Classifier, Windows, middle

TASK = "triage"


@dataclass(frozen=True)
class Model:
    """A classifier and what is needed to use it on any scan.

    Attributes:
        net: the network.
        encoder: ``kind`` and ``options`` of its architecture, and ``facts``: where its first weights came from.
        preprocess: of its encoder.
        head: what ``Classifier`` is made with, besides the encoder.
        windows: how HU become its input.
        finding: what it looks for.
        patch: (z, y, x) voxels of the middle of a scan that it sees.
        spacing_mm: (z, y, x) of the scans it was trained on.
    """

    net: Classifier
    encoder: Mapping[str, Any]
    preprocess: Preprocess
    head: Mapping[str, Any]
    windows: Windows
    finding: str
    patch: Voxels
    spacing_mm: Millimetres

    def probability(self, path: Path) -> float:
        """Return how sure it is that a stored scan shows the finding, from 0 to 1.

        Raises:
            Quarantine: the scan can't be read.
            UserError: its spacing is not the model's.
        """
        _model.check_spacing(store.open_volume(path), self.spacing_mm, path)
        device = next(self.net.parameters()).device
        hu = middle(path, self.patch)[None].to(device)
        with _model.evaluating(self.net), torch.inference_mode(), loop.autocast(device):
            logit = self.net(self.windows.joined(self.windows.parts(hu)))
        return float(logit.double().sigmoid())


def save(model: Model, folder: Path, facts: Mapping[str, Any], threshold: float | None) -> None:
    """Write model.json and model.safetensors; ``threshold``: above which a scan is called to show the finding."""
    about = {
        "task": TASK,
        "encoder": dict(model.encoder),
        "preprocess": model.preprocess.model_dump(mode="json"),
        "head": dict(model.head),
        "windows": asdict(model.windows),
        "finding": model.finding,
        "patch": list(model.patch),
        "spacing_mm": list(model.spacing_mm),
        "threshold": threshold,
        "facts": dict(facts),
    }
    _model.write(about, model.net, folder)


def load(folder: Path) -> tuple[Model, float | None]:
    """Load a model and its threshold onto the GPU if there is one; every tensor must fit. The last one is remembered.

    Raises:
        UserError: a file is missing, malformed or does not fit.
    """
    return _load(folder, _model.changed(folder))


@lru_cache(maxsize=1)
def _load(folder: Path, _changed: tuple[int, ...]) -> tuple[Model, float | None]:
    about = _model.read_about(folder, TASK)
    plugin = plugins.get("encoders", about["encoder"]["kind"])
    net = Classifier(plugin.build(plugin.Settings(**about["encoder"]["options"])), **about["head"])
    weights.load_strict(net, weights.read_tensors(folder / _model.WEIGHTS), str(folder / _model.WEIGHTS))
    net = net.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    windows = Windows(tuple(map(tuple, about["windows"]["limits"])), about["windows"]["axis"])
    preprocess = Preprocess.model_validate(about["preprocess"])
    patch, spacing = tuple(about["patch"]), tuple(about["spacing_mm"])
    model = Model(net, about["encoder"], preprocess, about["head"], windows, about["finding"], patch, spacing)
    return model, about["threshold"]
