"""How well a ranking of a corpus answers a query: the measures of information retrieval, and the paper's own.

A ranking is, for each query, which of the corpus' scans are alike (``relevant``), from the nearest to the farthest.
Write h for the hits among the first k, R for all that is relevant in the corpus, P@i for the share of hits among the
first i. With a corpus of fewer than k scans, k is its size. For each k (``STANDARD``):

- ``precision_at_k``: P@k = h / k.
- ``recall_at_k``: h / R.
- ``hit_rate_at_k``: 1 if h > 0, else 0.
- ``f1_at_k``: harmonic mean of P@k and recall at k.
- ``average_precision_at_k``: sum of P@i over the ranks i of the hits, over min(k, R).

and once ``average_precision``, the same over the whole ranking: that of scikit-learn. What no answer exists for
(R = 0, or an attribute that the query lacks) has no value.

The paper's definitions (``PUBLISHED``; their names end in ``_published``) differ where they are more lenient:

- ``average_precision_at_k``: the sum over h, the hits that were found, in place of min(k, R). A single hit at rank 1
  gives 1 however much was missed. 0 without a hit. For 3D-MIR this is "AP", with k = 10.
- ``f1_at_k``: harmonic mean of that and of the hit rate: no recall is in it.
- ``hit_rate_at_k``, ``precision_at_k``: as above.
- A query that lacks the attribute, or that nothing is alike, counts as 0.

Published values of OrganMNIST3D used the Euclidean distance, although the text says cosine; those of 3D-MIR used
cosine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DISTANCES = ("cosine", "euclidean")
STANDARD = ("precision", "recall", "hit_rate", "f1", "average_precision")
PUBLISHED = ("precision", "hit_rate", "f1", "average_precision")
AS_PUBLISHED = "_published"  # behind a measure's name


def distances(queries: np.ndarray, corpus: np.ndarray, kind: str) -> np.ndarray:
    """Return the distances (queries, corpus) of vectors (n, channels); ``cosine`` is 1 - cosine similarity.

    A vector of zeros has no direction: it is at distance 1 of everything.

    Raises:
        ValueError: an unknown kind, vectors of different length, or a value that is not finite.
    """
    a, b = np.asarray(queries, dtype=float), np.asarray(corpus, dtype=float)
    if kind not in DISTANCES or a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"'{kind}' distance of vectors of shape {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("an embedding holds values that are not finite")
    if kind == "cosine":
        return 1 - _unit(a) @ _unit(b).T
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def ranking(distance: np.ndarray) -> np.ndarray:
    """Return the corpus' indices from near to far for each row of distances; equal ones keep the corpus' order."""
    return np.argsort(distance, axis=-1, kind="stable")


def standard(relevant: Sequence[bool] | np.ndarray, depths: Sequence[int]) -> dict[str, float]:
    """Return the standard measures of one query (see above); NaN where nothing in the corpus is relevant.

    Args:
        relevant: whether each of the corpus is, from near to far.
        depths: values of k.
    """
    hits = np.asarray(relevant, dtype=bool)
    total = int(hits.sum())
    found = {"average_precision": _precisions(hits).sum() / total if total else np.nan}
    for k in depths:
        top = hits[:k]
        h, size = int(top.sum()), max(1, top.size)
        precision, recall = h / size, h / total if total else np.nan
        found |= {
            f"precision_at_{k}": precision,
            f"recall_at_{k}": recall,
            f"hit_rate_at_{k}": float(h > 0),
            f"f1_at_{k}": _harmonic(precision, recall),
            f"average_precision_at_{k}": _precisions(top).sum() / min(size, total) if total else np.nan,
        }
    return {name: float(value) if total else float("nan") for name, value in found.items()}


def published(relevant: Sequence[bool] | np.ndarray, depths: Sequence[int]) -> dict[str, float]:
    """Return the paper's measures of one query (see above), as ``standard`` has it; never NaN."""
    hits = np.asarray(relevant, dtype=bool)
    found: dict[str, float] = {}
    for k in depths:
        top = hits[:k]
        h = int(top.sum())
        average, hit = _precisions(top).sum() / h if h else 0.0, float(h > 0)
        values = (h / max(1, top.size), hit, _harmonic(average, hit), average)
        found |= {f"{name}_at_{k}{AS_PUBLISHED}": float(v) for name, v in zip(PUBLISHED, values, strict=True)}
    return found


def _precisions(hits: np.ndarray) -> np.ndarray:
    """Return P@i at the ranks of the hits."""
    ranks = np.flatnonzero(hits) + 1
    return np.arange(1, len(ranks) + 1) / ranks


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
