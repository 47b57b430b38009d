from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from ctfm.metrics import retrieval

WORKED = [True, False, True, False, False, True, False]  # three are relevant, at ranks 1, 3 and 6


def test_a_query_worked_by_hand():
    found = retrieval.standard(WORKED, (3, 5))
    assert found == pytest.approx(
        {
            "average_precision": (1 + 2 / 3 + 3 / 6) / 3,
            "precision_at_3": 2 / 3,
            "recall_at_3": 2 / 3,
            "hit_rate_at_3": 1,
            "f1_at_3": 2 / 3,
            "average_precision_at_3": (1 + 2 / 3) / 3,
            "precision_at_5": 2 / 5,
            "recall_at_5": 2 / 3,
            "hit_rate_at_5": 1,
            "f1_at_5": 2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3),
            "average_precision_at_5": (1 + 2 / 3) / 3,
        }
    )


def test_the_same_query_by_the_papers_definitions():
    found = retrieval.published(WORKED, (3,))
    average = (1 + 2 / 3) / 2  # over the two that were found, not the three that there are
    assert found == pytest.approx(
        {
            "precision_at_3_published": 2 / 3,
            "hit_rate_at_3_published": 1,
            "average_precision_at_3_published": average,
            "f1_at_3_published": 2 * average / (average + 1),
        }
    )


def test_the_papers_f1_is_that_of_its_own_numbers():
    """Printed for CT-FM on OrganMNIST3D: AP .932, HR .968, F1 .944. Their F1 of means would be .950."""
    many = [retrieval.published(np.arange(9) == rank, (3,)) for rank in (0, 0, 0, 1, 8)]
    ap, hr, f1 = (np.mean([m[f"{n}_at_3_published"] for m in many]) for n in ("average_precision", "hit_rate", "f1"))
    assert (
        (ap, hr) == pytest.approx((0.7, 0.8)) and f1 == pytest.approx((3 + 2 / 3) / 5) and f1 < 2 * ap * hr / (ap + hr)
    )


def test_nothing_relevant_has_no_value_and_counted_as_zero_in_the_paper():
    found = retrieval.standard([False] * 4, (3, 10))
    assert all(math.isnan(value) for value in found.values())
    assert set(retrieval.published([False] * 4, (3, 10)).values()) == {0.0}


def test_a_corpus_smaller_than_k():
    found = retrieval.standard([True, True], (10,))
    assert {found[name] for name in ("precision_at_10", "recall_at_10", "average_precision_at_10")} == {1.0}
    assert retrieval.published([True, True], (10,))["precision_at_10_published"] == 1


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    relevant = rng.random(40) < 0.3
    relevant[rng.integers(40)] = True
    scores = -np.arange(40)
    found, lenient = (f(relevant, (3, 5, 10)) for f in (retrieval.standard, retrieval.published))
    assert found["average_precision"] == pytest.approx(average_precision_score(relevant, scores))
    for k in (3, 5, 10):
        taken = np.arange(40) < k
        for name, theirs in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            assert found[f"{name}_at_{k}"] == pytest.approx(theirs(relevant, taken, zero_division=0))
        listed = average_precision_score(relevant[:k], scores[:k]) if relevant[:k].any() else 0
        assert lenient[f"average_precision_at_{k}_published"] == pytest.approx(listed)


@pytest.mark.parametrize("kind", retrieval.DISTANCES)
def test_distances_are_scipys_and_rank_stably(kind):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 6)), rng.normal(size=(9, 6))
    assert np.allclose(retrieval.distances(a, b, kind), cdist(a, b, kind))
    twice = retrieval.distances(a, np.concatenate([b, b]), kind)
    order = retrieval.ranking(np.round(twice, 9))
    assert (order[:, ::2] + 9 == order[:, 1::2]).all()


def test_distances_of_zeros_and_of_bad_vectors():
    assert retrieval.distances(np.zeros((1, 3)), np.ones((2, 3)), "cosine").tolist() == [[1, 1]]
    with pytest.raises(ValueError, match="not finite"):
        retrieval.distances(np.full((1, 3), np.nan), np.ones((2, 3)), "cosine")
    with pytest.raises(ValueError, match="'manhattan' distance"):
        retrieval.distances(np.ones((1, 3)), np.ones((2, 3)), "manhattan")
    with pytest.raises(ValueError, match=r"\(1, 3\) and \(2, 4\)"):
        retrieval.distances(np.ones((1, 3)), np.ones((2, 4)), "cosine")
