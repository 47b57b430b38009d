"""Whom a selection owes thanks, and what its licences and its overlap with evaluations are."""

from __future__ import annotations

import html
import re

import duckdb
import pandas as pd

from ctfm import resources, schemas
from ctfm.idc import options
from ctfm.idc.releases import Table

IDC = (
    "Fedorov, A., Longabaugh, W. J. R., Pot, D., Clunie, D. A., Pieper, S. D., Gibbs, D. L., et al. (2023). "
    "National Cancer Institute Imaging Data Commons: Toward Transparency, Reproducibility, and Scalability in Imaging "
    "Artificial Intelligence. RadioGraphics, 43(12), e230180. https://doi.org/10.1148/rg.230180"
)
SOURCES = (
    "SELECT collection_id, collection_name, lower(trim(source.source_doi)) AS doi, source.citation AS citation "
    "FROM (SELECT collection_id, collection_name, unnest(sources) AS source FROM read_parquet($1))"
)


def licenses(chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the table ``licenses`` of chosen series (with ``commercial``); an absent licence is called unknown."""
    groups = chosen.assign(license=chosen["license"].fillna("unknown")).groupby(["license", "commercial"], sort=True)
    table = groups.agg(
        series=("SeriesInstanceUID", "size"),
        studies=("StudyInstanceUID", "nunique"),
        patients=("PatientID", "nunique"),
        size_TB=("series_size_MB", "sum"),
    ).reset_index()
    table["size_TB"] /= 1e6
    return table.sort_values(["series", "license"], ascending=[False, True], ignore_index=True)


def collections(chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the table ``collections``: series of each, beside the number in the paper's corpus, and the licences."""
    paper = pd.read_csv(resources.path("paper_collections.csv")).set_index("collection_id")["n"]
    groups = chosen.groupby("collection_id", sort=True, dropna=False)
    table = pd.DataFrame({"series": groups.size(), "license": groups["license"].agg(_joined)}).reset_index()
    table["paper_series"] = table["collection_id"].map(paper).astype("Int64")
    return table.sort_values(["series", "collection_id"], ascending=[False, True], ignore_index=True)


def overlap(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Return the table ``overlap`` of the table ``series`` that select_index.sql made."""
    counts = connection.execute(
        "SELECT collection_id, count(*) AS series, count(DISTINCT PatientID) AS patients, "
        "bool_and(dropped_at = $downstream) AS excluded "
        "FROM series WHERE dropped_at IN ($downstream, $kept) GROUP BY collection_id",
        {"downstream": options.DOWNSTREAM, "kept": options.KEPT},
    ).df()
    known = options.downstream()
    return known.merge(counts.astype({"collection_id": object}), on="collection_id")[schemas.SCHEMAS["overlap"].names]


def text(chosen: pd.DataFrame, index: Table | None) -> str:
    """Return attribution.md: for each collection its name, DOIs, licences, citations and number of series.

    Args:
        chosen: rows with ``collection_id``, ``source_DOI`` and ``license``.
        index: collections_index of idc-index-data, which holds names and citations; None when the series are no IDC's.
    """
    sources = _sources(index)
    parts = ["# Attribution", f"{_series(len(chosen))}. Name these sources when you show anything made of them."]
    if index:
        parts += ["## Imaging Data Commons", IDC]
    for name, rows in chosen.assign(collection_id=chosen["collection_id"].fillna("unnamed")).groupby("collection_id"):
        parts += _section(str(name), rows, sources[sources["collection_id"] == name])
    return "\n\n".join(parts) + "\n"


def _section(name: str, rows: pd.DataFrame, sources: pd.DataFrame) -> list[str]:
    dois = sorted(rows["source_DOI"].dropna().str.strip().str.lower().unique())
    title = f"{sources['collection_name'].iloc[0]} (`{name}`)" if len(sources) else f"`{name}`"
    facts = [f"- {_series(len(rows))}", f"- licence: {_joined(rows['license']) or 'unknown'}"]
    facts += [f"- https://doi.org/{doi}" for doi in dois]
    cited = sources[sources["doi"].isin(dois)].drop_duplicates("doi").sort_values("doi")["citation"].dropna()
    return [f"## {title}", "\n".join(facts), *map(_plain, cited)]


def _sources(index: Table | None) -> pd.DataFrame:
    nothing = pd.DataFrame(columns=["collection_id", "collection_name", "doi", "citation"])
    if index is None:
        return nothing
    with duckdb.connect() as connection:
        try:
            return connection.execute(SOURCES, [str(index.path)]).df()
        except duckdb.BinderException:  # other versions of the package name its columns otherwise
            return nothing


def _plain(citation: str) -> str:
    """Return a citation without HTML, on one line."""
    return " ".join(html.unescape(re.sub(r"</?[a-zA-Z]+>", "", citation)).split())


def _series(count: int) -> str:
    return f"{count:,} series"


def _joined(values: pd.Series) -> str:
    return ", ".join(sorted(values.dropna().unique()))
