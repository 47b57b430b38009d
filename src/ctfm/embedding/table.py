"""Tables of embeddings: rows of one scan, and back to arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctfm import tables
from ctfm.embedding.encode import Embedding
from ctfm.errors import UserError

NAME, FAILURES = "embeddings", "embedding_failures"
BOX = ["z0_mm", "y0_mm", "x0_mm", "z1_mm", "y1_mm", "x1_mm"]
WHOLE = -1  # column `patch` of a row that is no patch


def rows(
    case: str,
    found: Embedding,
    common: Mapping[str, Any],
    *,
    patches: bool = False,
    names: Mapping[int, str] | None = None,
) -> pd.DataFrame:
    """Return the rows of a scan: itself, its organs, its patches.

    Args:
        case: name of the scan.
        found: what an encoder made of it.
        common: the columns ``encoder``, ``model``, ``code`` and ``sha256``.
        patches: whether the patches get rows.
        names: of the organs by id; an id without a name is its number.
    """
    names = names or {}
    made = [(WHOLE, found.box_mm, "", found.vector)]
    made += [(WHOLE, found.box_mm, names.get(i, str(i)), vector) for i, vector in found.organs.items()]
    if patches:
        made += [(k, found.boxes_mm[k], "", vector) for k, vector in enumerate(found.patches)]
    columns = [
        {
            "case": case,
            "patch": patch,
            **dict(zip(BOX, box, strict=True)),
            "label": label,
            "embedding": vector,
            **common,
        }
        for patch, box, label, vector in made
    ]
    return tables.of(NAME, columns)


def read(*paths: Path | str) -> pd.DataFrame:
    """Read one or more tables of embeddings of one encoder.

    Raises:
        UserError: a file is no such table, or they are of different weights.
    """
    joined = pd.concat([tables.read(NAME, path) for path in paths], ignore_index=True)
    if len(models := sorted(set(joined["model"]))) > 1:
        raise UserError(f"{', '.join(map(str, paths))}: embeddings of different weights ({', '.join(models)})")
    return joined


def whole_scans(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of whole scans."""
    return table[(table["patch"] == WHOLE) & (table["label"] == "")]


def matrix(table: pd.DataFrame) -> np.ndarray:
    """Return the embeddings of a table, (rows, channels) float32."""
    return np.stack(table["embedding"].to_list()).astype(np.float32, copy=False)
