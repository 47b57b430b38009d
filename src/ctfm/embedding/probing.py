"""Command ``probe-linear``: what can be told from frozen embeddings, for any table of labels, in seconds on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import typer
from scipy.special import softmax
from sklearn import metrics

from ctfm import files, logs
from ctfm.embedding import probes, table, targets
from ctfm.errors import UserError, nearest
from ctfm.metrics import ranking
from ctfm.metrics.intervals import Plan

METRICS = "metrics.csv"
PREDICTIONS = "{probe}_predictions.csv"

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """Embeddings in memory: names of the cases, the vector of each scan (1, channels), the vectors of its patches."""

    cases: list[str]
    scans: list[np.ndarray]
    patches: list[np.ndarray]
    about: dict[str, str]


def probe_linear(
    embeddings: Annotated[list[Path], typer.Argument(help="Tables that 'ctfm embed' wrote, of one encoder.")],
    labels: Annotated[Path, typer.Option(help="Table of labels: a case, and one column for each target.")],
    out: Annotated[Path, typer.Option(help="Folder of metrics.csv and of the predictions of each probe.")],
    target: Annotated[list[str] | None, typer.Option(help="Columns to tell; default: all.")] = None,
    probe: Annotated[
        list[str] | None, typer.Option(help="linear, knn, attentive; default: all that the embeddings allow.")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of patients, where the labels have no split.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the folds, the attentive probe and the intervals.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples of the intervals.")] = 2000,
) -> None:
    """Fit probes on frozen embeddings; write AUROC and AP with intervals, and a prediction for each case."""
    held, given = hold(table.read(*embeddings)), targets.read(labels, target or ())
    wanted = _wanted(probe, held)
    rows: list[dict[str, Any]] = []
    told: dict[str, list[pd.DataFrame]] = {name: [] for name in wanted}
    for name in logs.progress(given.targets, "targets", len(given.targets)):
        one = targets.target(given, name, held.cases)
        for kind, found in _probed(one, held, given, wanted, folds, seed):
            plan = Plan(resamples=resamples, seed=seed)
            rows.append({"disease_name": name, "probe": kind, **held.about, **_measured(one, found, plan)})
            if found is not None:
                told[kind].append(_predictions(one, held, found))
    for kind, parts in told.items():
        _write(pd.concat(parts) if parts else pd.DataFrame(), out / PREDICTIONS.format(probe=kind))
    _write(pd.DataFrame(rows), out / METRICS)
    log.info("%d targets, %d cases with embeddings: %s", len(given.targets), len(held.cases), out / METRICS)


class Found(NamedTuple):
    """Predictions of a target: positions among its cases, logits, the fold of each, whose it is."""

    rows: np.ndarray
    logits: np.ndarray
    fold: np.ndarray
    patient: np.ndarray


def hold(embeddings: pd.DataFrame) -> Held:
    """Take a table of embeddings into memory.

    Raises:
        UserError: there is no row of a whole scan, or two of one case.
    """
    whole = table.whole_scans(embeddings)
    if whole.empty or whole["case"].duplicated().any():
        raise UserError("the embeddings need one row of the whole scan for each case; embed each scan once")
    cut = embeddings[embeddings["patch"] != table.WHOLE]
    bags = {case: table.matrix(part) for case, part in cut.groupby("case", sort=False)}
    cases = [str(case) for case in whole["case"]]
    patches = [bags[case] for case in cases] if set(cases) <= set(bags) else []
    return Held(
        cases, list(table.matrix(whole)[:, None]), patches, {k: str(whole[k].iloc[0]) for k in ("encoder", "model")}
    )


def _wanted(named: Sequence[str] | None, held: Held) -> list[str]:
    for name in named or ():
        if name not in probes.PROBES:
            raise UserError(f"--probe: no probe '{name}'{nearest(name, probes.PROBES)}")
        if name == "attentive" and not held.patches:
            raise UserError("--probe attentive: the embeddings have no patches; embed with --patches")
    return list(named or (name for name in probes.PROBES if held.patches or name != "attentive"))


def _probed(
    one: targets.Target, held: Held, given: targets.Labels, wanted: Sequence[str], folds: int, seed: int
) -> Iterator[tuple[str, Found | None]]:
    """Yield what each probe predicts of a target; None where it has too few cases."""
    facts = given.table.reindex([held.cases[i] for i in one.rows])
    patient, split = facts["patient"].to_numpy(str), facts["split"].to_numpy(str)
    try:
        cut = list(targets.folds(one.label, patient, split, folds, seed)) if one.rows.size else []
    except UserError as few:
        log.warning("%s is left out: %s", one.name, few)
        cut = []
    for name in wanted:
        bags = [(held.patches if name == "attentive" else held.scans)[i] for i in one.rows]
        parts = [
            (f.test, probes.PROBES[name](bags, one.label, f, seed), np.full(len(f.test), k)) for k, f in enumerate(cut)
        ]
        if not parts:
            yield name, None
            continue
        rows, logits, fold = (np.concatenate(part) for part in zip(*parts, strict=True))
        yield name, Found(rows, logits, fold, patient[rows])


def _measured(one: targets.Target, found: Found | None, plan: Plan) -> dict[str, Any]:
    """Return the measures of a target; those at a threshold are at the most probable class."""
    about = {"classes": "; ".join(f"{k} = {name}" for k, name in enumerate(one.classes)), "n": 0, "positives": 0}
    if found is None:
        return about
    label, probability = one.label[found.rows], softmax(found.logits, axis=1)
    said = probability.argmax(axis=1)
    row = {**about, "n": len(label), "positives": int((label > 0).sum())}
    for name, measure in {"auroc": ranking.auroc, "ap": ranking.average_precision}.items():
        value = ranking.within_folds(measure, label, found.logits, found.fold, found.patient, plan)
        row |= {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}
    recalls = metrics.recall_score(label, said, labels=range(len(one.classes)), average=None, zero_division=0)
    row |= {"acc": metrics.accuracy_score(label, said), "balanced_acc": metrics.balanced_accuracy_score(label, said)}
    row["f1"] = metrics.f1_score(label, said, average="macro", zero_division=0)
    if len(one.classes) == 2:
        row |= {"specificity": recalls[0], "sensitivity": recalls[1]}
    return row


def _predictions(one: targets.Target, held: Held, found: Found) -> pd.DataFrame:
    probability = softmax(found.logits, axis=1)
    columns: dict[str, Any] = {
        "filename": [held.cases[one.rows[i]] for i in found.rows],
        "label": one.label[found.rows],
        "prediction": probability.argmax(axis=1),
    }
    columns |= {f"logit_class_{k}": found.logits[:, k] for k in range(len(one.classes))}
    columns |= {f"prob_class_{k}": probability[:, k] for k in range(len(one.classes))}
    return pd.DataFrame({**columns, "disease_name": one.name, "fold": found.fold})


def _write(rows: pd.DataFrame, path: Path) -> None:
    with files.atomic(path) as temporary:
        rows.to_csv(temporary, index=False)
