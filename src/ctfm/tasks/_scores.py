"""The one number of each measure that kinds of task without training tell of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np


def means(rows: Iterable[Mapping[str, Any]], counts: Callable[[str], bool] = lambda metric: True) -> dict[str, float]:
    """Return the mean of each measure over rows, those without a value left out.

    Args:
        rows: of ``measure``, with ``metric`` and ``value``.
        counts: tells of a measure whether it is wanted.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        if counts(row["metric"]) and np.isfinite(row["value"]):
            values.setdefault(row["metric"], []).append(row["value"])
    return {metric: float(np.mean(found)) for metric, found in values.items()}
