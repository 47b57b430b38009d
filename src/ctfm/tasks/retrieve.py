"""Task ``retrieve``: a scan asks, the corpus is ranked by the distance of frozen features (paper, Figure 5).

Nothing is trained: ``fit`` embeds the corpus, ``predict`` the scans that ask, ``measure`` ranks. What is alike, and
which scans are ranked together, the data set says (``ctfm.datasets.Case.cohorts``). The measures, ours and those of the
paper, are defined in ``ctfm.metrics.retrieval``; for each query there is a row

- of ``<measure>``, its label being the attribute (``all`` where there is only one): the mean over queries;
- for precision and average precision, of ``<measure>_by_cohort``, its label the cohort; where there is only one, the
  query's own value (its organ): the mean over labels counts each as much as another.

``_euclidean`` in a name tells the distance; without it, it is cosine. In ours a scan that asks in several cohorts is
one patient with several values; published values are means over queries, so in theirs each query stands for itself.

Patches of a scan become one vector by ``aggregation``. Where several ways are named, the one is taken that does best
when the scans of the corpus ask each other; those that ask in any cohort have no part in that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from ctfm.config import Patches
from ctfm.errors import UserError
from ctfm.metrics import retrieval
from ctfm.tasks import CaseFile, _matches, _scores, _vectors
from ctfm.tasks._vectors import Vectors

BY_COHORT = "_by_cohort"
IN_COHORTS = ("precision", "average_precision")  # the measures that have it: those of Extended Data Figure 4
CHOICE = "average_precision"
SHOWN = 5  # matches in the picture
UNKNOWN = "it is not known what of the corpus is alike: no value, and 0 as published"


class Settings(Patches):
    """How scans are shown to the encoder, and how they are ranked."""

    aggregation: tuple[Literal["min", "mean", "max"], ...] = Field(
        ("min", "mean", "max"),
        min_length=1,
        description="how the vectors of a scan's patches become one, value by value; of several, the one that does "
        "best within the corpus, the first of equals. The paper took min, chosen on the queries",
        json_schema_extra={"of": "evaluate"},
    )
    distances: tuple[Literal["cosine", "euclidean"], ...] = Field(
        ("cosine", "euclidean"),
        min_length=1,
        description="what ranks; the paper says cosine, its run on OrganMNIST3D used euclidean",
        json_schema_extra={"of": "evaluate"},
    )
    depths: tuple[int, ...] = Field(
        (3, 5, 10), min_length=1, description="first so many that count", json_schema_extra={"of": "evaluate"}
    )


class Query(NamedTuple):
    """One scan asking in one cohort for one attribute."""

    place: int  # among the vectors
    cohort: str
    attribute: str
    value: str | None
    corpus: np.ndarray  # places of the scans that are ranked
    alike: np.ndarray  # whether each of them is


def fit(
    settings: Settings,
    encoder: Path,
    train: list[CaseFile],
    val: list[CaseFile],
    out: Path,
    *,
    seed: int,
    frozen: object = False,
) -> dict[str, Any]:
    """Embed training and validation cases into ``out/model``; which of them ask, their cohorts say.

    Neither the seed nor ``frozen`` changes anything. Returns facts for run.json.

    Raises:
        UserError: there is no case, or its data set has no cohorts.
    """
    return _vectors.fit("retrieve", settings, encoder, train, val, out)


def predict(model: Path, cases: list[CaseFile], out: Path) -> None:
    """Embed cases; ``out`` gets all vectors, those of ``fit`` too."""
    _vectors.predict(model, cases, out)


def measure(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return the measures of each query (see above).

    Args:
        settings: distances, depths, aggregation.
        cases: not used; all queries among the vectors are measured.
        predictions: folder that ``predict`` wrote.

    Raises:
        UserError: vectors are missing or damaged, or nothing asks.
    """
    vectors = _vectors.load(predictions)
    asked = queries(vectors.about)
    if not asked:
        raise UserError(f"{predictions}: no scan asks; check the data set's split")
    rows: list[dict[str, Any]] = []
    for distance in settings.distances:
        how, why = choose(settings, vectors, distance)
        for query, order in ranked(asked, vectors.arrays[how], distance):
            rows += _rows(query, query.alike[order], vectors, settings, distance, why, asked)
    return rows


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each measure over queries, those without a value left out."""
    return _scores.means(rows, lambda metric: BY_COHORT not in metric)


def picture(settings: Settings, case: CaseFile, prediction: Path) -> Figure | None:
    """Draw the scan that asks and what it finds first, for the first attribute; None for a scan that doesn't ask."""
    vectors, distance = _vectors.load(prediction), settings.distances[0]
    asked = [query for query in queries(vectors.about) if vectors.cases[query.place] == case.case][:1]
    how, _ = choose(settings, vectors, distance)
    for query, order in ranked(asked, vectors.arrays[how], distance):
        found = [(vectors.cases[query.corpus[place]], bool(query.alike[place])) for place in order[:SHOWN]]
        scans: list[tuple[Path, str, bool | None]] = [(case.image, f"{case.case}\n{query.value}", None)]
        scans += [(case.image.with_name(f"{name}.b2nd"), name, alike) for name, alike in found]
        return _matches.draw(f"{query.attribute}: what lies nearest by {distance}", scans)
    return None


def queries(about: Sequence[dict[str, Any]], *, within_corpus: bool = False) -> list[Query]:
    """Return who asks for what, by cohort, attribute and place.

    Args:
        about: of each scan, its ``cohorts``.
        within_corpus: the scans of the corpora ask each other, each all but itself; scans that ask in any cohort, and
            patients that do, are left out altogether.
    """
    asking = {one["patient"] for one in about if any(c["query"] for c in one["cohorts"].values())}
    kept = [place for place, one in enumerate(about) if not within_corpus or one["patient"] not in asking]
    made = []
    for cohort in dict.fromkeys(cohort for one in about for cohort in one["cohorts"]):
        members = [place for place in kept if cohort in about[place]["cohorts"]]
        asks = np.array([about[p]["cohorts"][cohort]["query"] for p in members], bool)
        corpus = np.array(members, int)[~asks]
        ask = corpus if within_corpus else np.array(members, int)[asks]
        for attribute in dict.fromkeys(a for p in members for a in about[p]["cohorts"][cohort]["attributes"]):
            values = {p: about[p]["cohorts"][cohort]["attributes"].get(attribute) for p in members}
            for place in ask.tolist():
                others = corpus[corpus != place]
                alike = np.array([values[p] is not None and values[p] == values[place] for p in others], bool)
                made.append(Query(place, cohort, attribute, values[place], others, alike))
    return made


def ranked(asked: Sequence[Query], array: np.ndarray, distance: str) -> Iterator[tuple[Query, np.ndarray]]:
    """Yield each query with the order of its corpus, from near to far."""
    for query in asked:
        away = retrieval.distances(array[[query.place]], array[query.corpus], distance)[0]
        yield query, retrieval.ranking(away)


def choose(settings: Settings, vectors: Vectors, distance: str) -> tuple[str, str]:
    """Return the aggregation that does best within the corpus, and a sentence that tells how it was chosen."""
    candidates = settings.aggregation
    first = candidates[0]
    if len(candidates) == 1:
        return first, f"aggregation {first}, as set"
    if all(np.array_equal(vectors.arrays[first], vectors.arrays[how]) for how in candidates):
        return first, "one patch is the whole scan"
    asked, means = queries(vectors.about, within_corpus=True), {}
    for how in candidates:
        found = [
            retrieval.standard(query.alike[order], ())[CHOICE]
            for query, order in ranked(asked, vectors.arrays[how], distance)
        ]
        known = [value for value in found if np.isfinite(value)]
        means[how] = float(np.mean(known)) if known else 0.0
    best = max(candidates, key=means.__getitem__)
    told = ", ".join(f"{how} {means[how]:.4f}" for how in candidates)
    return best, f"aggregation {best}, chosen within the corpus by mean average precision: {told}"


def _rows(
    query: Query,
    relevant: np.ndarray,
    vectors: Vectors,
    settings: Settings,
    distance: str,
    why: str,
    asked: Sequence[Query],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one query at one distance."""
    case, patient = vectors.cases[query.place], vectors.about[query.place]["patient"]
    cohorts = len({other.cohort for other in asked})
    alone = len({other.attribute for other in asked}) == 1
    label = "all" if alone else query.attribute
    part = query.cohort if cohorts > 1 else str(query.value)
    note = why if relevant.any() else f"{UNKNOWN}; {why}"
    measures = retrieval.standard(relevant, settings.depths) | retrieval.published(relevant, settings.depths)
    for name, value in measures.items():
        theirs = retrieval.AS_PUBLISHED if name.endswith(retrieval.AS_PUBLISHED) else ""
        metric = name.removesuffix(theirs) + ("" if distance == "cosine" else f"_{distance}") + theirs
        unit = f"{query.cohort}/{case}" if theirs and cohorts > 1 else patient
        row = {"case_id": case, "patient": unit, "value": value, "note": note}
        yield {**row, "label": label, "group": label, "metric": metric}
        if not name.startswith(IN_COHORTS):
            continue
        parts = {"label": part if alone else f"{label}, {part}", "group": "" if alone else label}
        yield {**row, **parts, "metric": metric + BY_COHORT}
