from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from ctfm.metrics import signed_rank


@pytest.mark.parametrize("seed", range(12))
def test_few_patients_with_ties_and_zeros_are_tested_as_by_scipy(seed):
    rng = np.random.default_rng(seed)
    differences = rng.integers(-3, 4, size=rng.integers(2, 10)) / 4 + 0.0
    differences[0] = 0.25
    assert signed_rank.p_value(differences) == pytest.approx(stats.wilcoxon(differences).pvalue)


@pytest.mark.parametrize("size", [13, 14, 60])
def test_others_go_to_scipy(size):
    differences = np.random.default_rng(size).normal(0.3, 1, size)
    assert signed_rank.p_value(differences) == stats.wilcoxon(differences).pvalue


def test_every_signing_is_counted():
    differences = np.array([1.0, -2, 2, 3, 3, 5])
    ranks, observed = stats.rankdata(np.abs(differences)), stats.rankdata(np.abs(differences))[differences > 0].sum()
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=6)]
    tail = min(np.mean([s >= observed for s in sums]), np.mean([s <= observed for s in sums]))
    assert signed_rank.exact(differences) == pytest.approx(min(1, 2 * tail))
    assert signed_rank.p_value(np.zeros(4)) == 1
