"""Pre-train one encoder without labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import lightning
import torch
import typer

from ctfm import files, plugins, provenance
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Millimetres, Pretrain
from ctfm.errors import UserError
from ctfm.imaging.preprocess import Preprocess
from ctfm.spec import machine
from ctfm.training import augment, corpus, data, loop, monitors, optim, seeds

log = logging.getLogger(__name__)


def pretrain(
    spec: SpecOption = None,
    config: ConfigOption = None,
    volumes: Annotated[Path, typer.Option(help="Index of prepared volumes (index.parquet).")] = Path("index.parquet"),
    out: Annotated[Path, typer.Option(help="Folder of checkpoints, metrics.csv and run.json.")] = Path("encoder"),
    encoder: Annotated[str | None, typer.Option(help="Entry of 'pretrain'; with --config.")] = None,
) -> None:
    """Train, or go on where an earlier start stopped; write metrics.csv, run.json and checkpoints."""
    job = job_spec("pretrain", spec, config, encoder=encoder)
    settings, scans = Pretrain(**job["pretrain"]), corpus.read(volumes)
    fingerprint = files.digest({"job": job, "data": scans.digest})
    skipped = _skipped(scans)
    facts = _fit(settings, scans, out, fingerprint)
    if loop.rank() == 0:
        modules = (f"ssl.{settings.method}", f"encoders.{settings.encoder}")
        about = {"digest": scans.digest, "scans": len(scans.names), "spacing_mm": scans.spacing_mm}
        run = {**provenance.stamp(job, *modules), **facts, "fingerprint": fingerprint, "data": about}
        files.write_json({**run, "skipped": {**facts["skipped"], **skipped}}, out / "run.json")


def _skipped(scans: corpus.Corpus) -> dict[str, str]:
    """Return and tell which volumes can't be used; their places in the order of scans stay empty."""
    if loop.rank() > 0:
        return {}
    skipped = {**scans.too_small, **corpus.broken(scans)}
    for name, why in skipped.items():
        log.warning("%s is left out: %s", name, why)
    return skipped


def _fit(settings: Pretrain, scans: corpus.Corpus, out: Path, fingerprint: str) -> dict[str, Any]:
    steps = settings.epochs * settings.steps_per_epoch
    sharing = data.share(settings.global_batch, loop.devices(), machine().micro_batch)
    dataset = data.Crops(scans, settings.patch, settings.crops_per_scan, settings.crop_from, settings.seed)
    module = Pretraining(settings, scans.spacing_mm)
    text = "%d scans; %d steps of %d scans, in batches of %d on %d device(s)"
    log.info(text, len(scans.names), steps, settings.global_batch, sharing.micro, sharing.processes)
    _check_parts(sharing, module.compares_scans)

    def loader(first_step: int) -> Iterator[dict[str, Any]]:
        workers, pin = machine().loader_workers, torch.cuda.is_available()
        rank = loop.rank()
        return data.batches(dataset, sharing, first_step, steps, rank=rank, workers=workers, pin=pin, strict=False)

    try:
        return loop.fit(
            module,
            loader,
            steps=steps,
            steps_per_epoch=settings.steps_per_epoch,
            folder=out,
            fingerprint=fingerprint,
            checkpoint_every=settings.checkpoint_every,
            accumulate=sharing.accumulate,
            clip_norm=settings.clip_norm,
            watch=monitors.collapsed,
        )
    except torch.OutOfMemoryError as error:
        raise UserError(f"{sharing.micro} scans at once don't fit the device: lower machine.micro_batch") from error


def _check_parts(sharing: data.Share, compares_scans: bool) -> None:
    """Tell what it changes when the scans of a device's share are not computed at once."""
    if sharing.accumulate == 1:
        return
    if compares_scans:
        raise UserError(
            f"'sampling: cross' compares all scans of a step, but machine.micro_batch computes {sharing.micro} at a "
            "time; remove it, lower global_batch or crops_per_scan, or use more devices"
        )
    log.warning("BatchNorm sees %d scans at once: machine.micro_batch divides a device's share", sharing.micro)


class Pretraining(lightning.LightningModule):
    """An encoder with its objective; what is random in a step depends on the seed and the scans' numbers alone."""

    def __init__(self, settings: Pretrain, spacing_mm: Millimetres) -> None:
        super().__init__()
        method, encoder = plugins.get("ssl", settings.method), plugins.get("encoders", settings.encoder)
        self.settings, self.spacing_mm = settings, spacing_mm
        self.scaling: Preprocess = encoder.PREPROCESS
        with seeds.seeded(settings.seed, "weights"):
            self.encoder = encoder.build(encoder.Settings(**settings.encoder_options))
            self.method = method.Method(method.Settings(**settings.method_options), self.encoder.channels[-1])
        self.compares_scans = settings.method_options.get("sampling") == "cross"
        if machine().compile:
            self.encoder.compile()  # in place, so that names of tensors stay

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return the loss of a batch of scans, and what tells a collapse.

        A scan that can't be read adds nothing to the sum over the scans of a step, however these are divided.
        """
        loss, embeddings = self.method.loss(self.encoder, self.views(batch))
        weight = len(batch["names"]) / (len(batch["names"]) + len(batch["skipped"]))
        if self.compares_scans:  # the loss is a mean over all scans that are there
            weight = 1.0
        return {"loss": loss * weight, "weight": weight, **monitors.representation(embeddings.detach())}

    def views(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return two views of each crop: (B, N, 2, 1, Z, Y, X) in [0, 1]."""
        crops = self.scaling.scale(batch["crops"])
        scans, number, *patch = crops.shape
        twice = crops[:, :, None, None].expand(scans, number, 2, 1, *patch).reshape(-1, 1, *patch)
        draws = [
            augment.draw(
                2 * number, self.settings.augment, seeds.torch_generator("cpu", self.settings.seed, "views", item)
            )
            for item in batch["items"]
        ]
        seen = augment.apply(twice, augment.join(draws, crops.device), self.settings.augment, self.spacing_mm)
        return seen.reshape(scans, number, 2, 1, *patch)

    def configure_optimizers(self) -> Any:
        """Warm up and decay the learning rate by the step."""
        s = self.settings
        optimizer = optim.optimizer(self, s.optimizer, s.learning_rate, s.weight_decay, s.decay_all)
        warmup, steps = s.warmup_epochs * s.steps_per_epoch, s.epochs * s.steps_per_epoch
        return optim.with_schedule(optimizer, warmup, steps, start=s.warmup_start, end=s.final_rate)
