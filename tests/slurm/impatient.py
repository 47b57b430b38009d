"""Snakemake that asks SLURM every second: the plugin waits ten seconds longer after each question in vain."""

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda _: 1, lambda *_: None)

if __name__ == "__main__":
    main()
