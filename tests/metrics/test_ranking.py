"""Against scikit-learn and a closed form."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ctfm.metrics.intervals import Plan
from ctfm.metrics.ranking import auroc, average_precision, within_folds

THEIRS = {auroc: roc_auc_score, average_precision: average_precision_score}
QUICK = Plan(resamples=500)


def made(n=200, seed=0, ties=True):
    random = np.random.default_rng(seed)
    truth = random.random(n) < 0.3
    score = random.normal(0, 1, n) + truth
    return truth, np.round(score, 1) if ties else score


@pytest.mark.parametrize("measure", THEIRS)
@pytest.mark.parametrize("ties", [True, False])
def test_equals_scikit_learn_also_with_weights(measure, ties):
    truth, score = made(ties=ties)
    weights = np.random.default_rng(1).integers(0, 4, (5, len(truth)))
    wanted = [THEIRS[measure](truth, score, sample_weight=w) for w in weights]
    np.testing.assert_allclose(measure(truth, score, weights), wanted, rtol=1e-12)


@pytest.mark.parametrize("measure", THEIRS)
def test_without_both_classes_there_is_no_value(measure):
    score = np.array([0.1, 0.2])
    assert np.isnan(measure(np.array([True, True]), score, np.ones((1, 2)))).all()
    weights = np.array([[1, 0], [0, 1], [1, 1]])
    assert np.isnan(measure(np.array([False, True]), score, weights)).tolist() == [True, True, False]


def test_folds_are_not_ranked_against_each_other():
    """Perfect in each fold, but one fold's scores are all higher: together they would rank badly."""
    label, fold = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    scores = np.array([[0, 1], [0, 2], [0, 11], [0, 12.0]])
    assert within_folds(auroc, label, scores, fold, np.arange(4), QUICK).estimate == 1
    assert within_folds(auroc, label, scores, np.zeros(4), np.arange(4), QUICK).estimate == 0.75


def test_several_classes_are_each_against_the_rest():
    random = np.random.default_rng(0)
    label = random.integers(0, 3, 90)
    scores = random.dirichlet((1, 1, 1), 90)
    found = within_folds(auroc, label, scores, np.zeros(90), np.arange(90), QUICK)
    assert found.estimate == pytest.approx(roc_auc_score(label, scores, multi_class="ovr"))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Two normals a standard deviation apart: the true AUROC is Phi(1 / sqrt 2) = 0.760."""
    hits = 0
    for seed in range(100):
        truth, score = made(120, seed, ties=False)
        found = within_folds(
            auroc, truth.astype(int), np.stack([-score, score], 1), np.zeros(120), np.arange(120), QUICK
        )
        hits += found.low <= 0.7602 <= found.high
    assert 88 <= hits <= 99


def test_scans_of_a_patient_are_drawn_together():
    """Every scan four times says no more than once."""
    truth, score = made(60)
    scores = np.stack([-score, score], 1)
    once = within_folds(auroc, truth.astype(int), scores, np.zeros(60), np.arange(60), QUICK)
    four = within_folds(
        auroc,
        np.repeat(truth, 4).astype(int),
        np.repeat(scores, 4, 0),
        np.zeros(240),
        np.repeat(np.arange(60), 4),
        QUICK,
    )
    assert four == pytest.approx(once)
    alone = within_folds(auroc, truth.astype(int), scores, np.zeros(60), np.zeros(60), QUICK)
    assert alone.n == 1 and np.isnan(alone.low)
