"""Which checkpoint a probe chooses, how sure that choice is, and why.

Intervals come from the jackknife over patients: the score with each patient left out, whatever the score is. There
are few patients, so quantiles are Student's. A score that chose among many is too high for those very cases: the
choice says so, and names the checkpoints that it can't be told apart from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ctfm.errors import UserError, nearest

TIE = 1e-6
CONFIDENCE = 0.95
RULE = f"the highest mean over seeds; means within {TIE:g} of it are equal, and of equal ones the earliest is chosen"
CAUTION = "the value is of the very cases that chose it, so it is too high; 'ctfm evaluate' measures unseen ones"

Scores = Callable[[list[dict[str, Any]]], dict[str, float]]


def choose(table: pd.DataFrame, scores: Scores, metric: str) -> dict[str, Any]:
    """Choose the checkpoint with the highest mean of a score over seeds; among equals (1e-6) the earliest.

    Args:
        table: rows of ``probe_cases``.
        scores: of rows of one checkpoint and seed, as the kind of task has it.
        metric: one of its scores.

    Returns:
        What ``selected.json`` holds: the checkpoint; its value, with the interval over patients and the spread over
        seeds; ``as_good``, the others whose paired difference to it may be zero; ``same_without_one``, how often the
        choice stays when one patient is left out.

    Raises:
        UserError: the metric was not measured.
    """
    epochs = table.groupby("checkpoint")["epoch"].first().sort_values()
    seeds, patients = sorted(table["seed"].unique()), sorted(table["patient"].unique())
    by_seed = _by_seed(table, scores, metric, epochs.index, seeds)
    left_out = [_by_seed(table[table["patient"] != p], scores, metric, epochs.index, seeds).mean(1) for p in patients]
    means, without = by_seed.mean(1), np.array(left_out)  # (checkpoints,), (patients, checkpoints)
    best, equals = _best(means)
    differences = [_interval(means[best] - means[i], without[:, best] - without[:, i]) for i in range(len(means))]
    same = sum(_best(row)[0] == best for row in without if np.isfinite(row).any())
    return {
        "checkpoint": str(epochs.index[best]),
        "epoch": int(epochs.iloc[best]),
        "metric": metric,
        "value": float(means[best]),
        "interval": _interval(means[best], without[:, best]),
        "interval_is": f"{CONFIDENCE:.0%}, over {len(patients)} patients (jackknife, Student's t)",
        "seed_values": {str(seed): float(value) for seed, value in zip(seeds, by_seed[best], strict=True)},
        "seed_sd": float(by_seed[best].std(ddof=1)) if len(seeds) > 1 else None,
        "as_good": [str(epochs.index[i]) for i, d in enumerate(differences) if i != best and (d is None or d[0] <= 0)],
        "same_without_one": f"{same} of {len(patients)} patients",
        "rule": RULE,
        "why": f"highest mean {metric} over {len(seeds)} seed(s) of {np.isfinite(means).sum()} checkpoints"
        + (f"; the earliest of {equals} equal ones" if equals > 1 else ""),
        "caution": CAUTION,
    }


def _by_seed(table: pd.DataFrame, scores: Scores, metric: str, names: pd.Index, seeds: list[int]) -> np.ndarray:
    """Return the score of each checkpoint and seed, (checkpoints, seeds); NaN where there is none."""
    found = np.full((len(names), len(seeds)), np.nan)
    for (name, seed), rows in table.groupby(["checkpoint", "seed"]):
        measured = scores(rows.to_dict("records"))
        if metric not in measured:
            raise UserError(f"probe.metric: '{metric}' was not measured{nearest(metric, measured)}")
        found[names.get_loc(name), seeds.index(seed)] = measured[metric]
    return found


def _best(means: np.ndarray) -> tuple[int, int]:
    """Return the first of the highest means, and how many are equal to the highest."""
    if not np.isfinite(means).any():
        raise UserError("probe: no checkpoint has a score, since no case shows a label; look at the validation cases")
    equal = np.flatnonzero(means >= np.nanmax(means) - TIE)
    return int(equal[0]), len(equal)


def _interval(value: float, without: np.ndarray) -> list[float] | None:
    """Return the jackknife's interval of a value, given what it is without each patient; None for fewer than two."""
    n = len(without)
    if n < 2 or not np.isfinite(without).all():
        return None
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * error
    return [float(value - half), float(value + half)]
