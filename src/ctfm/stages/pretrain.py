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
from ctfm.training import augment, data, loop, monitors, optim, seeds

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
    settings, corpus = Pretrain(**job["pretrain"]), data.corpus(volumes)
    fingerprint = files.digest({"job": job, "data": corpus.digest})
    facts = _fit(settings, corpus, out, fingerprint)
    if loop.rank() == 0:
        modules = (f"ssl.{settings.method}", f"encoders.{settings.encoder}")
        about = {"digest": corpus.digest, "scans": len(corpus.names), "spacing_mm": corpus.spacing_mm}
        run = {**provenance.stamp(job, *modules), **facts, "fingerprint": fingerprint, "data": about}
        files.write_json(run, out / "run.json")


def _fit(settings: Pretrain, corpus: data.Corpus, out: Path, fingerprint: str) -> dict[str, Any]:
    steps = settings.epochs * settings.steps_per_epoch
    sharing = data.share(settings.global_batch, loop.devices(), machine().micro_batch)
    dataset = data.Crops(corpus, settings.patch, settings.crops_per_scan, settings.seed)
    text = "%d scans; %d steps of %d scans, in batches of %d on %d device(s)"
    log.info(text, len(corpus.names), steps, settings.global_batch, sharing.micro, sharing.processes)

    def loader(first_step: int) -> Iterator[dict[str, Any]]:
        workers, pin = machine().loader_workers, torch.cuda.is_available()
        return data.batches(dataset, sharing, first_step, steps, rank=loop.rank(), workers=workers, pin=pin)

    try:
        return loop.fit(
            Pretraining(settings, corpus.spacing_mm),
            loader,
            steps=steps,
            steps_per_epoch=settings.steps_per_epoch,
            folder=out,
            fingerprint=fingerprint,
            checkpoint_every=settings.checkpoint_every,
            accumulate=sharing.accumulate,
        )
    except torch.OutOfMemoryError as error:
        raise UserError(f"{sharing.micro} scans at once don't fit the device: lower machine.micro_batch") from error


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

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, torch.Tensor]:
        """Return the loss of a batch of scans, and what tells a collapse."""
        loss, embeddings = self.method.loss(self.encoder, self.views(batch))
        return {"loss": loss, **monitors.collapse(embeddings.detach())}

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
        optimizer = optim.optimizer(self, s.optimizer, s.learning_rate, s.weight_decay)
        return optim.with_schedule(optimizer, s.warmup_epochs * s.steps_per_epoch, s.epochs * s.steps_per_epoch)
