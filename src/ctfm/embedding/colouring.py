"""Command ``pca``: patches of several scans in colours, the same ones for the same components in all of them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from scipy.spatial import KDTree

from ctfm import files, logs, tables
from ctfm.config import Patches
from ctfm.embedding import components, dense, read
from ctfm.embedding.dense import Dense
from ctfm.embedding.encode import Encoder
from ctfm.errors import SCAN_FAULTS, UserError, told
from ctfm.imaging import overlays, scans
from ctfm.imaging.volume import Volume, orient
from ctfm.options import Millimetres
from ctfm.validation import validated

TABLE = "components"
CENTRE = ["left_mm", "posterior_mm", "superior_mm"]  # LPS
VALUES = ["component_1", "component_2", "component_3"]
LAB = ["lightness", "a", "b"]
OPACITY = 0.75  # published
PATCH, OVERLAP = (24, 64, 64), 0.75  # the paper's, and the published overlap

log = logging.getLogger(__name__)


def of_scans(
    encoder: Encoder,
    images: Sequence[tuple[str, read.Image]],
    settings: Patches,
    *,
    spacing_mm: Millimetres | None = None,
    standardise: bool = False,
) -> pd.DataFrame:
    """Return a row for each patch of the scans: its centre, components and colour (table ``components``).

    Args:
        encoder: frozen.
        images: name and scan, see ``read.prepare``.
        settings: patch, overlap and crop.
        spacing_mm: (z, y, x) that scans are shown to the encoder at; None: the encoder's own.
        standardise: see ``components.colour``.

    Raises:
        UserError: fewer than two scans can be used.
    """
    preprocess = encoder.preprocess.model_copy(update={"spacing_mm": spacing_mm} if spacing_mm else {})
    named: dict[str, Dense] = {}
    with ExitStack() as folders:
        for name, image in logs.progress(images, "scans", len(images)):
            folder = Path(folders.enter_context(tempfile.TemporaryDirectory()))
            try:
                scan = read.prepare(image, preprocess, folder, crop=settings.crop)
                named[name] = dense.embed(encoder, scan, settings)
            except SCAN_FAULTS as fault:
                log.warning("%s is left out: %s %s", name, *told(fault).values())
        if len(named) < 2:
            raise UserError(f"{len(named)} of {len(images)} scans can be used; colours compare two scans or more")
        coloured = components.colour(list(named.values()), standardise=standardise)
        rows = [_rows(*one, found) for one, found in zip(named.items(), coloured, strict=True)]
    return pd.concat(rows, ignore_index=True)


def _rows(name: str, scan: Dense, found: components.Coloured) -> pd.DataFrame:
    rows = pd.DataFrame(np.hstack([scan.centres_world, found.components, found.lab]), columns=[*CENTRE, *VALUES, *LAB])
    return rows.assign(case=name, patch=np.arange(len(rows)), foreground=found.foreground)


def painted(
    rows: pd.DataFrame, image: Volume, at: tuple[int, int, int] | None = None
) -> tuple[overlays.Shown, overlays.Shown, overlays.Shown]:
    """Return three planes of a scan, each voxel in the colour of the patch whose centre is nearest.

    Args:
        rows: of this scan.
        image: HU, axes (S, P, L).
        at: voxel (z, y, x) that the planes pass; by default the middle.
    """
    nearest, inside = KDTree(rows[CENTRE].to_numpy()), rows["foreground"].to_numpy(bool)
    colours = np.zeros((len(rows), 4))
    colours[inside, :3] = components.srgb(rows.loc[inside, LAB].to_numpy())
    colours[inside, 3] = OPACITY

    def paint(places: np.ndarray) -> np.ndarray:
        return colours[nearest.query(image.world(places))[1]]

    return overlays.cut(image, paint, at)


def pca(
    paths: Annotated[list[Path], typer.Argument(help="Two or more scans: NIfTI, NRRD or MHA, or folders of DICOM.")],
    encoder: Annotated[str, typer.Option(help="Folder of the encoder, or its name below results/.")] = "encoder",
    out: Annotated[Path, typer.Option(help="Folder of components.parquet and components.png.")] = Path("pca"),
    patch: Annotated[tuple[int, int, int], typer.Option(help="Patch z y x, voxels.")] = PATCH,
    overlap: Annotated[float, typer.Option(help="Overlap of patches.")] = OVERLAP,
    crop: Annotated[str, typer.Option(help="body, published or volume.")] = "body",
    spacing: Annotated[
        tuple[float, float, float] | None, typer.Option(help="Spacing z y x, mm; default: the encoder's own.")
    ] = None,
    standardise: Annotated[bool, typer.Option(help="Bring each channel to unit variance, as published.")] = False,
) -> None:
    """Write the components of every patch, and a picture of the scans under their colours."""
    settings = validated(Patches, {"patch": patch, "overlap": overlap, "crop": crop}, "--")
    images = list(zip(scans.names(paths), paths, strict=True))
    if len(images) < 2:
        raise UserError("name two scans or more: colours compare scans")
    rows = of_scans(Encoder(encoder), images, settings, spacing_mm=spacing, standardise=standardise)
    tables.write(rows, TABLE, files.ensure_folder(out) / f"{TABLE}.parquet")
    used = [(name, path) for name, path in images if name in set(rows["case"])]
    shown = [
        (name, painted(rows[rows["case"] == name].reset_index(), orient(scans.read(path)[0]))) for name, path in used
    ]
    overlays.save(overlays.draw("Components of patch embeddings", shown), out / f"{TABLE}.png")
    log.info("%d patches of %d scans: %s", len(rows), len(used), out / f"{TABLE}.parquet")
    if len(used) < len(images):
        raise typer.Exit(1)
