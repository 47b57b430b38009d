from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score, silhouette_score

from ctfm.metrics import clusters


def blobs(apart, count=20):
    rng = np.random.default_rng(0)
    labels = np.repeat(["heart", "liver", "spleen"], count)
    centres = {"heart": 0, "liver": apart, "spleen": -apart}
    return np.stack([rng.normal(centres[name], 1, 5) for name in labels]), labels


def test_means_are_scikit_learns():
    vectors, labels = blobs(1.0)
    found = clusters.measures(vectors, labels, neighbours=5, seed=0)
    assert found["silhouette"].mean() == pytest.approx(silhouette_score(vectors, labels))
    assert all(values.shape == (60,) for values in found.values())
    rng = np.random.default_rng(1)
    a, b = rng.integers(4, size=99), rng.integers(5, size=99)
    assert clusters.pointwise_nmi(a, b).mean() == pytest.approx(normalized_mutual_info_score(a, b))
    assert clusters.pointwise_nmi(a, np.zeros(99, int)).mean() == pytest.approx(0)


def test_far_blobs_are_whole_and_mixed_ones_are_at_chance():
    far = {name: v.mean() for name, v in clusters.measures(*blobs(50.0), neighbours=10, seed=0).items()}
    assert far["knn_purity"] == 1 and far["nmi"] == pytest.approx(1) and far["silhouette"] > 0.9
    vectors, labels = blobs(0.0, 100)
    mixed = {name: v.mean() for name, v in clusters.measures(vectors, labels, neighbours=10, seed=0).items()}
    assert abs(mixed["knn_purity"] - 1 / 3) < 0.06 and mixed["nmi"] < 0.05 and abs(mixed["silhouette"]) < 0.05


def test_purity_worked_by_hand():
    vectors = np.array([[0.0], [1], [3], [10], [11]])
    found = clusters.measures(vectors, ["a", "a", "b", "b", "b"], neighbours=2, seed=0)["knn_purity"]
    assert found.tolist() == [0.5, 0.5, 0.0, 1.0, 1.0]  # of 3: 1 and 0; of 10: 11 and 3


def test_too_few_labels_are_told():
    with pytest.raises(ValueError, match="3 vectors with 1 labels"):
        clusters.measures(np.zeros((3, 2)), ["a"] * 3, 5, 0)
    with pytest.raises(ValueError, match="2 vectors with 2 labels"):
        clusters.measures(np.zeros((2, 2)), ["a", "b"], 5, 0)


def test_tsne_repeats_and_keeps_far_blobs_apart():
    vectors, labels = blobs(50.0)
    first, again = (clusters.tsne(vectors, 100, 42) for _ in range(2))
    assert first.shape == (60, 2) and np.array_equal(first, again)
    assert silhouette_score(first, labels) > 0.5
