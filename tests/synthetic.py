"""Small made-up tables of results, in the places where a run leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ctfm import tables
from ctfm.config import Evaluate
from ctfm.metrics.summary import summarise

LABELS = {"liver": "organs", "spleen": "organs", "aorta": "cardiac", "heart": "cardiac", "rib_left_1": "ribs"}
LEVELS = {"ctfm": 0.03, "random": 0.0}


def metrics(
    encoder: str, shots: str = "all", seed: int = 0, *, patients: int = 12, dataset: str = "phantoms", labels=None
) -> pd.DataFrame:
    """Return the table ``metrics`` of one run; one label is absent from some patients."""
    rng = np.random.default_rng([seed, len(encoder), len(shots)])
    common = np.random.default_rng(0).normal(0, 0.05, patients)
    rows = []
    for place, (label, group) in enumerate((labels or LABELS).items()):
        for patient in range(patients):
            absent = place == 1 and patient % 3 == 0
            fewer = 0 if shots == "all" else 1 / int(shots)
            dice = np.clip(0.85 + LEVELS.get(encoder, 0.01) + common[patient] - fewer + rng.normal(0, 0.02), 0, 1)
            row = {"case_id": f"s{patient:04d}", "patient": f"p{patient:04d}", "label": label, "group": group}
            row |= {"metric": "dice", "value": np.nan if absent else dice, "note": "absent" if absent else ""}
            rows.append(row)
    fixed = {"task": "wholebody", "dataset": dataset, "encoder": encoder, "shots": shots, "seed": seed}
    return tables.of("metrics", [{**row, **fixed, "split_hash": "abc"} for row in rows])


def run(root: Path, encoders=("ctfm", "random"), shots=("5", "all"), seeds=(0, 1), **kwargs) -> Path:
    """Write the tables ``metrics`` and ``summary`` of a task under ``root/evaluate/wholebody``; return ``root``."""
    folder, parts = root / "evaluate" / "wholebody", []
    for encoder in encoders:
        for number in shots:
            for seed in seeds:
                parts.append(metrics(encoder, number, seed, **kwargs))
                tables.write(parts[-1], "metrics", folder / encoder / f"{number}-{seed}.parquet")
    rows = summarise(pd.concat(parts, ignore_index=True), Evaluate(bootstrap=200))
    tables.write(tables.of("summary", rows), "summary", folder / "summary.parquet")
    return root
