"""The training loop: Lightning with exact resumption, atomic checkpoints, plain log lines and a NaN guard."""

from __future__ import annotations

import logging
import math
import os
import platform
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import lightning
import torch

from ctfm import spec
from ctfm.files import ensure_folder
from ctfm.training import checkpoints, processes
from ctfm.training.checkpoints import Progress
from ctfm.training.feed import Feed
from ctfm.training.keeper import Keeper, write_history
from ctfm.training.plan import Plan
from ctfm.training.processes import devices, rank

log = logging.getLogger(__name__)

Loader = Callable[[int], Iterable[Any]]


def fit(module: lightning.LightningModule, loader: Loader, **options: Any) -> dict[str, Any]:
    """Train, or go on where an earlier start of the same run stopped; a finished run returns at once.

    ``module.training_step`` returns a dict with ``loss`` and, if wanted, further scalars to record. What it draws at
    random must depend on ``module.global_step`` and the batch alone. It ends with the weights of the last step.
    A scalar ``weight`` tells what share of the batch the loss is of: it has been multiplied by it, the other scalars
    have not.

    ``loader`` is called with the first step to do, and yields ``accumulate`` batches for each optimiser step. A batch
    is a dict; its ``names`` (list of series or cases) are counted, and named in errors; ``skipped`` (name: reason) are
    those that should be in it and can't.

    ``options`` are those of ``Plan``.

    Returns:
        Facts for run.json: steps, samples, skipped, seconds, gpu_hours, hardware, resumed_from, last, best.

    Raises:
        UserError: the loss or the gradient is not finite; the message names the scans or cases of the batch.
        SystemExit: SIGTERM came; the state is saved.
    """
    return _run(module, loader, Plan(**options))


def precision() -> str:
    """Return the precision to compute in: as the machine's settings say, or by its hardware."""
    wanted = spec.machine().precision
    if wanted != "auto":
        return wanted
    if not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def autocast(device: torch.device) -> torch.autocast:
    """Return the context in which a network computes in ``precision``."""
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision())
    return torch.autocast(device.type, dtype=kind or torch.bfloat16, enabled=kind is not None)


def use_one_device() -> None:
    """Let this process see one GPU alone. Call before anything touches a GPU."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = seen.partition(",")[0]


def _run(module: lightning.LightningModule, loader: Loader, plan: Plan) -> dict[str, Any]:
    start = processes.agreed(lambda: checkpoints.newest(plan.checkpoints, plan.fingerprint))
    progress = checkpoints.progress(start) if start else Progress(plan.fingerprint)
    if start and progress.step >= plan.steps:
        log.info("finished before: step %d of %d in %s", progress.step, plan.steps, start.name)
        module.load_state_dict(checkpoints.read(start)["state_dict"])
        write_history(progress.history, plan.folder)
        return _facts(plan, progress)
    if start:
        log.info("resuming at step %d of %d from %s", progress.step, plan.steps, start.name)
        progress.resumed.append(progress.step)
    ensure_folder(plan.checkpoints)
    _quiet()
    feed = Feed(lambda: loader(progress.step), lambda: trainer.strategy.root_device)
    trainer = _trainer(plan, Keeper(plan, progress, feed))
    trainer.fit(module, feed, ckpt_path=start, weights_only=True)
    if progress.step < plan.steps:
        raise RuntimeError(f"the loader ended at step {progress.step} of {plan.steps}")
    if rank() == 0:
        (plan.checkpoints / checkpoints.PREVIOUS).unlink(missing_ok=True)
    return _facts(plan, progress)


def _trainer(plan: Plan, keeper: Keeper) -> lightning.Trainer:
    count, gpu = devices(), torch.cuda.is_available()
    return lightning.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=count // processes.nodes(),
        num_nodes=processes.nodes(),
        strategy="ddp" if count > 1 else "auto",
        sync_batchnorm=count > 1,
        precision=precision(),  # type: ignore[arg-type]
        plugins=[processes.environment()],
        max_epochs=1,
        max_steps=plan.steps,
        accumulate_grad_batches=plan.accumulate,
        gradient_clip_val=plan.clip_norm,
        callbacks=[keeper],
        benchmark=gpu,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=plan.folder,
    )


def _facts(plan: Plan, progress: Progress) -> dict[str, Any]:
    gpus = processes.gpus()
    name = torch.cuda.get_device_name(0) if gpus else platform.processor() or platform.machine()
    best = None
    if plan.best:
        rows = [row for row in progress.history if not math.isnan(row.get(plan.best, math.nan))]
        best = max(rows, key=lambda row: row[str(plan.best)], default=None)
    return {
        "steps": progress.step,
        "samples": progress.samples - progress.lost,
        "skipped": progress.skipped,
        "seconds": round(progress.seconds, 3),
        "gpu_hours": round(progress.seconds / 3600 * gpus, 4),
        "hardware": {"device": name, "devices": devices(), "precision": precision()},
        "resumed_from": progress.resumed,
        "last": progress.history[-1] if progress.history else None,
        "best": best,
    }


def _quiet() -> None:
    """Keep Lightning's advice out of the log; what matters is said by us."""
    for logger in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    if rank() > 0:  # the first process speaks for all
        logging.getLogger("ctfm").setLevel(logging.ERROR)
