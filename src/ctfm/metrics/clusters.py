"""How far vectors of the same label lie together: numbers beside a picture of them.

Each measure is a value for every vector, so that it has an interval over scans; their means are

- ``silhouette``: (b - a) / max(a, b), a being the mean distance to the vector's own label and b that to the nearest
  other label (Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7), as scikit-learn has it. From -1 to 1.
- ``knn_purity``: share of its k nearest neighbours that have its label. From 0 to 1.
- ``nmi``: normalised mutual information of the labels with a k-means clustering into as many clusters as there are
  labels, over the arithmetic mean of both entropies. It is a mean of pointwise terms; single ones can be negative.

All are taken in the space of the embeddings, never in a picture: t-SNE keeps neither distances nor densities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors


def measures(vectors: np.ndarray, labels: Sequence[str], neighbours: int, seed: int) -> dict[str, np.ndarray]:
    """Return ``silhouette``, ``knn_purity`` and ``nmi`` of each vector.

    Args:
        vectors: (n, channels).
        labels: of each.
        neighbours: k of the purity; at most n - 1 are taken.
        seed: of k-means.

    Raises:
        ValueError: fewer than two labels, or as many as vectors.
    """
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    if not 2 <= len(names) < len(codes):
        raise ValueError(f"{len(codes)} vectors with {len(names)} labels can't be told apart")
    k = min(neighbours, len(codes) - 1)
    near = NearestNeighbors(n_neighbors=k).fit(vectors).kneighbors(return_distance=False)  # itself left out
    found = KMeans(len(names), n_init=10, random_state=seed).fit_predict(vectors)
    return {
        "silhouette": silhouette_samples(vectors, codes),
        "knn_purity": (codes[near] == codes[:, None]).mean(axis=1),
        "nmi": pointwise_nmi(codes, found),
    }


def pointwise_nmi(labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return what each vector adds to the normalised mutual information, whose value is their mean.

    Args:
        labels: (n,) whole numbers.
        clusters: (n,) whole numbers.
    """
    joint = np.zeros((labels.max() + 1, clusters.max() + 1))
    np.add.at(joint, (labels, clusters), 1)
    joint /= len(labels)
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    entropy = sum(-(p[p > 0] * np.log(p[p > 0])).sum() for p in (rows, columns)) / 2
    gain = np.log(joint[labels, clusters] / (rows[labels] * columns[clusters]))
    return gain / entropy if entropy > 0 else np.zeros(len(labels))


def tsne(vectors: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Return (n, 2) places by t-SNE, of the raw vectors, as the paper has it; started from their PCA, so it repeats.

    Args:
        vectors: (n, channels), at least four.
        perplexity: lowered to a third of n where there are too few.
        seed: scikit-learn's ``random_state``.
    """
    fits = min(perplexity, (len(vectors) - 1) / 3)
    return TSNE(n_components=2, perplexity=fits, init="pca", random_state=seed).fit_transform(vectors)
