"""On made-up features whose best answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from ctfm.embedding import probes
from ctfm.embedding.targets import Fold

FOLD = Fold(np.arange(0, 200), np.arange(200, 280), np.arange(280, 500))


def made(classes=2, channels=16, distance=2.0, seed=0):
    """Return bags of one vector: normals whose means are ``distance`` apart for two classes."""
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, 500)
    features = random.normal(0, 1, (500, channels)) * np.linspace(0.1, 10, channels)
    features[:, 3] += distance * np.linspace(0.1, 10, channels)[3] * label
    return [row[None].astype(np.float32) for row in features], label


@pytest.mark.parametrize("probe", ["linear", "knn"])
@pytest.mark.parametrize("classes", [2, 3])
def test_probes_come_near_the_best_there_is(probe, classes):
    bags, label = made(classes, channels=4)
    logits = probes.PROBES[probe](bags, label, FOLD, 0)
    truth, probability = label[FOLD.test], softmax(logits, axis=1)
    assert logits.shape == (220, classes)
    if classes == 2:
        best = norm.cdf(2 / np.sqrt(2))  # 0.921
        assert roc_auc_score(truth, probability[:, 1]) > best - {"linear": 0.06, "knn": 0.12}[probe]
        assert log_loss(truth, probability) < 0.5
    else:
        assert (probability.argmax(1) == truth).mean() > 0.6


def test_the_linear_probe_is_scikit_learn_s_with_the_chosen_penalty():
    bags, label = made()
    features, both = np.concatenate(bags), np.arange(280)
    losses = {}
    for c in probes.PENALTIES:
        scaler = StandardScaler().fit(features[FOLD.train])
        model = LogisticRegression(C=c, max_iter=2000).fit(scaler.transform(features[FOLD.train]), label[FOLD.train])
        losses[c] = log_loss(label[FOLD.choose], model.predict_proba(scaler.transform(features[FOLD.choose])))
    scaler = StandardScaler().fit(features[both])
    model = LogisticRegression(C=min(losses, key=losses.__getitem__), max_iter=2000)
    model.fit(scaler.transform(features[both]), label[both])
    wanted = model.predict_proba(scaler.transform(features[FOLD.test]))
    np.testing.assert_allclose(softmax(probes.linear(bags, label, FOLD, 0), axis=1), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_a_class_that_is_not_in_the_training_cases_does_no_harm(probe):
    bags, label = made(2)
    label = label.copy()
    label[FOLD.test[0]] = 2
    logits = probes.PROBES[probe](bags, label, FOLD, 0)
    assert logits.shape == (220, 3) and np.isfinite(logits).all()
    assert (logits.argmax(1) < 2).all()


def test_attention_finds_the_one_patch_that_tells(monkeypatch):
    """One of eight patches is marked; the mean over patches hides its sign, attention to the mark shows it."""
    random = np.random.default_rng(0)
    label, bags, fold = random.integers(0, 2, 300), [], Fold(*np.split(np.arange(300), [120, 170]))
    for kind in label:
        patches = random.normal(0, 1, (random.integers(6, 10), 8))
        patches[:, 1] *= 3
        patches[0, :2] = 6, 2.5 * (2 * kind - 1)
        bags.append(random.permutation(patches).astype(np.float32))
    logits = probes.attentive(bags, label, fold, 0)
    found = roc_auc_score(label[fold.test], logits[:, 1] - logits[:, 0])
    means = [bag.mean(axis=0, keepdims=True) for bag in bags]
    pooled = probes.linear(means, label, fold, 0)
    assert found > 0.95 > 0.9 > roc_auc_score(label[fold.test], pooled[:, 1])
    monkeypatch.setitem(probes.ATTENTION, "epochs", 2)
    again = [probes.attentive(bags, label, fold, seed) for seed in (0, 0, 1)]
    assert np.array_equal(again[0], again[1]) and not np.array_equal(again[0], again[2])


def test_log_loss_equals_scikit_learn_s():
    logits = np.random.default_rng(0).normal(0, 2, (50, 3))
    label = np.arange(50) % 3
    assert probes.log_loss(logits, label) == pytest.approx(log_loss(label, softmax(logits, axis=1)))
