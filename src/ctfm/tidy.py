"""``ctfm tidy``: delete the checkpoints that a finished run needs no more."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Annotated

import typer

from ctfm import files
from ctfm.errors import UserError

LAST = "last.ckpt"

log = logging.getLogger(__name__)


def tidy(
    results: Annotated[Path, typer.Argument(help="Folder of a run (`outdir`).")],
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; without it they are listed.")] = False,
) -> None:
    """List, or delete, checkpoints of runs that have ended.

    Of an exported encoder all but the chosen and the last one go; of a fine-tuning, whose model has a folder, all.
    What is left gives the same results. Probing anew would then see fewer checkpoints.

    Raises:
        UserError: there is no such folder, or it is no run's.
    """
    if not (results / "encoders").is_dir() and not (results / "adapt").is_dir():
        raise UserError(f"{results}: no folder of a run, which has 'encoders' or 'adapt'; name its 'outdir'")
    found = [*_of_encoders(results), *_of_tasks(results)]
    size = 0
    for path in found:
        size += sum(part.stat().st_size for part in ([path] if path.is_file() else path.rglob("*")) if part.is_file())
        log.info("%s: %s", path, "deleted" if delete else "can be deleted")
        if delete:
            path.unlink() if path.is_file() else shutil.rmtree(path)
    print(f"{len(found)} items, {size / 1e9:.2f} GB {'deleted' if delete else 'can be deleted: add --delete'}")


def _of_encoders(results: Path) -> list[Path]:
    """Return checkpoints of encoders that are chosen, exported and trained to their end."""
    made: list[Path] = []
    for folder in sorted((results / "encoders").glob("*/checkpoints")):
        chosen = results / "probe" / folder.parent.name / "selected.json"
        ended = all((folder.parent / name).is_file() for name in ("run.json", "model.safetensors"))
        if ended and chosen.is_file():
            kept = {LAST, files.read_json(chosen)["checkpoint"]}
            made += [path for path in sorted(folder.glob("*.ckpt")) if path.name not in kept]
    return made


def _of_tasks(results: Path) -> list[Path]:
    """Return the checkpoints of fine-tunings that have ended."""
    folders = sorted((results / "adapt").glob("*/*/*/checkpoints"))
    return [path for path in folders if (path.parent / "run.json").is_file() and (path.parent / "model").is_dir()]
