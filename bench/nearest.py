"""Exact cosine search in 148,000 x 512 float32: ours, faiss (flat, if it is installed) and a plain argsort.

All on the same data and threads, in turns. The floors: reading the table once, and the matrix product alone.
Use: python bench/nearest.py [--rows 148000] [--rounds 5]   (OMP_NUM_THREADS sets the threads; all cores by default)
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ctfm.embedding import nearest

K, CHANNELS, BATCH = 10, 512, 1000
FEW = 20  # queries that the plain argsort answers of a batch; its time is that of all by proportion


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def argsort(table: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return np.stack([np.argsort(-(table @ query))[:K] for query in queries])


def ways(table: np.ndarray, queries: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    found: dict[str, Callable[[], np.ndarray]] = {"ours": lambda: nearest.search(table, queries, K)[0]}
    try:
        import faiss

        index = faiss.IndexFlatIP(CHANNELS)
        index.add(np.ascontiguousarray(table))
        found["faiss flat"] = lambda: index.search(queries, K)[1]
    except ImportError:
        print("faiss is not installed: it is left out (pip install faiss-cpu)")
    found["plain argsort"] = lambda: argsort(table, queries[:FEW])
    return found


def floors(table: np.ndarray, queries: np.ndarray) -> dict[str, Callable[[], object]]:
    step = nearest.PRODUCTS // len(queries) if len(queries) > 1 else nearest.MOST_ROWS
    return {
        "floor: the table read once": lambda: np.max(table),
        "floor: the product alone": lambda: [
            queries @ table[start : start + step].T for start in range(0, len(table), step)
        ],
    }


def compare(table: np.ndarray, queries: np.ndarray, rounds: int) -> None:
    made, bare = ways(table, queries), floors(table, queries)
    answers = {name: work() for name, work in made.items()}
    agree = {name: (answer == answers["ours"][: len(answer)]).mean() for name, answer in answers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in [*made, *bare]}
    for _ in range(rounds):
        for name, work in {**made, **bare}.items():
            share = len(answers[name]) / len(queries) if name in answers else 1
            seconds[name].append(timed(work) / share)
    own = statistics.median(seconds["ours"])
    print(f"\n{len(queries)} queries, {len(table)} x {CHANNELS}, k = {K}")
    for name, values in seconds.items():
        middle = statistics.median(values)
        same = f", same neighbours {agree[name]:.4%}" if name in agree else ""
        print(f"  {name:<28} {middle * 1000:10.1f} ms   {middle / own:7.2f} of ours{same}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=148_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    random = np.random.default_rng(0)
    data = random.standard_normal((given.rows, CHANNELS), np.float32) + 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        nearest.save(data, path)
        del data
        table = np.load(path, mmap_mode="r")
        queries = nearest.unit(random.standard_normal((BATCH, CHANNELS), np.float32) + 1)
        print(f"{os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'all')}")
        compare(table, queries[:1], given.rounds)
        compare(table, queries, given.rounds)


if __name__ == "__main__":
    main()
