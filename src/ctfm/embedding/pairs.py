"""Two scans of one person, patch by patch: how alike is what an encoder makes of the same place.

The first scan is cut into patches. The second one is resampled onto its grid in up to three ways, and each patch is
compared with that of the first scan at its place: laid on it by rigid registration; as the scanner placed it; and, for
how alike any two bodies look, the scan of another person, middle on middle.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ctfm import schemas
from ctfm.config import Patches
from ctfm.embedding import dense, read
from ctfm.embedding.encode import Encoder
from ctfm.errors import Quarantine
from ctfm.imaging import registration, store
from ctfm.imaging.volume import Volume

TABLE = "patch_pairs"
REGISTERED, UNREGISTERED, RANDOM = COMPARISONS = ("registered", "unregistered", "random")
SOFT_TISSUE_HU = (-100, 200)
MAD_TO_DEVIATION = 1.4826

log = logging.getLogger(__name__)


class Least(NamedTuple):
    """Which patches count: share of a patch that both scans must show, and that must be body."""

    common: float = 0.9
    body: float = 0.05


@dataclass(frozen=True)
class Repeat:
    """A scan, the one that repeats it, and one of another person.

    Attributes:
        first: see ``read.prepare``.
        second: the same.
        other: the same; None, or a scan that can't be used: no comparison with another person.
        sources: of the first two, what is known of how they were made: ``spacing_mm``, ``thickness_mm``,
            ``ConvolutionKernel`` and more, as ``dicom.survey`` tells it.
    """

    first: read.Image
    second: read.Image
    other: read.Image | None = None
    sources: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})


class Compared(NamedTuple):
    """The rows of the table ``patch_pairs``, and the facts that explain them (JSON-like)."""

    rows: pd.DataFrame
    facts: dict[str, Any]


def compare(
    encoder: Encoder, repeat: Repeat, settings: Patches, folder: Path, *, case: str, least: Least, seed: int
) -> Compared:
    """Compare the patches of a scan with those of its repetition.

    Args:
        encoder: frozen.
        repeat: the scans.
        settings: patch, overlap and box of the first scan.
        folder: for what is stored in between.
        case: name of the pair in the table.
        least: which patches count.
        seed: of the registration's samples.

    Returns:
        One row for each patch and comparison. If the scans can't be registered, there is none of ``registered``, and
        ``facts["registration"]["failed"]`` tells why.

    Raises:
        Quarantine: a scan can't be used.
    """
    scan = read.prepare(repeat.first, encoder.preprocess, folder / "first", crop=settings.crop)
    here, there = scan.volume.load(), _prepared(repeat.second, encoder, folder / "second")
    placed, told = {UNREGISTERED: (there, np.eye(4))}, _registered(here, there, seed)
    if "matrix" in told:
        placed[REGISTERED] = (there, np.asarray(told["matrix"]))
    if (someone := _someone(repeat.other, encoder, folder / "other")) is not None:
        placed[RANDOM] = (someone, registration.centred(here, someone))
    ours = dense.embed(encoder, scan, settings)
    parts = [
        _rows(encoder, ours, here, *placed[name], settings, least).assign(comparison=name)
        for name in COMPARISONS
        if name in placed
    ]
    facts: dict[str, Any] = {"registration": told, "sources": [dict(source) for source in repeat.sources]}
    facts |= {"noise_hu": [noise(volume) for volume in (here, there)]}
    return Compared(pd.concat(parts, ignore_index=True).assign(case=case)[schemas.SCHEMAS[TABLE].names], facts)


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the cosine of each row (n, channels) with the same row of another array, (n,) float64; of zeros 0."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.where(lengths == 0, 1, lengths)


def mse(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the mean squared difference of each row (n, channels) and the same row of another array, (n,) float64."""
    return ((np.asarray(one, np.float64) - other) ** 2).mean(axis=1)


def noise(volume: Volume) -> float:
    """Return the standard deviation of the noise, HU: of differences of neighbours along x in soft tissue, robustly."""
    low, high = SOFT_TISSUE_HU
    soft = (volume.array > low) & (volume.array < high)
    steps = np.diff(volume.array.astype(np.float32), axis=2)[soft[..., 1:] & soft[..., :-1]]
    if not steps.size:
        return float("nan")
    return float(MAD_TO_DEVIATION * np.median(np.abs(steps - np.median(steps))) / np.sqrt(2))


def _registered(here: Volume, there: Volume, seed: int) -> dict[str, Any]:
    """Return the facts of a registration, or why there is none."""
    try:
        return registration.register(here, there, seed).facts()
    except Quarantine as reason:
        return {"failed": str(reason)}


def _someone(image: read.Image | None, encoder: Encoder, folder: Path) -> Volume | None:
    """Return the other person's scan; one that can't be used costs this comparison alone."""
    try:
        return None if image is None else _prepared(image, encoder, folder)
    except Quarantine as reason:
        log.warning("no comparison with another person: %s", reason)
        return None


def _prepared(image: read.Image, encoder: Encoder, folder: Path) -> Volume:
    return read.prepare(image, encoder.preprocess, folder, crop="volume").volume.load()


def _rows(
    encoder: Encoder,
    ours: dense.Dense,
    here: Volume,
    there: Volume,
    matrix: np.ndarray,
    settings: Patches,
    least: Least,
) -> pd.DataFrame:
    """Return the rows of one comparison: the moving scan on the first one's grid, in the same box."""
    scan = ours.scan
    array = registration.moved(there, here.shape, here.affine, matrix).array
    same = read.Scan(store.Stored(array, here.affine, {}), scan.low, scan.high, scan.preprocess)
    theirs = dense.embed(encoder, same, settings)
    both = registration.shown(there, here.shape, here.affine, matrix)
    common, body = np.array(list(_shares(ours, both, here.array > store.BODY_HU))).T
    x, y, z = ours.centres_world.T
    counted = (common >= least.common) & (body >= least.body)
    columns = {"patch": range(len(common)), "x_mm": x, "y_mm": y, "z_mm": z}
    columns |= {"common": common, "body": body, "counted": counted}
    alike = {"cosine": cosine(ours.vectors, theirs.vectors), "mse": mse(ours.vectors, theirs.vectors)}
    return pd.DataFrame({**columns, **alike})


def _shares(ours: dense.Dense, *masks: np.ndarray) -> Iterator[list[float]]:
    """Yield for each patch the share of its voxels within the box that each mask (z, y, x) holds."""
    scan = ours.scan
    for corner in ours.grid.corners:
        low = np.asarray(corner) + scan.low
        high = np.minimum(low + ours.grid.patch, scan.high)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        yield [float(mask[box].mean()) for mask in masks]
