"""An encoder that takes any scan: ``ctfm.load_encoder(folder).embed(image)``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ctfm
from ctfm import files, provenance, weights
from ctfm.config import Embed, Patches
from ctfm.embedding import patches, pool, read
from ctfm.errors import UserError
from ctfm.spec import machine
from ctfm.training import loop

BATCH = {"cpu": 4, "cuda": 32}  # a lone patch is slower on a CPU; a GPU is full with 32


@dataclass(frozen=True)
class Embedding:
    """What an encoder makes of a scan.

    Attributes:
        vector: (channels,) of the whole scan.
        patches: (patches, channels), in the order of ``Grid.corners``.
        boxes_mm: (patches, 6), see ``Grid.boxes_mm``.
        box_mm: (6,) of all that was embedded.
        organs: {id: (channels,)} for a scan with a label map.
    """

    vector: np.ndarray
    patches: np.ndarray
    boxes_mm: np.ndarray
    box_mm: np.ndarray
    organs: dict[int, np.ndarray] = field(default_factory=dict)


class Encoder:
    """A frozen encoder with its preprocessing, on the GPU if there is one.

    Args:
        folder: see ``ctfm.weights``.

    Raises:
        UserError: a file is missing or malformed.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = find(folder)
        self.loaded = weights.load_encoder(self.folder)
        self.preprocess = self.loaded.preprocess
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = self.loaded.module.to(self.device).requires_grad_(False)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Return ``model``, a digest of the weights, and ``code``, the version of ctfm with a digest of its code."""
        used = provenance.code("embed", f"encoders.{self.loaded.kind}")
        model = files.sha256(self.folder / weights.WEIGHTS)[:12]
        return {"model": model, "code": f"{ctfm.__version__}+{files.digest(used)}"}

    def embed(self, image: read.Image, **settings: Any) -> np.ndarray:
        """Return the vector of a scan, (channels,) float32.

        Args:
            image: NIfTI, NRRD or MHA file, folder of one DICOM series, prepared volume, SimpleITK or nibabel image, or
                ``Volume``; any orientation and spacing, in HU.
            settings: fields of ``ctfm.config.Embed``, such as ``overlap=0``.

        Raises:
            Quarantine: the scan can't be used.
        """
        return self.embed_all(image, Embed(**settings)).vector

    def embed_all(
        self, image: read.Image, settings: Embed | None = None, labels: read.Image | None = None
    ) -> Embedding:
        """Return the vector of a scan, of each of its patches and, with a label map, of each of its organs.

        Raises:
            Quarantine: the scan or its label map can't be used.
        """
        settings = settings or Embed()
        with tempfile.TemporaryDirectory() as folder:
            scan = read.prepare(image, self.preprocess, Path(folder), crop=settings.crop, labels=labels)
            return self.embed_scan(scan, settings)

    def embed_scan(self, scan: read.Scan, settings: Embed) -> Embedding:
        """Return the same of a scan that ``read.prepare`` made; one layer of patches of it is in memory at a time."""
        cut = self.grid(scan, settings)
        vectors, organs = [], pool.Organs()
        ids = patches.labels(scan, cut) if scan.labels else iter(())
        for maps in self.maps(scan, cut):
            vectors.append(pool.OVER_MAP[settings.pool](maps).cpu().numpy())
            if scan.labels:
                for feature in maps.cpu().numpy():
                    organs.add(feature, next(ids))
        every = np.concatenate(vectors)
        box = np.asarray([*scan.low, *scan.high]) * np.tile(scan.spacing_mm, 2)
        return Embedding(
            pool.OVER_PATCHES[settings.over_patches](every), every, cut.boxes_mm(scan), box, organs.vectors()
        )

    def grid(self, scan: read.Scan, settings: Patches) -> patches.Grid:
        """Return where the patches of a scan lie; an image that is no CT in HU is one patch unless told otherwise."""
        own = scan.shape if scan.is_unit else self.preprocess.patch
        return patches.grid(scan.shape, settings.patch or own, settings.overlap)

    @property
    def batch(self) -> int:
        """Patches embedded at once on this machine."""
        return machine().embed_batch or BATCH[self.device.type]

    def maps(self, scan: read.Scan, cut: patches.Grid) -> Iterator[torch.Tensor]:
        """Yield the coarsest feature maps of the patches in order, float32 (n, channels, z', y', x') on the device."""
        for images in patches.batches(scan, cut, self.batch, self.device):
            yield self(images)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the coarsest feature maps, float32, of (n, 1, z, y, x) patches in [0, 1] on the encoder's device."""
        with torch.inference_mode(), loop.autocast(self.device):
            return self.module(images)[-1].float()

    def about(self) -> Mapping[str, Any]:
        """Return what is applied to every scan, for people to read."""
        return {"kind": self.loaded.kind, **self.preprocess.model_dump(mode="json", exclude={"adapt_patch"})}


def find(name: Path | str) -> Path:
    """Return the folder of an encoder: ``name`` itself, or that of this name below results/.

    Raises:
        UserError: there is none, or several.
    """
    if Path(name).is_dir():
        return Path(name)
    found = sorted(path.parent for path in Path("results").glob("**/encoders/*/" + weights.WEIGHTS))
    fitting = [path for path in found if path.name == str(name)]
    if len(fitting) != 1:
        known = ", ".join(map(str, fitting or found)) or "none is below results/; 'ctfm import-weights' makes one"
        raise UserError(f"encoder '{name}': name its folder ({known})")
    return fitting[0]
