"""Which of the processes that train together this one is.

They are started by SLURM (``srun``, a task for each device, also on several nodes), or by Lightning on this machine.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
from torch import distributed

from ctfm.errors import UserError

PATIENCE = timedelta(hours=2)  # the first process may have to look at many volumes before all begin
Made = TypeVar("Made")


def by_slurm() -> bool:
    """Tell whether srun has started this process as one of several."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def devices() -> int:
    """Return how many devices train together: one a task of srun, else all GPUs that are visible, else the CPU."""
    return int(os.environ["SLURM_STEP_NUM_TASKS"]) if by_slurm() else max(1, torch.cuda.device_count())


def gpus() -> int:
    """Return how many of these devices are GPUs."""
    return devices() if torch.cuda.is_available() else 0


def nodes() -> int:
    """Return how many machines they are on."""
    return int(os.environ["SLURM_STEP_NUM_NODES"]) if by_slurm() else 1


def rank() -> int:
    """Return the number of this process among those that train together."""
    return int(os.environ["SLURM_PROCID"] if by_slurm() else os.environ.get("LOCAL_RANK", "0"))


def environment() -> ClusterEnvironment:
    """Return what tells Lightning how the processes find each other.

    Within a job of one task Lightning starts the processes itself, whatever SLURM's variables say.
    """
    return SLURMEnvironment(auto_requeue=False) if by_slurm() else LightningEnvironment()


def agreed(make: Callable[[], Made]) -> Made:
    """Return in every process what the first one makes.

    Tasks of srun begin at the same time: only one of them may put a folder in order, and the others wait for it.

    Raises:
        UserError: a task does not see a GPU for each task on its machine.
    """
    if not by_slurm():
        return make()
    _meet()
    made: list[Any] = [make() if rank() == 0 else None]
    distributed.broadcast_object_list(made, src=0)
    return made[0]


def _meet() -> None:
    """Let all processes find the first one, by SLURM's variables; Lightning goes on with the group that is there."""
    if distributed.is_initialized():
        return
    slurm, gpu = environment(), torch.cuda.is_available()
    if gpu:
        check_gpus(devices() // nodes(), torch.cuda.device_count())
        torch.cuda.set_device(slurm.local_rank())
    distributed.init_process_group(
        "nccl" if gpu else "gloo",
        init_method=f"tcp://{slurm.main_address}:{slurm.main_port}",
        rank=slurm.global_rank(),
        world_size=slurm.world_size(),
        timeout=PATIENCE,
    )
    atexit.register(distributed.destroy_process_group)


def check_gpus(tasks: int, visible: int) -> None:
    """Refuse fewer visible GPUs than tasks on a machine.

    Raises:
        UserError: that is so.
    """
    if visible < tasks:
        raise UserError(f"{tasks} tasks on a node, but each sees {visible} GPU(s): start srun with --gpu-bind=none")
