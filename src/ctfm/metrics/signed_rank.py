"""The two-sided Wilcoxon signed-rank test, fast for few patients whose differences have ties or zeros."""

from __future__ import annotations

import numpy as np
from scipy import stats

FEW = 13  # patients, up to which SciPy tests differences with ties or zeros exactly


def p_value(differences: np.ndarray) -> float:
    """Return the p value of SciPy's ``wilcoxon``; 1 where all differences are zero.

    Args:
        differences: (patients,), finite, at least one.
    """
    sizes = np.abs(differences)
    if not sizes.any():
        return 1.0
    if differences.size <= FEW and (np.unique(sizes).size < sizes.size or not sizes.all()):
        return exact(differences[sizes > 0])
    return float(stats.wilcoxon(differences).pvalue)


def exact(differences: np.ndarray) -> float:
    """Return the p value by counting all signings of the ranks; ties share a rank.

    SciPy does the same by trying them all, which takes a thousand times as long.

    Args:
        differences: (patients,), none of them zero.
    """
    ranks = np.rint(2 * stats.rankdata(np.abs(differences))).astype(int)  # twice the ranks are whole numbers
    ways = np.ones(1)
    for rank in ranks:
        ways = np.concatenate([ways, np.zeros(rank)]) + np.concatenate([np.zeros(rank), ways])
    observed = int(ranks[differences > 0].sum())
    tail = min(ways[: observed + 1].sum(), ways[observed:].sum())
    return float(min(1.0, 2 * tail / ways.sum()))
