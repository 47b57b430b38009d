"""Dense embeddings: a whole scan as a grid of patch embeddings, exactly those of the paper's sliding window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ctfm.embedding import patches, pool
from ctfm.embedding.encode import Encoder
from ctfm.embedding.read import Scan
from ctfm.options import Patches, Voxels


@dataclass(frozen=True)
class Dense:
    """The embeddings of the patches of a scan.

    Attributes:
        vectors: (patches, channels) float32, in the order of ``grid.corners``.
        grid: where the patches lie, counted from the corner of the scan's box.
        scan: whose they are.
    """

    vectors: np.ndarray
    grid: patches.Grid
    scan: Scan

    @property
    def centres(self) -> np.ndarray:
        """(patches, 3): the centre of each patch in voxels (z, y, x) of the scan as it was prepared."""
        return np.asarray(self.grid.corners, float) + self.scan.low + (np.asarray(self.grid.patch) - 1) / 2

    @property
    def centres_world(self) -> np.ndarray:
        """(patches, 3): the centre of each patch in LPS mm."""
        return self.grid.centres_world(self.scan)


def embed(encoder: Encoder, scan: Scan, settings: Patches) -> Dense:
    """Embed all patches of a scan: average over the coarsest feature map of each, as the paper does.

    Args:
        encoder: frozen.
        scan: see ``read.prepare``.
        settings: patch (null: the encoder's own) and overlap.
    """
    cut = encoder.grid(scan, settings)
    vectors = [pool.OVER_MAP["avg"](maps).cpu().numpy() for maps in encoder.maps(scan, cut)]
    return Dense(np.concatenate(vectors), cut, scan)


def at(encoder: Encoder, scan: Scan, centre: np.ndarray, patch: Voxels | None = None) -> np.ndarray:
    """Return the embedding (channels,) of the patch around a point; what lies outside of the scan's box is 0.

    Args:
        encoder: frozen.
        scan: see ``read.prepare``.
        centre: voxel (z, y, x) of the scan as it was prepared, need not be whole.
        patch: voxels (z, y, x); None: the encoder's own.
    """
    size = patch or encoder.preprocess.patch
    start = np.rint(np.asarray(centre, float) - scan.low - (np.asarray(size) - 1) / 2).astype(int)
    image = torch.from_numpy(scan.read(tuple(start.tolist()), size))[None, None].to(encoder.device)
    return pool.OVER_MAP["avg"](encoder(image))[0].cpu().numpy()
