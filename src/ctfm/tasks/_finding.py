"""The part of the task ``search`` that runs an encoder: queries to vectors, and where a target is most like them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ctfm import tables
from ctfm.embedding import dense, encode, own, read, table
from ctfm.encoders._order import to_ras, to_spl
from ctfm.errors import Quarantine
from ctfm.metrics import retrieval
from ctfm.tasks import CaseFile


class Turned(torch.nn.Module):
    """An encoder that sees axes towards R, A, S, although it learnt with S, P, L: so the published run used CT-FM."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of (B, 1, Z, Y, X), turned back."""
        return [to_spl(each) for each in self.module(to_ras(x))]


def encoder(folder: Path, settings: Any) -> encode.Encoder:
    """Load an encoder that is shown scans at the spacing and with the axes of the settings.

    Args:
        folder: of its weights.
        settings: those of the task.
    """
    used = encode.Encoder(folder)
    if settings.spacing_mm:
        used.preprocess = used.preprocess.model_copy(update={"spacing_mm": tuple(settings.spacing_mm)})
    if settings.orientation == "RAS" and used.preprocess.orientation != "RAS":
        used.module = Turned(used.module)
    return used


def queries(
    used: encode.Encoder, settings: Any, case: CaseFile, points: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Return a row of ``embeddings``, less the encoder's name, for the patch around each point of a scan.

    Args:
        used: the encoder.
        settings: those of the task.
        case: the scan that asks.
        points: organ to (3,) LPS mm.

    Raises:
        Quarantine: the scan can't be used, or an embedding is not finite.
    """
    common = {"case": case.case, "patch": table.WHOLE, **used.identity, "sha256": read.checksum(case.image)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scan = read.prepare(case.image, used.preprocess, Path(folder), crop=settings.crop)
        for name, point in points.items():
            vector = dense.at(used, scan, own.of(scan.volume).index(point), settings.patch)
            _check(vector, f"the patch around '{name}'")
            rows.append({**common, "label": name, "embedding": vector})
    return rows


def search(used: encode.Encoder, settings: Any, case: CaseFile, asked: pd.DataFrame, out: Path) -> None:
    """Write a table ``matches``: the patch of a scan that is most like each query; what was searched is in its facts.

    Args:
        used: the encoder.
        settings: those of the task.
        case: the target, whose patches are embedded once for all queries.
        asked: rows of ``embeddings``.
        out: the table.

    Raises:
        Quarantine: the scan can't be used, or an embedding is not finite.
    """
    with tempfile.TemporaryDirectory() as folder:
        scan = read.prepare(case.image, used.preprocess, Path(folder), crop=settings.crop)
        found = dense.embed(used, scan, settings)
        _check(found.vectors, "patches")
        facts = {"patient": case.patient, "grid": _grid(found)}
        vectors = table.matrix(asked) if len(asked) else np.empty((0, found.vectors.shape[1]))
        similar = 1 - retrieval.distances(vectors, found.vectors, "cosine")
    centres, shown = found.centres_world, set(settings.shown)
    rows = []
    for query, label, cosines in zip(asked["case"], asked["label"], similar, strict=True):
        best = int(np.argmax(cosines))
        place = dict(zip(("l_mm", "p_mm", "s_mm"), map(float, centres[best]), strict=True))
        kept = cosines.tolist() if label in shown else []
        shown.discard(label)  # the first query of an organ is the one that is shown
        row = {"query": query, "label": label, "similarity": float(cosines[best]), "similarities": kept}
        rows.append({**row, **place})
    tables.write(tables.of("matches", rows), "matches", out, facts=facts)


def _check(vectors: np.ndarray, what: str) -> None:
    finite = np.isfinite(np.atleast_2d(vectors)).all(axis=1)
    if not finite.all():
        raise Quarantine("not_finite", f"the embeddings of {what}: {(~finite).sum()} of {finite.size} are not finite")


def _grid(found: dense.Dense) -> dict[str, Any]:
    """Return what the places of the patches follow from."""
    scan, cut = found.scan, found.grid
    starts = [[int(n) for n in axis] for axis in cut.starts]
    where = {"affine": scan.volume.affine.tolist(), "shape": list(scan.volume.shape)}
    where |= {"low": [int(n) for n in scan.low], "high": [int(n) for n in scan.high]}
    return {**where, "patch": [int(n) for n in cut.patch], "starts": starts}
