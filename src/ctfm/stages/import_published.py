"""Stage ``import-published``: bring tables that were published with the paper into the tables of results."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from ctfm import published_tables, tables
from ctfm.errors import UserError
from ctfm.files import need_file, sha256, write_json
from ctfm.metrics.summary import LABEL
from ctfm.published_tables import Imported

log = logging.getLogger(__name__)
STAGE = "import-published"
DEFAULT = Path("results/published_tables")
FORMS_HELP = "Folder of tables: *_organ_scores.csv, *_combined_predictions.csv, *semantic_distance*.csv."


def import_published(
    folder: Annotated[Path, typer.Argument(help=FORMS_HELP)],
    out: Annotated[Path, typer.Option(help="Results folder of their own, to draw figures from.")] = DEFAULT,
    cases: Annotated[int, typer.Option(help="Test cases behind means that are without values per case.", min=1)] = 248,
) -> None:
    """Read published tables; writes ``evaluate/<task>/`` and ``published.json`` under the results folder."""
    need_file(folder, "name the folder of the published tables")
    record, known = {}, set()
    for form, files in published_tables.find(folder).items():
        digests = {path.name: sha256(path) for path in files}
        imported = published_tables.FORMS[form](files, cases)
        _write(imported, out / "evaluate" / imported.task, digests)
        _compare(imported)
        record[form] = {"task": imported.task, "cases": cases, "sha256": digests}
        known |= set(digests)
    unknown = sorted({path.name for path in folder.glob("*.csv")} - known)
    if unknown:
        log.warning("%s: left out, of no known form: %s", folder, ", ".join(unknown))
    write_json(record, out / "published.json")


def _write(imported: Imported, folder: Path, digests: dict[str, str]) -> None:
    """Write the tables of a task.

    Raises:
        UserError: the folder holds the results of a run, which must not be mixed up with these.
    """
    facts = {"spec": {"stage": STAGE}, "sha256": digests}
    summary = folder / "summary.parquet"
    if summary.exists() and tables.facts(summary).get("spec", {}).get("stage") != STAGE:
        raise UserError(f"{summary}: made by a run; give --out a folder of its own, such as {DEFAULT}")
    for (encoder, shots, seed), rows in imported.metrics.groupby(["encoder", "shots", "seed"]):
        tables.write(rows, "metrics", folder / str(encoder) / f"{shots}-{seed}.parquet", facts=facts)
    tables.write(imported.summary, "summary", summary, facts=facts)


def _compare(imported: Imported) -> None:
    """Log what was computed beside what the paper prints."""
    rows = imported.summary
    rows = rows[(rows.method != published_tables.QUOTED) & rows.paper.notna()]
    rows = rows[(rows.group == "all") | rows.group.str.startswith(LABEL)]  # it prints no others
    rows = rows.drop_duplicates(["dataset", "encoder", "reference", "shots", "group", "metric"])  # ours come first
    for row in rows.itertuples():
        against = f" against {row.reference}" if row.reference else ""
        digits = len(repr(row.paper).partition(".")[2])  # as many as the paper prints
        same = pd.Series([row.estimate, row.paper]).round(digits).nunique() == 1
        text = "%s, %s%s: %s %.4f, the paper prints %.4g: %s"
        values = (row.dataset, row.encoder, against, row.metric.replace("_", " "), row.estimate, row.paper)
        log.log(logging.INFO if same else logging.WARNING, text, *values, "the same" if same else "not the same")
