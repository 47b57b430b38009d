"""The tables of a results folder that figures are drawn from; nothing else is read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pandas as pd

from ctfm import tables


class Results:
    """Reads tables under the folder of a run. A table that isn't there is an empty one.

    Args:
        root: the run's ``outdir``.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """All tasks: one row per encoder, setting, group, metric and method."""
        return self._joined("summary", "evaluate/*/summary.parquet")

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """All tasks: one row per case, label and metric."""
        return self._joined("metrics", "evaluate/*/*/*.parquet")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """All pre-trained encoders: one row per checkpoint, seed and score."""
        return self._joined("scores", "probe/*/scores.parquet")

    def _joined(self, name: str, pattern: str) -> pd.DataFrame:
        found = [tables.read(name, path) for path in sorted(self.root.glob(pattern))]
        filled = [table for table in found if len(table)]
        return pd.concat(filled, ignore_index=True) if filled else tables.of(name, [])
