"""``ctfm retrieve SCAN...``: which embedded scans are most like a scan (paper, content-based retrieval)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from ctfm import files, logs, tables
from ctfm.config import Embed
from ctfm.embedding import encode, items, nearest, read, table
from ctfm.errors import SCAN_FAULTS, UserError, told

COLUMNS = ["query", "rank", "case", "similarity"]

log = logging.getLogger(__name__)


def retrieve(
    paths: Annotated[list[Path], typer.Argument(help="Scans, any that `ctfm embed` takes.")],
    embeddings: Annotated[list[Path], typer.Option(help="Table of `ctfm embed` to search in; again for more.")],
    encoder: Annotated[str, typer.Option(help="Folder of the encoder, or its name below results/.")] = "encoder",
    count: Annotated[int, typer.Option(min=1, help="Most similar scans of each.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Table to write too, .csv.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Embed scans as those of the table were, and print the most similar ones; a scan does not find itself.

    Exits with status 1 if a scan can't be used; the others are answered.
    """
    known = table.whole_scans(table.read(*embeddings)).reset_index(drop=True)
    if known.empty:
        raise UserError(f"{embeddings[0]}: holds no row of a whole scan; make it with 'ctfm embed'")
    used, settings = encode.Encoder(encoder), _settings(embeddings)
    if used.identity["model"] != known["model"].iloc[0]:
        raise UserError(f"{embeddings[0]}: made with other weights than {encoder}; name the encoder that made it")
    vectors, failed = nearest.unit(table.matrix(known)), 0
    parts = [pd.DataFrame(columns=COLUMNS)]
    for item in logs.progress(todo := items.of_paths(paths), "scans", len(todo)):
        try:
            query, own = used.embed_all(item.image, settings).vector, read.checksum(item.image)
            parts.append(_hits(item.case, vectors, query, known, own, count))
        except SCAN_FAULTS as fault:
            failed += 1
            log.warning("%s failed: %s", item.image, " ".join(told(fault).values()))
    _tell(pd.concat(parts[1:] or parts, ignore_index=True), out, as_json)
    if failed:
        raise typer.Exit(1)


def _settings(paths: list[Path]) -> Embed:
    """Return how the scans of all tables were embedded.

    Raises:
        UserError: a table does not tell, or they differ.
    """
    found = [tables.facts(path).get("spec", {}).get("embed") for path in paths]
    kept = [{k: v for k, v in (one or {}).items() if k not in ("encoders", "patches", "organs")} for one in found]
    if not all(found) or any(one != kept[0] for one in kept):
        raise UserError(f"{', '.join(map(str, paths))}: not embedded in one way; make them anew with 'ctfm embed'")
    return Embed(**kept[0])


def _hits(
    name: str, vectors: np.ndarray, query: np.ndarray, known: pd.DataFrame, checksum: str, count: int
) -> pd.DataFrame:
    """Return the most similar scans, but for those of the same bytes."""
    rows, cosines = nearest.search(vectors, query[None], count + int((known["sha256"] == checksum).sum()))
    hits = known.iloc[rows[0]].assign(query=name, similarity=cosines[0])
    hits = hits[hits["sha256"] != checksum].head(count)
    return hits.assign(rank=range(1, len(hits) + 1))[COLUMNS]


def _tell(hits: pd.DataFrame, out: Path | None, as_json: bool) -> None:
    if out:
        with files.atomic(out) as temporary:
            hits.to_csv(temporary, index=False)
    print(json.dumps(hits.to_dict("records"), indent=2) if as_json else hits.to_string(index=False))
