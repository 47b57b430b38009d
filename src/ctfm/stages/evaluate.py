"""Stage ``evaluate``: measure predictions case by case, and sum up over all encoders of a task."""

from __future__ import annotations

import importlib
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
from ctfm.metrics.summary import references
from ctfm.tasks import CaseFile

log = logging.getLogger(__name__)

TaskOption = Annotated[str | None, typer.Option(help="Entry of `tasks` (with --config).")]


def evaluate(
    cases: Annotated[Path, typer.Option(help="cases.parquet of the data set.")],
    adapted: Annotated[Path, typer.Option(help="Folder that 'ctfm adapt' wrote.")],
    out: Annotated[Path, typer.Option(help="Table to write; a picture of one case goes beside it.")],
    external: Annotated[
        list[Path] | None, typer.Argument(help="cases.parquet of the further data sets that 'ctfm adapt' was given.")
    ] = None,
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
    listed, test = _test(cases)
    fixed = {"task": job["task"]["name"], "encoder": job["encoder"], "shots": str(job["shots"]), "seed": job["seed"]}
    parts = [(job["task"]["dataset"], listed, test, predictions)]
    parts += [(path.parent.name, *_test(path), adapted / "external" / path.parent.name) for path in external or []]
    rows = []
    for dataset, table, unseen, folder in parts:
        found = measured(kind.measure(settings, unseen, need_file(folder, "run 'ctfm adapt' first")), unseen, folder)
        own = {**fixed, "dataset": dataset, "split_hash": case_table.split_hash(table)}
        rows += [{**row, **own} for row in found]
    tables.write(tables.of("metrics", rows), "metrics", out, facts={"spec": job})
    if slices is not None:
        shown = kind.slices(settings, test, predictions) if hasattr(kind, "slices") else []
        own = {**fixed, "dataset": job["task"]["dataset"]}
        tables.write(tables.of("slices", [{**row, **own} for row in shown]), "slices", slices)
    _picture(kind.picture(settings, test[0], predictions), out.with_suffix(".png"))
    log.info("%s: %d values of %d test cases", out, len(rows), sum(len(unseen) for _, _, unseen, _ in parts))


def _picture(picture: Any, path: Path) -> None:
    if picture is not None:
        with atomic(path) as temporary:
            picture.savefig(temporary, format="png", metadata={"Software": None})


def _test(cases: Path) -> tuple[pd.DataFrame, list[CaseFile]]:
    """Return the usable cases of a table, and those of the test split."""
    listed = case_table.usable(cases)
    test = case_table.of_split(listed, cases.parent, "test")
    if not test:
        raise UserError(f"{cases}: no usable test case; check the data set's split and its excluded cases")
    return listed, test


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
    module = plugins.constant("tasks", job["task"]["kind"], "SUMMARY", default="summary")
    summarise = importlib.import_module(f"ctfm.metrics.{module}").summarise
    rows = [row for _, part in joined.groupby("dataset", sort=False) for row in summarise(part, settings)]
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
        UserError: several tasks, splits of a data set or sets of cases, or nothing at all.
    """
    if joined.empty:
        raise UserError("the given tables have no rows; run 'ctfm evaluate' anew")
    splits = [(f"split_hash of {name}", part.split_hash) for name, part in joined.groupby("dataset")]
    for column, values in (("task", joined.task), *splits):
        if len(found := sorted(set(values))) > 1:
            raise UserError(f"the tables differ in {column} ({', '.join(found)}); evaluate all encoders on one split")
    cases = joined.dataset + ": " + joined.case_id
    runs = cases.groupby([joined[column] for column in ("encoder", "shots", "seed")]).agg(frozenset)
    if runs.nunique() > 1:
        raise UserError("the tables hold different test cases; evaluate all encoders on the same cases")
