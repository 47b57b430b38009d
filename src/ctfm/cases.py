"""The table of a data set's cases: who is in which split, and that nobody is in two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from ctfm import tables
from ctfm.errors import UserError
from ctfm.files import digest
from ctfm.tasks import CaseFile
from ctfm.training import sampling


def usable(path: Path) -> pd.DataFrame:
    """Read a table ``cases`` and keep its usable rows, sorted by case.

    Raises:
        UserError: it can't be read, or no case is usable.
    """
    table = tables.read("cases", path)
    table = table[table["status"] == "ok"].sort_values("case")  # its index still tells the data set's order
    if table.empty:
        raise UserError(f"{path}: no usable case; look at its columns 'reason' and 'detail'")
    return table


def of_split(table: pd.DataFrame, folder: Path, split: str) -> list[CaseFile]:
    """Return the cases of a split in the table's order; ``folder`` is where the table lies."""
    rows = table[table["split"] == split]
    return [CaseFile(row.case, row.patient, folder / row.image, folder / row.label) for row in rows.itertuples()]


def training(
    table: pd.DataFrame, folder: Path, shots: float | str, seed: int, rule: Literal["random", "file_order"]
) -> list[CaseFile]:
    """Return the training cases of a few-shot run: drawn by seed, or the first of the data set, as published.

    Args:
        table: what ``usable`` returned.
        folder: where the table lies.
        shots: how many, which share of them, or ``all``.
        seed: of the draw.
        rule: ``file_order`` takes no notice of the seed.

    Raises:
        UserError: there are fewer than asked for.
    """
    if rule == "random":
        return sampling.few_shot(of_split(table, folder, "train"), shots, seed)
    return sampling.first(of_split(table.sort_index(), folder, "train"), shots)


def split_hash(table: pd.DataFrame) -> str:
    """Return the digest of which usable case stands in which split; it goes into every row of results."""
    kept = table[table["status"] == "ok"].sort_values("case")
    return digest(list(zip(kept["case"], kept["patient"], kept["split"], strict=True)))


def check_apart(seen: Sequence[CaseFile], unseen: Sequence[CaseFile], what: str) -> None:
    """Check that no patient is on both sides.

    Raises:
        UserError: one is; the message names the patient.
    """
    both = sorted({case.patient for case in seen} & {case.patient for case in unseen})
    if both:
        raise UserError(f"patient '{both[0]}' is in {what}; mend the data set's split")
