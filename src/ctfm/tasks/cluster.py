"""Task ``cluster``: how far frozen features tell organs apart without being asked to (paper, Figure 6a).

Nothing is trained: ``fit`` and ``predict`` embed all cases, and ``predict`` places them on a plane by t-SNE
(``points.parquet``), for the eye. ``measure`` gives the numbers, from the embeddings themselves
(``ctfm.metrics.clusters``): a row of each measure for each scan with the label ``all``, and one of
``<measure>_by_label`` with its own label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from ctfm import tables
from ctfm.config import Patches
from ctfm.errors import UserError
from ctfm.metrics import clusters
from ctfm.tasks import CaseFile, _scores, _vectors
from ctfm.tasks._vectors import Vectors

BY_LABEL = "_by_label"
POINTS = "points.parquet"


class Settings(Patches):
    """How scans are shown to the encoder, placed on a plane, and measured."""

    aggregation: Literal["min", "mean", "max"] = Field(
        "mean", description="how the vectors of a scan's patches become one, value by value"
    )
    attribute: str | None = Field(None, description="what scans are labelled by; null: what the data set tells first")
    perplexities: tuple[float, ...] = Field(
        (10.0, 30.0, 100.0), description="of t-SNE, one picture each; the paper's is 100"
    )
    seed: int = Field(42, ge=0, description="of t-SNE and of k-means")
    neighbours: int = Field(10, ge=1, description="k of the purity", json_schema_extra={"of": "evaluate"})


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
    """Embed training and validation cases into ``out/model``; return facts for run.json.

    The seed of the run changes nothing: t-SNE has its own in the settings.

    Raises:
        UserError: there is no case, or its data set has no cohorts.
    """
    kept = settings.model_dump(mode="json", include={"aggregation", "attribute", "perplexities", "seed"})
    return _vectors.fit("cluster", settings, encoder, train, val, out, plane=kept)


def predict(model: Path, cases: list[CaseFile], out: Path) -> None:
    """Embed cases; ``out`` gets all vectors, those of ``fit`` too, and their places by t-SNE."""
    settings = Settings(**_vectors.predict(model, cases, out)["plane"])
    names, labels, array = _labelled(settings, _vectors.load(out))
    rows: list[dict[str, Any]] = []
    for perplexity in settings.perplexities:
        for case, label, (x, y) in zip(names, labels, clusters.tsne(array, perplexity, settings.seed), strict=True):
            rows.append({"case": case, "label": label, "perplexity": perplexity, "x": float(x), "y": float(y)})
    tables.write(tables.of("points", rows), "points", out / POINTS)


def measure(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return ``silhouette``, ``knn_purity`` and ``nmi`` of each scan with a label.

    Args:
        settings: what they are labelled by, and how many neighbours count.
        cases: not used: all scans are measured, as the paper shows all.
        predictions: folder that ``predict`` wrote.

    Raises:
        UserError: vectors are missing or damaged, or there is nothing to tell apart.
    """
    vectors = _vectors.load(predictions)
    names, labels, array = _labelled(settings, vectors)
    patients = dict(zip(vectors.cases, (one["patient"] for one in vectors.about), strict=True))
    try:
        found = clusters.measures(array, labels, settings.neighbours, settings.seed)
    except ValueError as error:
        raise UserError(f"{predictions}: {error}; the data set needs more scans or labels") from error
    rows = []
    for metric, values in found.items():
        for case, label, value in zip(names, labels, values, strict=True):
            row = {"case_id": case, "patient": patients[case], "value": float(value), "note": ""}
            rows.append({**row, "label": "all", "group": "all", "metric": metric})
            rows.append({**row, "label": label, "group": "", "metric": metric + BY_LABEL})
    return rows


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each measure over scans."""
    return _scores.means(rows, lambda metric: BY_LABEL not in metric)


def picture(settings: Settings, case: CaseFile, prediction: Path) -> Figure | None:
    """Draw nothing: the figures 6 and ED5 show the planes of all encoders side by side."""
    return None


def _labelled(settings: Settings, vectors: Vectors) -> tuple[list[str], list[str], np.ndarray]:
    """Return names, labels and vectors of the scans that have a label.

    Raises:
        UserError: fewer than four have one, which t-SNE needs.
    """
    found = {}
    for place, (case, one) in enumerate(zip(vectors.cases, vectors.about, strict=True)):
        attributes = next(iter(one["cohorts"].values()))["attributes"]
        value = attributes.get(settings.attribute or next(iter(attributes), ""))
        if value is not None:
            found[case] = (place, str(value))
    if len(found) < 4:
        raise UserError(f"only {len(found)} scans have the attribute '{settings.attribute or 'that comes first'}'")
    places, labels = zip(*found.values(), strict=True)
    return list(found), list(labels), vectors.arrays[settings.aggregation][list(places)]
