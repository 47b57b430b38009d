"""Fitting a net: from an encoder's weights and stored cases to a trained model on disk."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ctfm import files, plugins, weights
from ctfm.config import Millimetres
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.preprocess import Preprocess
from ctfm.spec import machine
from ctfm.tasks import CaseFile, _model
from ctfm.training import checkpoints, data, loop, seeds
from ctfm.training.finetune import FineTuning, Recipe
from ctfm.training.plan import Validate
from ctfm.training.pool import Decoding, Pool
from ctfm.training.segmentation import LabelledCrops, Pair, Segmentation

if TYPE_CHECKING:
    from ctfm.tasks import segment, triage

Batches = Callable[[data.Share, int, int], Iterator[dict[str, Any]]]  # of (sharing, first step, number of steps)
TAKEN = ("fingerprint", "checkpoint")  # what a model tells of the run that made it

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """All that a training run depends on.

    Attributes:
        settings: the recipe.
        encoder: folder of the encoder's weights.
        train: training cases.
        val: validation cases.
        seed: of the decoder's weights, the crops and their views.
        frozen: the decoder alone learns.
        pool: then, of fixed crops: on these and not on new ones in each epoch.
    """

    settings: segment.Settings | triage.Settings
    encoder: Path
    train: tuple[CaseFile, ...]
    val: tuple[CaseFile, ...]
    seed: int
    frozen: bool
    pool: Pool | None = None

    @property
    def named(self) -> dict[str, list[str]]:
        """Return the names of the cases."""
        return {"train": [case.case for case in self.train], "val": [case.case for case in self.val]}

    @property
    def fingerprint(self) -> str:
        """Return a digest; a run with another one is not resumed."""
        known = [[(c.case, store.open_volume(c.label).meta.get("key")) for c in p] for p in (self.train, self.val)]
        crops = self.pool.crops if self.pool else None
        return files.digest(
            {"shown": self.shown, "cases": known, "seed": self.seed, "frozen": self.frozen, "crops": crops}
        )

    @property
    def shown(self) -> str:
        """Return a digest of settings and encoder: of all that a fixed crop and the encoder's maps of it depend on."""
        encoder = [files.sha256(self.encoder / name) for name in (weights.WEIGHTS, weights.PREPROCESSING)]
        return files.digest([self.settings.model_dump(mode="json"), encoder])

    @property
    def per_epoch(self) -> int:
        """Return the optimiser steps of an epoch."""
        return self.settings.steps_per_epoch or math.ceil(len(self.train) / self.settings.batch)

    def recipe(self) -> Recipe:
        """Return the recipe with epochs counted in steps."""
        s = self.settings
        return Recipe(
            learning_rate=s.learning_rate,
            weight_decay=s.weight_decay,
            warmup=s.warmup_epochs * self.per_epoch,
            steps=s.epochs * self.per_epoch,
            start=s.warmup_start,
            end=s.final_rate,
            augment=s.augment,
            seed=self.seed,
            frozen=self.frozen,
        )


def new(
    settings: segment.Settings,
    loaded: weights.Loaded,
    first: CaseFile,
    labels: list[dict[str, Any]],
    seed: int,
    task: str,
) -> _model.Model:
    """Return a model with the encoder's weights and preprocessing, and a decoder drawn by seed.

    Args:
        settings: the recipe.
        loaded: the encoder; its windows of HU and of voxels are used unless the recipe has others.
        first: a training case; its spacing becomes the model's.
        labels: name, id and group of output 1, 2, ….
        seed: of the decoder.
        task: the kind of task.

    Raises:
        UserError: the window does not fit the architecture.
    """
    plugin = plugins.get("encoders", loaded.kind)
    patch = settings.patch or loaded.preprocess.adapt_patch
    if wrong := [edge for edge in patch if edge % plugin.multiple]:
        raise UserError(f"patch: {wrong[0]} is no multiple of {plugin.multiple}, as encoder '{loaded.kind}' needs")
    with seeds.seeded(seed, "decoder"):
        net = plugin.segmenter(plugin.Settings(**loaded.options), len(labels) + 1)
    weights.load_strict(net.encoder, loaded.module.state_dict(), "encoder of the segmenter")
    about = {"kind": loaded.kind, "options": loaded.options, "facts": loaded.facts}
    spacing = store.open_volume(first.label).spacing
    tell_spacing(loaded.preprocess.spacing_mm, spacing)
    window = settings.hu_window or loaded.preprocess.hu_window
    preprocess = Preprocess(**{**loaded.preprocess.model_dump(), "hu_window": window})
    return _model.Model(net, about, preprocess, labels, patch, settings.overlap, spacing, task)


def train(run: Run, model: _model.Model, out: Path, validate: Validate | None, best: str) -> dict[str, Any]:
    """Train, or go on where an earlier start stopped, and write ``out/model``; returns facts for run.json.

    Args:
        run: what is trained.
        model: its net is trained in place.
        out: gets ``model/``, ``checkpoints/`` and ``metrics.csv``.
        validate: returns scores of the model as it is; None: the last checkpoint is taken, not the best one.
        best: the score that the best checkpoint has most of.
    """
    kind = Decoding if run.pool else Segmentation
    module = kind(model.net, model.preprocess, model.spacing_mm, run.recipe())
    crops = LabelledCrops([Pair(c.case, c.image, c.label) for c in run.train], model.outputs, model.patch, run.seed)
    facts = fitted(run, module, _from_pool(run, module, crops) if run.pool else new_crops(crops), out, validate, best)
    if loop.rank() == 0:
        _model.save(model, out / "model", {key: facts[key] for key in TAKEN})
    shape = {"patch": list(model.patch), "spacing_mm": list(model.spacing_mm)}
    return facts | shape | {"preprocess": model.preprocess.model_dump(mode="json")}


def fitted(
    run: Run, module: FineTuning, batches: Batches, out: Path, validate: Validate | None, best: str
) -> dict[str, Any]:
    """Train a module of any kind; it ends with the weights of the best checkpoint. Returns facts for run.json.

    Args:
        run: what is trained.
        module: the network in training.
        batches: gives them from a step on; see ``new_crops``.
        out: gets ``checkpoints/`` and ``metrics.csv``.
        validate: returns scores of the module as it is; None: the last checkpoint is taken.
        best: the score that the best checkpoint has most of.
    """
    steps, fingerprint = run.recipe().steps, run.fingerprint
    sharing = data.share(run.settings.batch, loop.devices(), machine().micro_batch)
    try:
        facts = loop.fit(
            module,
            lambda first: batches(sharing, first, steps),
            steps=steps,
            steps_per_epoch=run.per_epoch,
            folder=out,
            fingerprint=fingerprint,
            checkpoint_every=None,
            validate=validate,
            validate_every=run.settings.validate_every,
            best=best if validate else None,
            accumulate=sharing.accumulate,
        )
    except torch.OutOfMemoryError as error:
        raise UserError("the device's memory is too small for this batch: lower machine.micro_batch") from error
    taken = _keep(module, out, checkpoints.BEST)
    return facts | {"fingerprint": fingerprint, "checkpoint": taken, "frozen": run.frozen}


def new_crops(dataset: Dataset) -> Batches:
    """Return what reads the batches from a data set of crops."""

    def batches(sharing: data.Share, first: int, steps: int) -> Iterator[dict[str, Any]]:
        workers, pin = machine().loader_workers, torch.cuda.is_available()
        return data.batches(dataset, sharing, first, steps, rank=loop.rank(), workers=workers, pin=pin)

    return batches


def _from_pool(run: Run, module: Segmentation, crops: LabelledCrops) -> Batches:
    """Return what takes the batches from the fixed crops of the run's pool."""
    pool = run.pool
    assert pool
    return lambda sharing, first, steps: pool.batches(module, crops, sharing, first, steps, run.shown)


def tell_spacing(seen: Millimetres, cases: Millimetres) -> None:
    """Say so when an encoder is adapted at another spacing than it saw: the paper does that, from 3x1x1 to 1.5 mm."""
    if not np.allclose(seen, cases, rtol=_model.SPACING_TOLERANCE):
        before, now = ("x".join(f"{mm:g}" for mm in spacing) for spacing in (seen, cases))
        log.info("the encoder was trained at %s mm and is adapted at %s mm, that of the stored cases", before, now)


def _keep(module: FineTuning, out: Path, name: str) -> str:
    """Take the best checkpoint's weights if validation gave one; return the name of the checkpoint taken."""
    path = out / "checkpoints" / name
    if not path.exists():
        return checkpoints.LAST
    module.load_state_dict(checkpoints.read(path)["state_dict"])
    return name
