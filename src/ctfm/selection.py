"""The cases of a probe: few to learn from, some to score on, and none of a patient whom a test set has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ctfm.cases import check_apart, of_split
from ctfm.config import Probe
from ctfm.tasks import CaseFile
from ctfm.training import sampling

TEST = "the test split and in the probe"


@dataclass(frozen=True)
class Drawn:
    """The cases of a probe.

    Attributes:
        validation: that score.
        train: that decoders learn from, by seed.
    """

    validation: list[CaseFile]
    train: dict[int, list[CaseFile]]

    @property
    def every(self) -> list[CaseFile]:
        """Return all of them, each once."""
        return list(dict.fromkeys([*self.validation, *(case for cases in self.train.values() for case in cases)]))

    def named(self) -> dict[str, Any]:
        """Return their names: ``validation``, and ``train`` by seed."""
        train = {str(seed): [case.case for case in cases] for seed, cases in self.train.items()}
        return {"train": train, "validation": [case.case for case in self.validation]}


def draw(table: pd.DataFrame, folder: Path, settings: Probe) -> Drawn:
    """Draw the cases that score (of the validation split first) and, for each seed, those that train.

    Test cases are never used: the numbers of the test split would no longer be those of unseen cases.

    Args:
        table: usable cases.
        folder: where the table lies.
        settings: how many.

    Raises:
        UserError: there are too few, or a patient of theirs is in the test split, too.
    """
    train, val, test = (of_split(table, folder, split) for split in ("train", "val", "test"))
    validation = sampling.few_shot(val, min(settings.validation, len(val)), 0, "probe-validation")
    if missing := settings.validation - len(validation):
        validation += sampling.few_shot(train, missing, 0, "probe-validation")
    patients = {case.patient for case in validation}
    rest = [case for case in train if case.patient not in patients]
    drawn = Drawn(validation, {seed: sampling.few_shot(rest, settings.shots, seed) for seed in settings.seeds})
    check_apart(drawn.every, test, TEST)
    return drawn


def check_unseen(drawn: Drawn, table: pd.DataFrame, dataset: str) -> int:
    """Check that no patient of the probe is in the test split of a data set; return how many cases that has.

    Args:
        drawn: the probe's cases.
        table: usable cases of a data set whose patients have the same names.
        dataset: what it is called.

    Raises:
        UserError: one is; the message names the patient and the data set.
    """
    test = of_split(table, Path(), "test")
    check_apart(drawn.every, test, f"{TEST}, of the data set '{dataset}'")
    return len(test)
