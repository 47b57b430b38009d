"""Snakemake whose jobs are stubs: what is watched is the queue."""

from pathlib import Path

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

from tests.slurm import impatient  # noqa: F401

Executor.get_python_executable = lambda _: str(Path(__file__).with_name("stub.sh"))

if __name__ == "__main__":
    main()
