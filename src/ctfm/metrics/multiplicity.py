"""P values of many tests, adjusted for their number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return p values adjusted for their number by Holm's step-down method (1979); NaN is no test and stays NaN.

    The chance of even one false finding among all of them is then at most the level that they are held against,
    however the tests depend on each other.
    """
    p_values = np.asarray(p_values, dtype=float)
    tests = np.flatnonzero(np.isfinite(p_values))
    order = tests[np.argsort(p_values[tests], kind="stable")]
    adjusted = np.full(p_values.shape, np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.arange(tests.size, 0, -1) * p_values[order]))
    return adjusted
