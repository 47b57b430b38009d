"""Stage ``evaluate``: measure predictions case by case, and sum up over all encoders of a task."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from ctfm import cases as case_table
from ctfm import plugins, tables
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Evaluate
from ctfm.errors import UserError
from ctfm.files import atomic, need_file
from ctfm.metrics.summary import references, summarise
from ctfm.tasks import CaseFile

log = logging.getLogger(__name__)

TaskOption = Annotated[str | None, typer.Option(help="Entry of `tasks` (with --config).")]


def evaluate(
    cases: Annotated[Path, typer.Option(help="cases.parquet of the data set.")],
    adapted: Annotated[Path, typer.Option(help="Folder that 'ctfm adapt' wrote.")],
    out: Annotated[Path, typer.Option(help="Table to write; a picture of one case goes beside it.")],
    slices: Annotated[Path | None, typer.Option(help="Table of planes to write, for figures.")] = None,
    spec: SpecOption = None,
    config: ConfigOption = None,
    task: TaskOption = None,
    encoder: Annotated[str | None, typer.Option(help="The encoder's entry (with --config).")] = None,
    shots: Annotated[str | None, typer.Option(help="Labelled training cases, or all (with --config).")] = None,
    seed: Annotated[int | None, typer.Option(help="Training seed (with --config).")] = None,
) -> None:
    """Measure the predictions on the test cases; writes a table ``metrics``, a picture, and a table ``slices``."""
    job = job_spec("evaluate", spec, config, task=task, encoder=encoder, shots=shots, seed=seed)
    kind = plugins.get("tasks", job["task"]["kind"])
    settings = plugins.settings("tasks", job["task"]["kind"])(**job["task"]["options"])
    predictions = need_file(adapted / "predictions", "run 'ctfm adapt' first")
    listed = case_table.usable(cases)
    test = case_table.of_split(listed, cases.parent, "test")
    if not test:
        raise UserError(f"{cases}: no usable test case; check the data set's split and its excluded cases")
    rows = measured(kind.measure(settings, test, predictions), test, predictions)
    fixed = {
        "task": job["task"]["name"],
        "dataset": job["task"]["dataset"],
        "encoder": job["encoder"],
        "shots": str(job["shots"]),
        "seed": job["seed"],
    }
    if slices is not None:
        shown = kind.slices(settings, test, predictions) if hasattr(kind, "slices") else []
        tables.write(tables.of("slices", [{**row, **fixed} for row in shown]), "slices", slices)
    fixed["split_hash"] = case_table.split_hash(listed)
    tables.write(tables.of("metrics", [{**row, **fixed} for row in rows]), "metrics", out, facts={"spec": job})
    picture = kind.picture(settings, test[0], predictions)
    if picture is not None:
        with atomic(out.with_suffix(".png")) as temporary:
            picture.savefig(temporary, format="png", metadata={"Software": None})
    log.info("%s: %d values of %d test cases", out, len(rows), len(test))


def summary(
    measures: Annotated[list[Path], typer.Argument(help="Tables that 'ctfm evaluate' wrote for one task.")],
    out: Annotated[Path, typer.Option(help="Table to write.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
    task: TaskOption = None,
) -> None:
    """Estimate, interval and comparison for every encoder, setting, group and metric of one task."""
    job = job_spec("summary", spec, config, task=task)
    settings = Evaluate(**job["evaluate"])
    joined = pd.concat([tables.read("metrics", path) for path in measures], ignore_index=True)
    check_one_task(joined)
    if settings.references and not references(joined, settings):
        names = ", ".join(settings.references)
        log.warning("none of evaluate.references (%s) is among the encoders: no paired differences", names)
    rows = summarise(joined, settings)
    tables.write(tables.of("summary", rows), "summary", out, facts={"spec": job})
    log.info("%s: %d rows over %d encoders", out, len(rows), joined.encoder.nunique())


def measured(rows: list[dict[str, Any]], test: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return the rows, and one without a value for each case in which there was nothing to measure.

    Raises:
        UserError: a case has no prediction, which would silently shrink the test set.
    """
    without = [case for case in test if case.case not in {row["case_id"] for row in rows}]
    missing = [case.case for case in without if not list(predictions.glob(f"{case.case}.*"))]
    if missing:
        raise UserError(
            f"{predictions}: no prediction of the test cases {', '.join(missing[:5])}; run 'ctfm adapt' anew"
        )
    if without:
        log.warning("nothing to measure in %s: none of the task's labels is there", ", ".join(c.case for c in without))
    empty = {"label": "", "group": "", "metric": "nothing_measured", "value": float("nan")}
    return rows + [
        {**empty, "case_id": case.case, "patient": case.patient, "note": "no label in truth or prediction"}
        for case in without
    ]


def check_one_task(joined: pd.DataFrame) -> None:
    """Refuse tables that can't be compared.

    Raises:
        UserError: several tasks, data sets, splits or sets of cases, or nothing at all.
    """
    if joined.empty:
        raise UserError("the given tables have no rows; run 'ctfm evaluate' anew")
    for column in ("task", "dataset", "split_hash"):
        found = sorted(set(joined[column]))
        if len(found) > 1:
            raise UserError(f"the tables differ in {column} ({', '.join(found)}); evaluate all encoders on one split")
    runs = joined.groupby(["encoder", "shots", "seed"])["case_id"].agg(lambda c: frozenset(c))
    if runs.nunique() > 1:
        raise UserError("the tables hold different test cases; evaluate all encoders on the same cases")
