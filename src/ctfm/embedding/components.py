"""The main components of patch embeddings as colours, the same in all scans (paper, "PCA analysis").

Each row of the analysis is one embedding of one patch of one scan. (The published code viewed an array of (2, channels,
voxels) as (channels, rows), so that its rows held half of the channels of both scans.) Components are fitted to all
scans together; what is background is told by the first one, with Otsu's threshold; the rest is mapped to CIELAB: the
first component is the lightness, the second and third are a (green to red) and b (blue to yellow).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from ctfm.embedding.dense import Dense
from ctfm.errors import UserError
from ctfm.imaging.resample import AIR_HU

COMPONENTS = 3
BINS = 256  # of Otsu's threshold
LIGHTNESS, CHROMA = (0.0, 100.0), (-128.0, 127.0)  # that the least and the largest value are mapped to, as published
D65 = np.array([0.95047, 1.0, 1.08883])  # XYZ of the white of sRGB (IEC 61966-2-1)
# XYZ to linear RGB, in full digits (the standard's four leave white off by 1e-4)
TO_RGB = np.array(
    [
        [3.2404541621141045, -1.5371385127977166, -0.4985314095560162],
        [-0.9692660305051868, 1.8760108454466942, 0.0415560175303498],
        [0.0556434309591147, -0.2040259135167538, 1.0572251882231791],
    ]
)


@dataclass(frozen=True)
class Coloured:
    """The patches of a scan, in the order of ``Grid.corners``.

    Attributes:
        components: (patches, 3).
        foreground: (patches,) which of them are not background.
        lab: (patches, 3) CIELAB; NaN in the background.
    """

    components: np.ndarray
    foreground: np.ndarray
    lab: np.ndarray


def colour(scans: Sequence[Dense], *, standardise: bool = False) -> list[Coloured]:
    """Return the components and colours of the patches of scans.

    Args:
        scans: embedded by one encoder.
        standardise: bring each channel to zero mean and unit variance before, as the published code did.

    Raises:
        UserError: there are too few patches, or they are all alike.
    """
    values = principal([scan.vectors for scan in scans], standardise=standardise)
    first, inside = foreground([part[:, 0] for part in values], [mean_hu(scan) for scan in scans])
    turned = [np.column_stack([one, part[:, 1:]]) for one, part in zip(first, values, strict=True)]
    return [Coloured(*one) for one in zip(turned, inside, lab(turned, inside), strict=True)]


def principal(vectors: Sequence[np.ndarray], *, standardise: bool = False) -> list[np.ndarray]:
    """Return the first three principal components (patches, 3) of the vectors (patches, channels) of each scan.

    Raises:
        UserError: there are fewer than four vectors, or all are the same.
    """
    rows = np.concatenate(vectors).astype(np.float64)
    if len(rows) <= COMPONENTS or not np.ptp(rows, axis=0).any():
        raise UserError(f"{len(rows)} patches can't be told apart; take smaller patches, more overlap or other scans")
    if standardise:
        rows = StandardScaler().fit_transform(rows)
    found = PCA(COMPONENTS, svd_solver="full").fit_transform(rows)
    return np.split(found, np.cumsum([len(part) for part in vectors])[:-1])


def foreground(first: Sequence[np.ndarray], density: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tell patches of the background by the first component alone, where Otsu's threshold over all scans parts it.

    A component has no sign of its own: it is turned so that it rises with density, and air is at its lower end.

    Args:
        first: (patches,) the first component, for each scan.
        density: (patches,) mean HU, for each scan.

    Returns:
        For each scan the first component, turned, and the patches above the threshold.
    """
    every, hu = np.concatenate(first), np.concatenate(density)
    sign = -1.0 if np.mean((every - every.mean()) * (hu - hu.mean())) < 0 else 1.0
    limit = otsu(sign * every)
    return [sign * part for part in first], [sign * part > limit for part in first]


def otsu(values: np.ndarray) -> float:
    """Return Otsu's threshold (doi:10.1109/TSMC.1979.4310076) of values (n,)."""
    image = sitk.GetImageFromArray(np.asarray(values, np.float64)[None])
    rule = sitk.OtsuThresholdImageFilter()
    rule.SetNumberOfHistogramBins(BINS)
    rule.Execute(image)
    return float(rule.GetThreshold())


def mean_hu(dense: Dense) -> np.ndarray:
    """Return the mean HU (patches,) of what each patch holds of the scan; where it reaches beyond, air."""
    scan = dense.scan
    box = scan.volume.handle[tuple(slice(low, high) for low, high in zip(scan.low, scan.high, strict=True))]
    voxels, means = np.prod(dense.grid.patch), []
    for corner in dense.grid.corners:
        part = box[tuple(slice(c, c + p) for c, p in zip(corner, dense.grid.patch, strict=True))]
        means.append((part.sum(dtype=np.float64) + AIR_HU * (voxels - part.size)) / voxels)
    return np.asarray(means)


def lab(components: Sequence[np.ndarray], inside: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return (patches, 3) CIELAB of each scan: components over their range in the foreground of all scans.

    Args:
        components: (patches, 3) of each scan.
        inside: (patches,) which are foreground; the others have no colour (NaN).
    """
    shown = np.concatenate([part[mask] for part, mask in zip(components, inside, strict=True)])
    low, span = shown.min(axis=0), np.ptp(shown, axis=0)
    ends = np.array([LIGHTNESS, CHROMA, CHROMA])
    scaled = [(part - low) / np.where(span == 0, 1, span) * np.diff(ends)[:, 0] + ends[:, 0] for part in components]
    return [np.where(mask[:, None], part, np.nan) for part, mask in zip(scaled, inside, strict=True)]


def srgb(colours: np.ndarray) -> np.ndarray:
    """Return sRGB in [0, 1] of CIELAB colours (..., 3) under D65; what a screen can't show is cut off.

    CIE 15 has the way to XYZ, IEC 61966-2-1 that to sRGB.
    """
    lightness, a, b = np.moveaxis(np.asarray(colours, np.float64), -1, 0)
    middle = (lightness + 16) / 116
    f = np.stack([middle + a / 500, middle, middle - b / 200], axis=-1)
    knee = 6 / 29
    xyz = D65 * np.where(f > knee, f**3, 3 * knee**2 * (f - 4 / 29))
    linear = np.clip(xyz @ TO_RGB.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
