"""The paper's own query (supplement S1), on BigQuery or on tables of instances with DuckDB.

The query stands in ``resources/sql/select_ct.sql`` alone. The funnel (supplement S2) is derived from its text, so that
the numbers of the steps can't disagree with the rows.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from typing import Any, Literal, NamedTuple

import pandas as pd
import sqlglot
from sqlglot import exp

from ctfm import resources
from ctfm.config import Corpus, Select
from ctfm.errors import UserError
from ctfm.idc import instances

SQL = ("sql", "select_ct.sql")
PACKAGE = "idc-index-data"
STATISTICS = "idc_instances_per_series"  # the CTE that judges instances, in the paper's words
COUNTED = {"series": "SeriesInstanceUID", "studies": "StudyInstanceUID", "patients": "PatientID"}


class PaperRows(NamedTuple):
    """What the query chose: a row for each series, the rows of its funnel, and facts for ``selection.json``."""

    frame: pd.DataFrame
    funnel: list[dict[str, Any]]
    facts: dict[str, Any]


def text(statistics: int, listing: int, dialect: Literal["bigquery", "duckdb"]) -> str:
    """Return the query as text.

    Args:
        statistics: IDC release whose instances are judged.
        listing: IDC release that the series are listed from.
        dialect: of whom.
    """
    query = resources.path(*SQL).read_text().format(statistics_release=statistics, listing_release=listing)
    return query if dialect == "bigquery" else instances.duckdb_text(parse(query))


def parse(query: str) -> exp.Select:
    """Return the syntax tree of a query in BigQuery's dialect."""
    tree = sqlglot.parse_one(query, read="bigquery")
    assert isinstance(tree, exp.Select)
    return tree


def run(corpus: Corpus, select: Select, where: str) -> PaperRows:
    """Run the query, and count the series, studies and patients that each of its conditions leaves.

    Args:
        corpus: the releases, and the tables of instances if DuckDB is to run it. Its criteria are not looked at: those
            of the paper stand in the query.
        select: the engine, and how much BigQuery may bill.
        where: key of the corpus in the configuration, for messages.

    Returns:
        A frame with the query's columns, ordered by SeriesInstanceUID, the same on both engines.

    Raises:
        UserError: the engine or its tables can't be used, or no series is left.
    """
    on_bigquery = select.backend == "bigquery"
    statistics, listing = corpus.releases or _newest(None if on_bigquery else corpus.dicom_all)
    query = text(statistics, listing, "bigquery")
    names, counts = funnel(parse(query), statistics, listing)
    if on_bigquery:
        from ctfm.idc import bigquery  # Google's client takes a second to load

        (rows, numbers), facts = bigquery.run([query, counts.sql("bigquery", pretty=True)], select)
    else:
        (rows, numbers), facts = instances.run([parse(query), counts], corpus.dicom_all, f"{where}.dicom_all")
    steps = _steps(names, numbers)
    _check(rows, steps, where)
    frame = rows.sort_values("SeriesInstanceUID", ignore_index=True)
    digest = hashlib.sha256(query.encode()).hexdigest()
    told = {"backend": select.backend, "releases": [statistics, listing], "sql_sha256": digest}
    return PaperRows(frame, steps, told | facts)


def funnel(query: exp.Select, statistics: int, listing: int) -> tuple[list[str], exp.Select]:
    """Derive the funnel from the query's own conditions.

    Args:
        query: the tree of ``select_ct.sql``.
        statistics: IDC release whose instances are judged.
        listing: IDC release that the series are listed from.

    Returns:
        The names of the steps, and a query of one row: the columns ``series_0``, ``studies_0``, ``patients_0``,
        ``series_1`` ... hold what step 0, 1 ... leaves.
    """
    judged = next(cte.this for cte in query.ctes if cte.alias == STATISTICS)
    of_instances, of_series = _conditions(judged), _conditions(query)
    names = [f"all series of release {statistics}", *map(_name, of_instances)]
    names += [f"listed in release {listing}", *map(_name, of_series)]
    # Tables that only add columns are left out.
    joins = [join for join in query.args["joins"] if join.this.name == STATISTICS]
    by_instance = _counts(judged.args["from_"], [], of_instances, 0)
    by_series = _counts(query.args["from_"], joins, of_series, len(of_instances) + 1)
    both = exp.select("*").from_(by_instance.subquery("by_instance"))
    return names, both.join(by_series.subquery("by_series"), join_type="CROSS").with_(STATISTICS, judged)


def _conditions(query: exp.Select) -> list[exp.Expr]:
    """Return the conditions that a WHERE clause joins by AND, in its order."""
    whole = query.args["where"].this
    return list(whole.flatten()) if isinstance(whole, exp.And) else [whole]


def _name(condition: exp.Expr) -> str:
    """Return a condition's own text, without the names of tables."""
    short = condition.copy()
    for column in short.find_all(exp.Column):
        column.set("table", None)
    return short.sql("bigquery")


def _counts(source: exp.From, joins: list[exp.Join], conditions: list[exp.Expr], first: int) -> exp.Select:
    """Count what is left of tables after none, one, two ... of the conditions."""
    query = exp.Select(from_=source.copy(), joins=[join.copy() for join in joins])
    table = source.this.alias or None
    for number in range(len(conditions) + 1):
        for name, column in COUNTED.items():
            value: exp.Expr = exp.column(column, table)
            if number:
                value = exp.Case().when(exp.and_(*conditions[:number]), value)
            count = exp.Count(this=exp.Distinct(expressions=[value]))
            query.select(exp.alias_(count, f"{name}_{first + number}"), copy=False)
    return query


def _newest(tables: dict[int, str] | None) -> tuple[int, int]:
    """Return the newest release that there is a table of, or that the installed index is of."""
    release = int(metadata.version(PACKAGE).split(".")[0]) if not tables else max(tables)
    return release, release


def _steps(names: list[str], numbers: pd.DataFrame) -> list[dict[str, Any]]:
    row = numbers.iloc[0]
    return [
        {"step": name, **{key: int(row[f"{key}_{number}"]) for key in COUNTED}} for number, name in enumerate(names)
    ]


def _check(rows: pd.DataFrame, steps: list[dict[str, Any]], where: str) -> None:
    if len(rows) != steps[-1]["series"]:
        raise ValueError(f"select_ct.sql: {len(rows)} rows, but {steps[-1]['series']} in its funnel")
    if rows.empty:
        at = next(number for number, step in enumerate(steps) if not step["series"])
        before = steps[at - 1]["series"] if at else 0
        raise UserError(
            f"{where}: the paper's query leaves no series at the step '{steps[at]['step']}' ({before} before it); "
            "check `releases` and `dicom_all`"
        )
