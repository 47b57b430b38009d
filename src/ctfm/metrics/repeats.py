"""Which repeated scans differ more than others, and what is the likely cause.

A pair is an outlier if its similarity lies outside of Tukey's fences over all pairs (quartiles and 1.5 times their
distance), or if it has none. Causes are looked for in the order in which they would explain the others: a wrong
registration, fields of view that differ, then slices, then reconstruction and noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FENCE = 1.5  # times the distance of the quartiles
FEWEST = 4  # pairs, below which quartiles tell nothing
SPACING_RATIO, NOISE_RATIO = 1.25, 1.5
UNEXPLAINED = "none of the known causes"


class Limits(NamedTuple):
    """What a good registration and an equal field of view are.

    Attributes:
        ncc: least correlation of HU in the body.
        rotation_degrees: largest plausible rotation.
        translation_mm: largest plausible translation.
        overlap: least share of each scan's body that the other one shows.
    """

    ncc: float
    rotation_degrees: float
    translation_mm: float
    overlap: float


def outliers(values: Sequence[float], *, low: bool) -> np.ndarray:
    """Return (n,) bool: what lies outside of the fence on one side; values that are no number always do.

    Args:
        values: of the pairs.
        low: the fence below the first quartile; else that above the third.
    """
    array = np.asarray(values, float)
    known = array[np.isfinite(array)]
    if len(known) < FEWEST:
        return ~np.isfinite(array)
    first, third = np.percentile(known, [25, 75])
    reach = FENCE * (third - first)
    return ~(array >= first - reach) if low else ~(array <= third + reach)


def faults(registration: Mapping[str, Any], limits: Limits) -> list[str]:
    """Say what speaks against a registration; nothing: it may be trusted.

    Args:
        registration: facts of ``ctfm.imaging.registration``, or ``failed`` with the reason.
        limits: of a good one.
    """
    if "failed" in registration:
        return [registration["failed"]]
    checks = (
        ("ncc", registration["ncc"] < limits.ncc, f"correlation of HU {registration['ncc']:.2f}"),
        ("rotation", registration["rotation_degrees"] > limits.rotation_degrees, "implausible rotation of {} degrees"),
        ("translation", registration["translation_mm"] > limits.translation_mm, "implausible translation of {} mm"),
    )
    values = {"rotation": registration["rotation_degrees"], "translation": registration["translation_mm"]}
    return [text.format(f"{values.get(name, 0):.0f}") for name, bad, text in checks if bad]


def causes(facts: Mapping[str, Any], limits: Limits) -> list[str]:
    """Return the likely causes of a pair's difference, the likeliest first; one at least.

    Args:
        facts: of ``ctfm.embedding.pairs.compare``.
        limits: of a good registration and an equal field of view.
    """
    told = facts["registration"]
    found = [f"registration failed ({', '.join(wrong)})"] if (wrong := faults(told, limits)) else []
    shares = [told.get("overlap", math.nan), told.get("overlap_back", math.nan)]
    if min(shares) < limits.overlap:
        found.append(f"fields of view differ (the scans share {100 * min(shares):.0f} % of a body)")
    one, other = facts["sources"]
    found += _slices(one, other)
    kernels = [source.get("ConvolutionKernel") for source in (one, other)]
    if all(kernels) and kernels[0] != kernels[1]:
        found.append(f"reconstruction kernels differ ({kernels[0]}, {kernels[1]})")
    if _ratio(*facts["noise_hu"]) > NOISE_RATIO:
        found.append("noise differs ({:.0f} and {:.0f} HU)".format(*facts["noise_hu"]))
    return found or [UNEXPLAINED]


def _slices(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return what of spacing and thickness differs."""
    found = []
    spacings = [source.get("spacing_mm") or [math.nan] for source in (one, other)]
    if any(_ratio(a, b) > SPACING_RATIO for a, b in zip(*spacings, strict=False)):
        texts = ("x".join(f"{mm:.3g}" for mm in spacing) for spacing in spacings)
        found.append(f"spacing differs ({' and '.join(texts)} mm)")
    thick = [max(source.get("thickness_mm") or [math.nan]) for source in (one, other)]
    if _ratio(*thick) > SPACING_RATIO:
        found.append(f"slice thickness differs ({thick[0]:g} and {thick[1]:g} mm)")
    return found


def _ratio(one: float, other: float) -> float:
    """Return how many times the larger of two values is the smaller; NaN where one isn't known."""
    low, high = sorted((one, other))
    return high / low if low > 0 else math.nan
