"""Segmentation nets that others made or can load: in and out of the layout of lighter-zoo."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from ctfm import files, foreign, plugins, weights
from ctfm.config import Dataset
from ctfm.imaging.preprocess import Preprocess
from ctfm.tasks import _model, segment

PREFIXES = ("", "model.")  # a net alone; the net in a checkpoint of Lightning
log = logging.getLogger(__name__)


def write(adapted: Path, out: Path) -> None:
    """Write the net of an adaptation: config.json, model.safetensors, preprocessing.json, README.md and model.json.

    Args:
        adapted: folder with ``model`` and ``run.json``.
        out: where to; it is a folder for ``predict`` too.

    Raises:
        UserError: a file is missing, malformed or does not fit, or the model is of another task.
    """
    model = _model.load(adapted / "model")
    run = files.read_json(files.need_file(adapted / "run.json", "name a folder that 'ctfm adapt' made"))
    spec = run["spec"]
    task = spec["task"]
    facts = {
        **{key: spec[key] for key in ("encoder", "shots", "seed")},
        **{key: run[key] for key in ("fingerprint", "checkpoint", "split_hash", "frozen")},
        "task": task["name"],
        "dataset": task["dataset"],
        "trained_on": (
            f"It was trained on {len(run['train'])} labelled cases of '{task['dataset']}', task '{task['name']}', from "
            f"the encoder '{spec['encoder']}'. {model.encoder.get('facts', {}).get('trained_on', '')}".strip()
        ),
    }
    _save(out, f"{task['name']}-{spec['encoder']}-{spec['shots']}-{spec['seed']}", model, facts)
    if out.resolve() != (adapted / "model").resolve():
        shutil.copyfile(adapted / "model" / _model.ABOUT, out / _model.ABOUT)


def read(source: foreign.Source, encoder: dict[str, Any], name: str, dataset: str, out: Path) -> dict[str, Any]:
    """Write a net that others made as a model for ``predict``; return the report of its tensors.

    Args:
        source: its tensors.
        encoder: ``kind`` and ``options`` of its encoder.
        name: what it is called.
        dataset: the data set whose labels it gives, output 1 being the lowest id: a file in src/ctfm/datasets.
        out: where to.

    Raises:
        UserError: a tensor is missing, unexpected or does not fit.
    """
    plugin, layout = plugins.get("encoders", encoder["kind"]), plugins.get("datasets", dataset)
    names = sorted(layout.LABELS, key=layout.LABELS.__getitem__)
    labels = [{"name": n, "id": layout.LABELS[n], "group": layout.GROUPS[n]} for n in names]
    options = plugin.Settings(**encoder["options"])
    state, report = foreign.match(
        source, weights.expected(encoder["kind"], encoder["options"], len(labels) + 1), PREFIXES
    )
    recipe = segment.Settings()
    theirs = {"patch": plugin.PREPROCESS.adapt_patch, "spacing_mm": Dataset.model_fields["spacing_mm"].default}
    preprocess, facts = foreign.origin(source, Preprocess(**{**plugin.PREPROCESS.model_dump(), **theirs}))
    net = plugin.segmenter(options, len(labels) + 1)
    net.load_state_dict(state)
    about = {"kind": encoder["kind"], "options": options.model_dump(mode="json")}
    model = _model.Model(net, about, preprocess, labels, preprocess.patch, recipe.overlap, preprocess.spacing_mm)
    _model.save(model, files.ensure_folder(out), facts)
    _save(out, name, model, facts)
    return report


def _save(out: Path, name: str, model: _model.Model, facts: dict[str, Any]) -> None:
    shape = {"patch": model.patch, "spacing_mm": model.spacing_mm}
    weights.save_segmenter(
        out,
        name=name,
        kind=model.encoder["kind"],
        options=model.encoder["options"],
        labels=model.labels,
        state=model.net.state_dict(),
        facts=facts,
        preprocess=Preprocess(**{**model.preprocess.model_dump(), **shape}),
    )
    log.info("%s: a net of %d labels", out / weights.WEIGHTS, len(model.labels))
