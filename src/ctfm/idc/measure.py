"""What a plan measures and counts instead of assuming: how fast this machine converts, and the work of an encoder.

Both run code that other stages own. It is imported by name, so that an edit of it does not count as an edit of the
selection, which would be made anew and everything after it (see ``provenance.code``).
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctfm import plugins
from ctfm.config import Criteria, Prepare

SLICES, MATRIX = 56, 512  # 29 MB
SPACING_MM = (2.5, 0.7, 0.7)
RUNS = 2  # the better one counts: the first also warms up


def seconds_per_gb(settings: Prepare, slices: int = SLICES, matrix: int = MATRIX) -> float:
    """Convert a synthetic series of noisy tissue; return the processor's seconds that a GB (10^9 bytes) of DICOM takes.

    The path is that of ``ctfm prepare``: read, check, resample, store, verify; without download and cross-check.

    Args:
        settings: of the preparation; how the series is resampled counts.
        slices: of the series.
        matrix: rows and columns.
    """
    convert = importlib.import_module("ctfm.imaging.convert")
    settings = settings.model_copy(update={"min_slices": 2})
    best = float("inf")
    with tempfile.TemporaryDirectory(prefix="ctfm-plan-") as name:
        folder, target = Path(name) / "dicom", Path(name) / "volume.b2nd"
        size = _write(folder, slices, matrix)
        for _ in range(RUNS):
            start = time.process_time()  # not the time that passes: other programs may be at work
            volume, facts = convert.convert(folder, settings, Criteria(min_instances=2))
            convert.keep(volume, facts, target, "plan")
            best = min(best, time.process_time() - start)
    return best / size * 1e9


def forward_flop(encoder: str, options: Mapping[str, Any], patch: tuple[int, int, int]) -> float | None:
    """Count the floating-point operations of one pass of an encoder over one crop; a multiply-add counts as two.

    Convolutions and matrix products are counted, on shapes alone: no weights are made.

    Args:
        encoder: name of the plug-in.
        options: its settings.
        patch: voxels (z, y, x).

    Returns:
        None where torch is not installed.
    """
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError:
        return None
    counter = importlib.import_module("torch.utils.flop_counter").FlopCounterMode(display=False)
    plugin = plugins.get("encoders", encoder)
    with torch.no_grad(), torch.device("meta"):
        module = plugin.build(plugin.Settings(**options))
        with counter:
            module(torch.empty(1, 1, *patch))
    return float(counter.get_total_flops())


def _write(folder: Path, slices: int, matrix: int) -> int:
    """Write a round body of noisy soft tissue in air as DICOM; return its bytes."""
    dicom = importlib.import_module("ctfm.phantom.dicom")
    volumes = importlib.import_module("ctfm.imaging.volume")
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[-1 : 1 : matrix * 1j, -1 : 1 : matrix * 1j]
    inside = rows**2 + columns**2 < 0.6
    hu = np.where(inside, 40 + 25 * rng.standard_normal((slices, matrix, matrix), np.float32), -1000).astype(np.int16)
    scan = volumes.Volume(hu, np.diag([*SPACING_MM[::-1], 1.0])[:, [2, 1, 0, 3]])
    header = {
        "SeriesInstanceUID": "1.2.3",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SliceThickness": SPACING_MM[0],
    }
    dicom.write_series(folder, dicom.slices_of(scan), header)
    return sum(file.stat().st_size for file in folder.iterdir())
