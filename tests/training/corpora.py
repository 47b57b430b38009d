"""A small corpus of volumes for the tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from ctfm import files, tables
from ctfm.imaging import store
from ctfm.imaging.volume import Volume


def write(root: Path, count: int = 3, shape=(20, 40, 44), box=((2, 4, 4), (18, 38, 42)), spacing=(3.0, 1.0, 1.0)):
    """Write `count` smooth random volumes and their index; return the path of the index."""
    rows = []
    for i in range(count):
        noise = gaussian_filter(np.random.default_rng(i).normal(size=shape), 2)
        array = (noise / noise.std() * 300).astype(np.int16)
        path = root / "shard=00000" / f"1.{i}.b2nd"
        store.save(Volume(array, np.diag([*spacing, 1.0])), path, {"body_box": [list(edge) for edge in box]})
        rows.append(
            {
                "SeriesInstanceUID": f"1.{i}",
                "shard": 0,
                "status": "ok",
                "reason": "",
                "path": f"shard=00000/{path.name}",
                "spacing_out": list(spacing),
                "sha256": files.sha256(path),
            }
        )
    rows.append({"SeriesInstanceUID": "1.99", "shard": 0, "status": "quarantined", "reason": "localizer"})
    tables.write(tables.of("volumes", rows), "volumes", root / "index.parquet")
    return root / "index.parquet"
