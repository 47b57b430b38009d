"""Command ``saliency``: a map of what an embedding depends on, for each scan, on the scan's own grid."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import typer

from ctfm import files, logs
from ctfm.embedding import occlusion, read
from ctfm.embedding.encode import Encoder
from ctfm.embedding.occlusion import Plan
from ctfm.errors import SCAN_FAULTS, told
from ctfm.imaging import overlays, scans
from ctfm.imaging.resample import resample_to
from ctfm.imaging.volume import Volume, orient, write_nifti
from ctfm.options import Occlusion
from ctfm.validation import validated

DEFAULT = Occlusion()
OPACITY, COLOURS = 0.5, "magma"
BRIGHTEST = 99.5  # percentile of the saliency that gets the brightest colour

log = logging.getLogger(__name__)

SpacingOption = Annotated[
    tuple[float, float, float], typer.Option(help="Spacing z y x, mm, that scans are embedded at.")
]


def of_scan(encoder: Encoder, image: read.Image, grid: Volume, settings: Occlusion) -> Volume:
    """Return the saliency of a scan, float32, on a grid of its own; it is 0 outside of what was embedded.

    Args:
        encoder: frozen.
        image: the scan, see ``read.prepare``.
        grid: whose shape and affine the map has.
        settings: how the scan is shown to the encoder, and occluded.

    Raises:
        Quarantine: the scan can't be used.
    """
    preprocess = encoder.preprocess.model_copy(update={"spacing_mm": settings.spacing_mm})
    plan = Plan(settings.block, settings.overlap, settings.mode, settings.fill)
    with tempfile.TemporaryDirectory() as folder:
        scan = read.prepare(image, preprocess, Path(folder), crop=settings.crop)
        whole = np.zeros(scan.volume.shape, np.float32)
        box = tuple(slice(low, high) for low, high in zip(scan.low, scan.high, strict=True))
        whole[box] = occlusion.saliency(encoder.module, scan.read((0, 0, 0), scan.shape), plan)
        return resample_to(Volume(whole, scan.volume.affine), grid.shape, grid.affine, "linear", background=0)


def painted(
    image: Volume, salient: np.ndarray, at: tuple[int, int, int] | None = None
) -> tuple[overlays.Shown, overlays.Shown, overlays.Shown]:
    """Return three planes of a scan, axes (S, P, L), with its saliency (z, y, x) in colours."""
    most = float(np.percentile(salient[salient > 0], BRIGHTEST)) if (salient > 0).any() else 1.0
    colours = matplotlib.colormaps[COLOURS]

    def paint(places: np.ndarray) -> np.ndarray:
        shown = colours(np.clip(salient[tuple(np.moveaxis(places, -1, 0))] / most, 0, 1))
        shown[..., 3] = OPACITY
        return shown

    return overlays.cut(image, paint, at)


def saliency(
    paths: Annotated[list[Path], typer.Argument(help="Scans: NIfTI, NRRD or MHA files, or folders of a DICOM series.")],
    encoder: Annotated[str, typer.Option(help="Folder of the encoder, or its name below results/.")] = "encoder",
    out: Annotated[Path, typer.Option(help="Folder of the maps.")] = Path("saliency"),
    block: Annotated[tuple[int, int, int], typer.Option(help="Block z y x, voxels.")] = DEFAULT.block,
    overlap: Annotated[float, typer.Option(help="Overlap of the blocks.")] = DEFAULT.overlap,
    mode: Annotated[str, typer.Option(help="hard (paper) or gaussian (published run).")] = DEFAULT.mode,
    fill: Annotated[float, typer.Option(help="What fills a hard block.")] = DEFAULT.fill,
    spacing: SpacingOption = DEFAULT.spacing_mm,
    crop: Annotated[str, typer.Option(help="body, published or volume.")] = DEFAULT.crop,
) -> None:
    """Write <name>_saliency.nii.gz on each scan's own grid, and a picture of it."""
    given = {"block": block, "overlap": overlap, "mode": mode, "fill": fill, "spacing_mm": spacing, "crop": crop}
    settings = validated(Occlusion, given, "--")
    used, todo = Encoder(encoder), list(zip(paths, scans.names(paths), strict=True))
    failed = 0
    for path, name in logs.progress(todo, "scans", len(todo)):
        try:
            scan, _ = scans.read(path)
            found = of_scan(used, scan, scan, settings)
        except SCAN_FAULTS as fault:
            failed += 1
            log.warning("%s failed: %s %s", path, *told(fault).values())
            continue
        write_nifti(found, files.ensure_folder(out) / f"{name}_saliency.nii.gz")
        upright = orient(found)
        figure = overlays.draw("Saliency", [(name, painted(orient(scan), upright.array))])
        overlays.save(figure, out / f"{name}_saliency.png")
        log.info("%s: largest distance %.2e", out / f"{name}_saliency.nii.gz", found.array.max())
    if failed:
        raise typer.Exit(1)
