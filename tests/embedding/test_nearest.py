"""Against scikit-learn, and against itself in other batches and blocks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from ctfm import tables
from ctfm.embedding import nearest, table
from ctfm.errors import UserError


def vectors(rows, channels=24, seed=0):
    """Return vectors that lie close together, as those of encoders do."""
    random = np.random.default_rng(seed)
    return (5 + random.normal(0, 1, (rows, channels))).astype(np.float32)


@pytest.mark.parametrize("rows", [3, 40, 3000])
@pytest.mark.parametrize("queries", [1, 17])
@pytest.mark.parametrize("products", [2**22, 2**9])
def test_equals_scikit_learn(tmp_path, monkeypatch, rows, queries, products):
    monkeypatch.setattr(nearest, "PRODUCTS", products)
    data, asked = vectors(rows), 7 * vectors(queries, seed=1)
    nearest.save(data, tmp_path / "v.npy")
    found, cosines = nearest.search(np.load(tmp_path / "v.npy", mmap_mode="r"), asked, 5)
    k = min(5, rows)
    distance, wanted = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(data).kneighbors(asked)
    assert found.shape == (queries, k)
    np.testing.assert_allclose(cosines, 1 - distance, atol=1e-6)
    np.testing.assert_allclose(cosines, np.take_along_axis(cosine_similarity(asked, data), found, 1), atol=1e-6)
    assert (found == wanted).mean() > 0.95  # scikit-learn sorts near ties in single precision


def test_neither_batch_nor_blocks_change_anything(monkeypatch):
    data, asked = nearest.unit(vectors(2000)), vectors(30, seed=1)
    first = nearest.search(data, asked, 10)
    monkeypatch.setattr(nearest, "PRODUCTS", 2000)
    alone = [nearest.search(data, one[None], 10) for one in asked]
    for k in (0, 1):
        np.testing.assert_array_equal(first[k], np.concatenate([found[k] for found in alone]))


def test_equal_rows_come_in_their_order_and_a_zero_row_has_cosine_zero():
    data = nearest.unit(np.array([[0, 0], [-1, 0], [2, 0], [1, 1], [5, 0]]))
    found, cosines = nearest.search(data, np.array([[3.0, 0]]), 5)
    assert found.tolist() == [[2, 4, 3, 0, 1]]
    np.testing.assert_allclose(cosines, [[1, 1, np.sqrt(0.5), 0, -1]], atol=1e-7)


def test_many_equal_rows_do_no_harm(monkeypatch):
    monkeypatch.setattr(nearest, "PRODUCTS", 100)
    data = nearest.unit(np.ones((500, 8)))
    found, cosines = nearest.search(data, np.ones((3, 8)), 4)
    np.testing.assert_allclose(cosines, 1)
    assert all(len(set(row)) == 4 for row in found.tolist())


def test_a_table_of_embeddings_is_searched_with_its_keys(tmp_path):
    data = vectors(6, 4)
    rows = [
        {"case": f"c{i // 2}", "patch": i % 2, "label": "", "embedding": data[i], **dict.fromkeys(table.BOX, float(i))}
        for i in range(6)
    ]
    nearest.build(tables.of("embeddings", rows), tmp_path / "index")
    found, keys = nearest.load(tmp_path / "index")
    rows, _ = nearest.search(found, data[3:4], 1)
    assert keys.iloc[int(rows[0, 0])][["case", "patch", "z0_mm"]].tolist() == ["c1", 1, 3.0]
    pd.DataFrame(keys.iloc[:2]).to_parquet(tmp_path / "index/keys.parquet")
    with pytest.raises(UserError, match="6 vectors and 2 keys"):
        nearest.load(tmp_path / "index")


def test_what_does_not_fit_is_told(tmp_path):
    with pytest.raises(UserError, match="don't fit embeddings of 24 channels"):
        nearest.search(nearest.unit(vectors(3)), np.ones((2, 5)), 1)
    with pytest.raises(UserError, match="embedding 1 holds values"):
        nearest.save(np.array([[1.0, 2], [np.nan, 1]]), tmp_path / "v.npy")
    with pytest.raises(UserError, match="make it with"):
        nearest.load(tmp_path)
