"""The tables of a results folder that figures are drawn from; nothing else is read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pandas as pd

from ctfm import tables
from ctfm.errors import UserError


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

    @cached_property
    def slices(self) -> pd.DataFrame:
        """All tasks: planes to show, one row per run, case and plane."""
        return self._joined("slices", "slices/*/*/*.parquet")

    @cached_property
    def points(self) -> pd.DataFrame:
        """All tasks that place scans on planes: one row per scan and perplexity, with ``task`` and ``encoder``."""
        found = [tables.of("points", []).assign(task="", encoder="")]
        for path in sorted(self.root.glob("adapt/*/*/*/predictions/points.parquet")):
            task, encoder = path.relative_to(self.root).parts[1:3]
            found.append(tables.read("points", path).assign(task=task, encoder=encoder))
        return pd.concat([table for table in found if len(table)] or found, ignore_index=True)

    @cached_property
    def funnel(self) -> pd.DataFrame:
        """All corpora: what each step of the selection left, and of the preparation where that has run."""
        selected = {path.parent.name: path for path in sorted(self.root.glob("select/*/funnel.parquet"))}
        prepared = {path.parent.name: path for path in sorted(self.root.glob("volumes/*/funnel.parquet"))}
        return self._by_corpus("funnel", selected | prepared)

    @cached_property
    def collections(self) -> pd.DataFrame:
        """All corpora: series of each collection, ours and the paper's."""
        found = {path.parent.name: path for path in sorted(self.root.glob("select/*/collections.parquet"))}
        return self._by_corpus("collections", found)

    @cached_property
    def histories(self) -> dict[str, pd.DataFrame]:
        """The epochs of each pre-trained encoder that has any: {encoder: table}.

        Raises:
            UserError: a file is no table.
        """
        found = {path.parent.name: _epochs(path) for path in sorted(self.root.glob("encoders/*/metrics.csv"))}
        return {name: table for name, table in found.items() if len(table)}

    @cached_property
    def patch_pairs(self) -> pd.DataFrame:
        """All tasks that compare scans in pairs: one row per patch and comparison, with ``task`` and ``encoder``."""
        found = [tables.of("patch_pairs", []).assign(task="", encoder="")]
        for path in sorted(self.root.glob("adapt/*/*/*/predictions/*.patches.parquet")):
            task, encoder = path.relative_to(self.root).parts[1:3]
            found.append(tables.read("patch_pairs", path).assign(task=task, encoder=encoder))
        return pd.concat([table for table in found if len(table)] or found, ignore_index=True)

    def labels(self, task: str) -> pd.DataFrame:
        """Return the labels of a task and their groups, from the first of its tables ``metrics``."""
        found = sorted(self.root.glob(f"evaluate/{task}/*/*.parquet"))[:1]
        rows = pd.concat([tables.of("metrics", []), *(tables.read("metrics", path) for path in found)])
        rows = rows[(rows.group != "") & (rows.group != "all")]
        return rows[["label", "group"]].drop_duplicates().sort_values(["group", "label"], ignore_index=True)

    def cases(self, dataset: str) -> pd.DataFrame:
        """Return the cases of a data set, excluded ones too; empty where its table isn't there."""
        return self._joined("cases", f"datasets/{dataset}/cases.parquet")

    def _by_corpus(self, name: str, paths: dict[str, Path]) -> pd.DataFrame:
        found = [tables.read(name, path).assign(corpus=corpus) for corpus, path in sorted(paths.items())]
        return pd.concat([tables.of(name, []).assign(corpus=""), *found], ignore_index=True)

    def _joined(self, name: str, pattern: str) -> pd.DataFrame:
        found = [tables.read(name, path) for path in sorted(self.root.glob(pattern))]
        filled = [table for table in found if len(table)]
        return pd.concat(filled, ignore_index=True) if filled else tables.of(name, [])


def _epochs(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a table of epochs ({error}); remove it and run 'ctfm pretrain' again") from error
