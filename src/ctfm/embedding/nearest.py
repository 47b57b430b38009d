"""Exact nearest neighbours by cosine, among any number of embeddings in a memory-mapped table.

The table holds rows of length one, so a cosine is a product. It is read once for all queries, block by block: a block
of products is one matrix product, and of these only those above the worst neighbour so far are looked at. A few more
neighbours are kept than asked for; in the end their cosines are computed in double precision and sorted, so that what
comes out depends neither on the size of the batch nor on how the blocks were cut. Equal cosines: lower row first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ctfm.embedding import table
from ctfm.errors import UserError
from ctfm.files import atomic, ensure_folder, need_file

VECTORS, KEYS = "vectors.npy", "keys.parquet"
KEY_COLUMNS = ["case", "patch", "label", *table.BOX]
PRODUCTS = 2**22  # in a block: 16 MB, which stay in the cache
MOST_ROWS = 2**15
SPARE = 32  # neighbours kept beyond those asked for: single precision may swap near ones


def build(embeddings: pd.DataFrame, folder: Path | str) -> None:
    """Write the rows of a table ``embeddings`` as ``vectors.npy`` and ``keys.parquet``.

    Raises:
        UserError: an embedding holds a value that is no number.
    """
    target = ensure_folder(folder)
    with atomic(target / KEYS) as temporary:
        embeddings[KEY_COLUMNS].to_parquet(temporary, index=False)
    save(table.matrix(embeddings), target / VECTORS)


def load(folder: Path | str) -> tuple[np.ndarray, pd.DataFrame]:
    """Return what ``build`` wrote: the vectors, memory-mapped, and the key of each.

    Raises:
        UserError: they are not there, or not of one length.
    """
    paths = [need_file(Path(folder) / name, "make it with ctfm.embedding.nearest.build") for name in (VECTORS, KEYS)]
    vectors, keys = np.load(paths[0], mmap_mode="r"), pd.read_parquet(paths[1])
    if len(vectors) != len(keys):
        raise UserError(f"{folder}: {len(vectors)} vectors and {len(keys)} keys; build it anew")
    return vectors, keys


def save(vectors: np.ndarray, path: Path | str) -> None:
    """Write (rows, channels) vectors as float32 of length one, a block at a time; a zero vector stays zero.

    Raises:
        UserError: a value is no number.
    """
    with atomic(path) as temporary:
        out = np.lib.format.open_memmap(temporary, "w+", np.float32, vectors.shape)
        for start in range(0, len(vectors), MOST_ROWS):
            out[start : start + MOST_ROWS] = unit(vectors[start : start + MOST_ROWS])
        out.flush()


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return rows divided by their length, float32.

    Raises:
        UserError: a value is no number.
    """
    lengths = np.linalg.norm(np.asarray(vectors, np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        bad = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise UserError(f"embedding {bad} holds values that are no numbers; embed its scan anew")
    return (vectors / np.maximum(lengths, np.finfo(float).tiny)).astype(np.float32)


def search(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows nearest to each query by cosine, nearest first.

    Args:
        vectors: (rows, channels) float32 of length one (see ``save``), in memory or memory-mapped.
        queries: (queries, channels) of any length.
        k: neighbours of each query; fewer if there are fewer rows.

    Returns:
        (queries, k) int64 rows, and (queries, k) float64 cosines.

    Raises:
        UserError: the numbers of channels differ, or a query holds values that are no numbers.
    """
    if queries.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise UserError(f"queries of shape {queries.shape} don't fit embeddings of {vectors.shape[1]} channels")
    exact, asked = _unit64(queries), unit(queries)
    k = min(k, len(vectors))
    kept = min(len(vectors), k + SPARE)
    cosines, rows = np.empty((len(asked), 0), np.float32), np.empty((len(asked), 0), np.int64)
    step = max(kept, min(MOST_ROWS, PRODUCTS // max(1, len(asked))))
    for start in range(0, len(vectors), step):
        products = asked @ vectors[start : start + step].T
        cosines, rows = _merged(cosines, rows, products, start, kept)
    return _sorted(vectors, exact, rows, k)


def _merged(
    cosines: np.ndarray, rows: np.ndarray, products: np.ndarray, start: int, kept: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put the products of a block, which starts at row ``start``, among the neighbours so far."""
    if cosines.shape[1] < kept:
        place = np.broadcast_to(np.arange(start, start + products.shape[1]), products.shape)
        return _best(np.hstack([cosines, products]), np.hstack([rows, place]), kept)
    worst = cosines.min(axis=1)
    some = np.flatnonzero(products.max(axis=1) > worst)
    which, column = np.nonzero(products[some] > worst[some, None])
    if not which.size:
        return cosines, rows
    counts = np.bincount(which, minlength=len(some))
    slot = np.arange(which.size) - np.repeat(np.cumsum(counts) - counts, counts)
    more = np.full((len(some), counts.max()), -np.inf, np.float32)
    more[which, slot] = products[some[which], column]
    place = np.zeros(more.shape, np.int64)
    place[which, slot] = start + column
    cosines[some], rows[some] = _best(np.hstack([cosines[some], more]), np.hstack([rows[some], place]), kept)
    return cosines, rows


def _best(cosines: np.ndarray, rows: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    if cosines.shape[1] <= kept:
        return cosines, rows
    best = np.argpartition(-cosines, kept - 1, axis=1)[:, :kept]
    return np.take_along_axis(cosines, best, 1), np.take_along_axis(rows, best, 1)


def _sorted(vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort neighbours by their cosines in double precision, equal ones by row; some queries at a time, to be small."""
    found, cosines = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    step = max(1, PRODUCTS // (rows.shape[1] * vectors.shape[1]))
    for start in range(0, len(queries), step):
        part, own = slice(start, start + step), np.sort(rows[start : start + step], axis=1)
        values = np.einsum("qrc,qc->qr", _unit64(vectors[own]), queries[part])
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        found[part], cosines[part] = np.take_along_axis(own, order, 1), np.take_along_axis(values, order, 1)
    return found, cosines


def _unit64(vectors: np.ndarray) -> np.ndarray:
    exact = np.asarray(vectors, np.float64)
    return exact / np.maximum(np.linalg.norm(exact, axis=-1, keepdims=True), np.finfo(float).tiny)
