"""Holm's adjustment, by hand and under no effect."""

import numpy as np

from ctfm.metrics import multiplicity

NAN = np.nan


def test_holm_by_hand():
    """Holm 1979: 0.01 * 4, 0.02 * 3, 0.03 * 2, 0.04 * 1, never falling, never above one."""
    np.testing.assert_allclose(multiplicity.holm([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(multiplicity.holm([0.01, NAN, 0.02]), [0.02, NAN, 0.02])
    np.testing.assert_allclose(multiplicity.holm([0.6, 0.7]), [1.0, 1.0])
    np.testing.assert_allclose(multiplicity.holm([0.01, 0.01, 0.01]), [0.03, 0.03, 0.03])
    assert multiplicity.holm([]).size == 0
    assert np.isnan(multiplicity.holm([NAN])).all()


def test_holm_keeps_its_level_under_no_effect():
    rng = np.random.default_rng(0)
    false = sum((multiplicity.holm(rng.random(20)) < 0.05).any() for _ in range(1000))
    assert 0.03 < false / 1000 < 0.07
