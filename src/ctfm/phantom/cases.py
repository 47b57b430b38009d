"""The labelled cases that every data set layout writes in its own way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ctfm.imaging.volume import Volume
from ctfm.phantom import anatomy
from ctfm.phantom.anatomy import Body, Region

STREAM = 1
REGIONS: tuple[Region, ...] = ("trunk", "upper", "abdomen", "trunk", "trunk")
WIDTH_MM, DEPTH_MM = (290.0, 325.0), (215.0, 245.0)


@dataclass(frozen=True)
class Labelled:
    """One case.

    Attributes:
        number: from 0.
        split: ``train``, ``val`` or ``test``.
        region: what the scan shows, a key of ``anatomy.REGIONS``.
        body: the person; each case has its own.
        image: HU, int16; axes run (S, P, L).
        label: TotalSegmentator v2 ids, uint8, on the same grid.
    """

    number: int
    split: str
    region: Region
    body: Body
    image: Volume
    label: Volume


def cases(seed: int, count: int, spacing_mm: float) -> Iterator[Labelled]:
    """Yield ``count`` cases with cubic voxels; a case is a function of ``seed`` and its number (and the spacing)."""
    for number, split in enumerate(splits(seed, count)):
        rng = np.random.default_rng([seed, STREAM, number])
        body, region = anatomy.draw(rng), REGIONS[rng.integers(len(REGIONS))]
        extent = (anatomy.REGIONS[region][1] * body.warp.scale[2], rng.uniform(*DEPTH_MM), rng.uniform(*WIDTH_MM))
        shape = [max(8, round(length / spacing_mm)) for length in extent]
        image, label = anatomy.case(rng, shape, (spacing_mm,) * 3, region, body)
        yield Labelled(number, split, region, body, image, label)


def splits(seed: int, count: int) -> list[str]:
    """Return a split for each case, in random order: a fifth val, a quarter test, at least one of each kind.

    The published splits have fewer of both; so small a set could not be scored with those shares.
    """
    val, test = max(1, round(count * 0.2)), max(1, round(count * 0.25))
    names = ["train"] * (count - val - test) + ["val"] * val + ["test"] * test
    return [str(name) for name in np.random.default_rng([seed, STREAM]).permutation(names)]
