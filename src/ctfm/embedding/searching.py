"""Semantic search (paper, semantic search): where in other scans it looks as around a point of one scan.

``search`` is the library's; ``ctfm search`` the command. A point is a voxel (z, y, x) of the file's own grid, whatever
its orientation: index order reversed from that of nibabel and ITK, counted from 0. Or it is in LPS mm.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import typer
from pydantic import Field, PositiveFloat

from ctfm import files, logs
from ctfm.embedding import dense, own, read, similarity
from ctfm.embedding.encode import Encoder
from ctfm.errors import SCAN_FAULTS, UserError, told
from ctfm.imaging import scans
from ctfm.options import Patches
from ctfm.validation import validated

MATCHES, FAILURES = "matches.csv", "failures.json"

log = logging.getLogger(__name__)


class Search(Patches):
    """How it is searched. The paper's app took patches of 16 x 64 x 64 voxels."""

    mode: Literal["exact", "fast"] = "exact"
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = Field(
        None, description="voxel spacing (z, y, x), mm; null: the encoder's own"
    )
    count: int = Field(5, ge=1, description="best matches")
    apart_mm: float | None = Field(None, ge=0, description="least distance of matches; null: half a patch's edge")


@dataclass(frozen=True)
class Place:
    """A match.

    Attributes:
        rank: from 1.
        similarity: cosine with the query.
        voxel: (z, y, x) of the target's own grid.
        point_mm: the same in LPS mm.
    """

    rank: int
    similarity: float
    voxel: tuple[float, float, float]
    point_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Found:
    """What was found in a target.

    Attributes:
        name: of the target; its file's without suffix.
        matches: best first.
        heat: (z, y, x) float32 on the target's own grid: mean similarity of the patches over each voxel; where nothing
            was embedded, the lowest value of the rest.
        grid: the target's own.
        failure: ``reason`` and ``detail`` of a target that can't be used; it has nothing else.
    """

    name: str
    matches: list[Place] = field(default_factory=list)
    heat: np.ndarray | None = None
    grid: own.Own | None = None
    failure: dict[str, str] | None = None


def search(
    encoder: Encoder,
    source: Path,
    point: Sequence[float],
    targets: Sequence[Path],
    settings: Search | None = None,
    *,
    in_mm: bool = False,
    watch: Callable[[str, float], object] = lambda name, share: None,
) -> Iterator[Found]:
    """Yield what is found in each target, in their order; one that can't be used costs only itself.

    Args:
        encoder: frozen.
        source: any file or folder that ``read.prepare`` takes, as are the targets.
        point: voxel (z, y, x) of the source's own grid.
        targets: where to search.
        settings: how.
        in_mm: ``point`` is (L, P, S) in mm.
        watch: called with the name of a target and which share of it is embedded.

    Raises:
        UserError: the source can't be used, or the point lies outside of it.
    """
    settings = settings or Search()
    query = query_at(encoder, source, point, settings, in_mm=in_mm)
    for target, name in zip(targets, scans.names(targets), strict=True):
        try:
            yield find(encoder, query, target, settings, name, partial(watch, name))
        except SCAN_FAULTS as fault:
            yield Found(name, failure=told(fault))


def query_at(
    encoder: Encoder, source: Path, point: Sequence[float], settings: Search, *, in_mm: bool = False
) -> np.ndarray:
    """Return the embedding (channels,) of the patch around a point of a scan. Arguments as in ``search``.

    Raises:
        UserError: the scan can't be used, or the point lies outside of it or of the part that is embedded.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            scan, grid = _prepared(encoder, source, settings, Path(folder))
        except SCAN_FAULTS as fault:
            raise UserError(f"{source}: {' '.join(told(fault).values())}") from fault
        index = grid.index(point) if in_mm else np.asarray(point, float)
        if not (np.all(index >= -0.5) and np.all(index <= np.asarray(grid.shape) - 0.5)):
            last = ", ".join(str(n - 1) for n in grid.shape)
            raise UserError(f"{_written(index)} is outside of {source}, whose voxels (z, y, x) run from 0 to {last}")
        return query_in(encoder, scan, grid.world(index), settings)


def query_in(encoder: Encoder, scan: read.Scan, point_mm: np.ndarray, settings: Search) -> np.ndarray:
    """Return the embedding (channels,) of the patch around a point, LPS mm, of a prepared scan.

    Raises:
        UserError: the point lies outside of the part that is embedded.
    """
    centre = own.of(scan.volume).index(point_mm)
    if not (np.all(centre >= np.asarray(scan.low) - 0.5) and np.all(centre <= np.asarray(scan.high) - 0.5)):
        raise UserError("the point lies in air around the body; 'ctfm search' with --crop volume embeds that too")
    return dense.at(encoder, scan, centre, settings.patch, settings.mode)


def find(
    encoder: Encoder,
    query: np.ndarray,
    target: Path,
    settings: Search,
    name: str = "",
    watch: Callable[[float], object] = lambda share: None,
) -> Found:
    """Search one target for an embedding (channels,).

    Raises:
        Quarantine: the target can't be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        scan, grid = _prepared(encoder, target, settings, Path(folder))
        embedded = dense.embed(encoder, scan, settings, settings.mode, watch)
        similar = similarity.cosines(query, embedded)
        heat = similarity.on_grid_of(similarity.heat(similar, embedded), scan, grid, outside=float(similar.min()))
        return Found(name, places(similar, embedded, grid, settings), heat, grid)


def places(similar: np.ndarray, embedded: dense.Dense, grid: own.Own, settings: Search) -> list[Place]:
    """Return the best matches of a scan that lie apart, best first.

    Args:
        similar: (patches,) cosines.
        embedded: whose patches they are.
        grid: whose voxels are told: the scan's own.
        settings: how many, and how far apart.
    """
    scan = embedded.scan
    patch_mm = np.asarray(embedded.grid.patch) * scan.spacing_mm
    apart = float(patch_mm.max()) / 2 if settings.apart_mm is None else settings.apart_mm
    found = []
    for rank, match in enumerate(similarity.best(similar, embedded, settings.count, apart), 1):
        inside = np.clip(match.centre, scan.low, np.asarray(scan.high) - 1)  # patches are padded at the far end
        point = own.of(scan.volume).world(inside)
        found.append(Place(rank, match.similarity, _triple(grid.index(point)), _triple(point)))
    return found


def _prepared(encoder: Encoder, path: Path, settings: Search, folder: Path) -> tuple[read.Scan, own.Own]:
    spacing = settings.spacing_mm or encoder.preprocess.spacing_mm
    image = scans.read(path)[0] if path.is_dir() else path
    preprocess = encoder.preprocess.model_copy(update={"spacing_mm": spacing})
    return read.prepare(image, preprocess, folder, crop=settings.crop), own.of(image)


def search_command(
    source: Annotated[Path, typer.Argument(help="Scan with the point: a file, or a folder of one DICOM series.")],
    targets: Annotated[list[Path], typer.Argument(help="Scans to search.")],
    point: Annotated[str | None, typer.Option(help="Voxel z,y,x of the source's own grid, from 0.")] = None,
    point_mm: Annotated[str | None, typer.Option(help="The point as L,P,S in mm instead, as DICOM has it.")] = None,
    encoder: Annotated[str, typer.Option(help="Folder of the encoder, or its name below results/.")] = "encoder",
    out: Annotated[Path, typer.Option(help="Folder of the heat maps and matches.csv.")] = Path("search"),
    count: Annotated[int, typer.Option(help="Best matches of each target.")] = Search().count,
    apart: Annotated[float | None, typer.Option(help="Least distance of matches, mm; default: half a patch.")] = None,
    mode: Annotated[str, typer.Option(help="exact, or fast: whole planes at once, with other values.")] = "exact",
    patch: Annotated[tuple[int, int, int] | None, typer.Option(help="Patch z y x, voxels; default: its own.")] = None,
    overlap: Annotated[float, typer.Option(help="Overlap of patches: how finely is searched.")] = Search().overlap,
    spacing: Annotated[
        tuple[float, float, float] | None, typer.Option(help="Spacing z y x, mm; default: the encoder's own.")
    ] = None,
    crop: Annotated[str, typer.Option(help="body, published or volume.")] = Search().crop,
    as_json: Annotated[bool, typer.Option("--json", help="Tell what was found on standard output, as JSON.")] = False,
) -> None:
    """Write <name>.nii.gz on each target's own grid, and matches.csv.

    If a target could not be used, failures.json tells which and why.
    """
    given = {"mode": mode, "count": count, "apart_mm": apart, "patch": patch, "overlap": overlap}
    settings = validated(Search, {**given, "spacing_mm": spacing, "crop": crop}, "--")
    where, in_mm = _point(point, point_mm)
    scans.named(targets, files.ensure_folder(out))  # no heat map may replace a scan
    used = Encoder(encoder)
    log.info("every scan is used with %s", json.dumps({**used.about(), **settings.model_dump(exclude_none=True)}))
    found = search(used, source, where, targets, settings, in_mm=in_mm)
    each = zip(targets, logs.progress(found, "scans", len(targets)), strict=True)
    told_of = [_write(one, path, out) for path, one in each]
    _finish(told_of, out)
    if as_json:
        about = {"source": str(source), "point_mm" if in_mm else "point": where, "preprocessing": used.about()}
        print(json.dumps({**about, "settings": settings.model_dump(), "targets": told_of}, indent=2))
    if any(row["reason"] for row in told_of):
        raise typer.Exit(1)


def _write(found: Found, path: Path, out: Path) -> dict[str, Any]:
    """Write the heat map of a target; return what to tell of it."""
    row: dict[str, Any] = {"name": found.name, "scan": str(path), "reason": "", "detail": "", "matches": []}
    if found.grid is None or found.heat is None:
        failure = found.failure or {}
        log.warning("%s failed: %s", path, " ".join(failure.values()))
        return row | failure
    found.grid.write(found.heat, out / f"{found.name}.nii.gz")
    row["matches"] = [
        {"rank": m.rank, "similarity": round(m.similarity, 6)}
        | dict(zip("zyx", np.round(m.voxel, 2).tolist(), strict=True))
        | dict(zip(("l_mm", "p_mm", "s_mm"), np.round(m.point_mm, 2).tolist(), strict=True))
        for m in found.matches
    ]
    return row | {"heat": f"{found.name}.nii.gz"}


def _finish(told_of: list[dict[str, Any]], out: Path) -> None:
    rows = [{"target": row["name"], **match} for row in told_of for match in row["matches"]]
    with files.atomic(out / MATCHES) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    failures = {row["name"]: {k: row[k] for k in ("reason", "detail")} for row in told_of if row["reason"]}
    (out / FAILURES).unlink(missing_ok=True)
    if failures:
        files.write_json(failures, out / FAILURES)
        log.error("%d of %d targets failed: see %s", len(failures), len(told_of), out / FAILURES)


def _point(voxel: str | None, world: str | None) -> tuple[list[float], bool]:
    """Return the point that was given, and whether it is in mm."""
    if (voxel is None) == (world is None):
        raise UserError("give either --point z,y,x or --point-mm L,P,S")
    name, text = ("--point", voxel) if world is None else ("--point-mm", world)
    try:
        z, y, x = map(float, str(text).split(","))
    except ValueError as error:
        wanted = "z,y,x" if world is None else "L,P,S"
        raise UserError(f"{name} '{text}': must be three numbers {wanted} with commas, such as 40,256,200") from error
    return [z, y, x], world is not None


def _written(index: np.ndarray) -> str:
    return "voxel " + ", ".join(f"{value:.1f}".removesuffix(".0") for value in index)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    a, b, c = map(float, values)
    return a, b, c
