"""Becomes sitecustomize.py of a checkout: while a file `slow` is there, pre-training takes its time.

So a job lasts until the test has done to it what it wants to do, on any machine. Two processes on a CPU need a
batch normalisation that torch has for GPUs alone.
"""

import sys

if "pretrain" in sys.orig_argv:
    import time
    from pathlib import Path

    import torch

    sys.path.append(str(Path.cwd()))
    from ctfm.training import processes
    from ctfm.training.keeper import Keeper
    from tests.training.batchnorm import use_on_a_cpu

    end_step = Keeper._end_step

    def slowly(*arguments: object) -> None:
        if Path("slow").exists():
            time.sleep(2)
        end_step(*arguments)  # type: ignore[arg-type]

    Keeper._end_step = slowly  # type: ignore[method-assign]
    if processes.devices() > 1 and not torch.cuda.is_available():
        use_on_a_cpu()
