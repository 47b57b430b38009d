"""Where the numbers of a run are shown while it goes on: TensorBoard, and Weights & Biases on request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ctfm import spec
from ctfm.errors import UserError
from ctfm.files import ensure_folder


class Tracker(Protocol):
    """Takes scalars by step."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record scalars."""

    def close(self) -> None:
        """Write what is not written yet."""


def started(folder: Path, fingerprint: str, step: int) -> list[Tracker]:
    """Return what the machine's settings ask for, to go on from a step.

    Raises:
        UserError: wandb is asked for and not installed.
    """
    machine, trackers = spec.machine(), list[Tracker]()
    if machine.tensorboard:
        trackers.append(TensorBoard(folder, step))
    if machine.wandb_project:
        trackers.append(Wandb(machine.wandb_project, folder, fingerprint))
    return trackers


class TensorBoard:
    """Event files in ``tensorboard/`` beside metrics.csv; what a killed start wrote beyond ``step`` is hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record scalars."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


class Wandb:
    """A run of a Weights & Biases project; a start that resumes goes on in the same one."""

    def __init__(self, project: str, folder: Path, fingerprint: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError("machine.wandb_project is set but wandb is not installed: pip install wandb") from error
        place = ensure_folder(folder / "wandb")
        name = f"{folder.name}-{fingerprint}"
        self._run: Any = wandb.init(project=project, name=folder.name, id=name, resume="allow", dir=str(place))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record scalars."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._run.finish()
