"""``ctfm stability SCAN RETEST``: how alike an encoder's features of two scans of one person are."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from ctfm import plugins, tables
from ctfm.embedding import encode, pairs
from ctfm.errors import SCAN_FAULTS, UserError, told
from ctfm.imaging import scans
from ctfm.imaging.volume import orient
from ctfm.validation import validated

DEFAULT = plugins.settings("tasks", "stability")()

log = logging.getLogger(__name__)

ScanArgument = Annotated[Path, typer.Argument(help="A NIfTI, NRRD or MHA file, or a folder of one DICOM series.")]


def stability(
    scan: ScanArgument,
    retest: ScanArgument,
    encoder: Annotated[str, typer.Option(help="Folder of the encoder, or its name below results/.")] = "encoder",
    other: Annotated[Path | None, typer.Option(help="A scan of another person, to compare with.")] = None,
    out: Annotated[Path | None, typer.Option(help="Table of patches to write, .parquet.")] = None,
    patch: Annotated[tuple[int, int, int] | None, typer.Option(help="Patch z y x, voxels; default: its own.")] = None,
    overlap: Annotated[float, typer.Option(help="Overlap of patches.")] = 0.0,
    crop: Annotated[str, typer.Option(help="body, published or volume.")] = "body",
    seed: Annotated[int, typer.Option(help="Of the registration's samples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Register the second scan to the first, compare them patch by patch, and say how far to trust that.

    Exits with status 1 if a scan can't be used, or the registration has failed.
    """
    given = {"patch": patch, "overlap": overlap, "crop": crop, "seed": seed}
    settings, task = validated(type(DEFAULT), given, "--"), plugins.get("tasks", "stability")
    rows, facts = _compared(scan, retest, other, encode.Encoder(encoder), settings)
    if out:
        tables.write(rows, pairs.TABLE, out, facts)
    judged = task.judged(task.means(rows), facts, settings, outlier=True)  # alone: its causes are told in any case
    found = {
        row["metric"]: row["value"] for row in judged if row["metric"] != "outlier" and row["value"] == row["value"]
    }
    found |= {"patches": int(rows[rows.comparison == pairs.UNREGISTERED].counted.sum())}
    causes = judged[-1]["note"]
    if as_json:
        print(json.dumps({**found, "differences": causes, "registration": facts["registration"]}, indent=2))
    else:
        print("\n".join([f"{name:<20} {value:.6g}" for name, value in found.items()]))
        print(f"{'what differs':<20} {causes}")
    if found["registration_failed"]:
        log.error("the registration has failed: %s", causes)
        raise typer.Exit(1)


def _compared(scan: Path, retest: Path, other: Path | None, encoder: encode.Encoder, settings: Any) -> pairs.Compared:
    """Read the scans and compare them.

    Raises:
        UserError: one can't be used.
    """
    try:
        read = [_read(path) for path in (scan, retest)]
        someone = _read(other)[0] if other else None
        repeat = pairs.Repeat(read[0][0], read[1][0], someone, (read[0][1], read[1][1]))
        least = pairs.Least(settings.least_common, settings.least_body)
        with tempfile.TemporaryDirectory() as folder:
            return pairs.compare(
                encoder, repeat, settings, Path(folder), case=scans.names([scan])[0], least=least, seed=settings.seed
            )
    except SCAN_FAULTS as fault:
        raise UserError("{reason}: {detail}; give two scans of one person in HU".format(**told(fault))) from fault


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return a scan in HU, and the facts of how it was made.

    Raises:
        Quarantine: it can't be used.
    """
    volume, facts = scans.read(path)
    return volume, {"spacing_mm": list(orient(volume).spacing), **facts}
