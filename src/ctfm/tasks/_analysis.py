"""What Auto3DSeg would do with a set of training cases: MONAI's own analysis of them, and the rules of its template.

``DataAnalyzer`` reads the stored cases and writes its report. From the report follow spacing, window of voxels, range
of HU and epochs by the rules of Auto3DSeg's algorithm template ``segresnet`` (Project-MONAI/research-contributions,
``scripts/algo.py`` and ``scripts/utils.py``), with nothing scaled to the GPU, so that each machine gets the same.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.apps.auto3dseg import DataAnalyzer
from monai.data import MetaTensor
from monai.transforms import Orientationd, Transform

from ctfm import files
from ctfm.config import Millimetres, Range, Voxels
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import to_nifti
from ctfm.spec import machine
from ctfm.tasks import CaseFile

REPORT, DERIVED = "datastats.yaml", "derived.json"
ROI = (224, 224, 144)  # (x, y, z) of the template, and so much in all
GROWTH = 1.15  # of an edge that the image leaves room for, until the window has that much
MULTIPLE = 16  # of an edge, and twice that at least: five levels. Small images have fewer there; encoders can't shrink
STEPS, FEWEST, MOST = 80_000, 300, 1250  # epochs: so many cases seen in all, within these limits

log = logging.getLogger(__name__)


class Derived(NamedTuple):
    """What the template makes of a report; axes (z, y, x)."""

    spacing_mm: Millimetres
    patch: Voxels
    hu_window: Range
    epochs: int


def analysed(cases: Sequence[CaseFile], out: Path) -> Derived:
    """Analyse training cases, unless it was done for the same ones, and derive the parameters.

    Args:
        cases: training cases, on their own grids.
        out: gets ``datastats.yaml``, ``datastats_by_case.yaml`` and ``derived.json``.

    Raises:
        UserError: a case can't be analysed.
    """
    key = files.digest([[case.case, store.open_volume(case.label).meta.get("key")] for case in cases])
    path = out / DERIVED
    if not path.is_file() or files.read_json(path)["key"] != key:
        found = derive(report(cases, files.ensure_folder(out) / REPORT)["stats_summary"])
        files.write_json({"key": key, **found._asdict()}, path)
    told = files.read_json(path)
    return Derived(tuple(told["spacing_mm"]), tuple(told["patch"]), tuple(told["hu_window"]), told["epochs"])


def report(cases: Sequence[CaseFile], path: Path) -> dict[str, Any]:
    """Run MONAI's ``DataAnalyzer``; cases are known by their names in its report.

    Args:
        cases: as they are stored; axes are turned to RAS, as MONAI does.
        path: the report, ``.yaml``; the one by case goes beside it.

    Raises:
        UserError: a case is missing from the report.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    listed = {"training": [{"image": case.case, "label": case.case} for case in cases]}
    path.unlink(missing_ok=True)
    analyzer = DataAnalyzer(listed, "", str(path), device=device, worker=machine().loader_workers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load = [_Load({case.case: case for case in cases}), Orientationd(keys=("image", "label"), axcodes="RAS")]
        found = analyzer.get_all_case_stats(transform_list=load)
    told = {case["image_filepath"] for case in found["stats_by_cases"]}
    if lost := sorted({case.case for case in cases} - told):
        raise UserError(f"{', '.join(lost[:5])}: MONAI's DataAnalyzer can't read these cases; run 'ctfm datasets' anew")
    return found


def derive(summary: Mapping[str, Any]) -> Derived:
    """Return the parameters that follow from ``stats_summary`` of a report, whose axes are (x, y, z)."""
    image, foreground = summary["image_stats"], summary["image_foreground_stats"]["intensity"]
    median, fine = _triple(image["spacing"]["median"]), _triple(image["spacing"]["percentile_10_0"])
    in_plane = (median[0] + median[1]) / 2
    spacing = np.array([median[0], median[1], max(in_plane, fine[2])])
    patch = _window(np.floor(_triple(image["sizemm"]["median"]) / spacing))
    low, high = (float(np.ravel(foreground[name])[0]) for name in ("percentile_00_5", "percentile_99_5"))
    epochs = min(max(math.ceil(STEPS / summary["n_cases"]), FEWEST), MOST)
    z, y, x = (float(mm) for mm in spacing[::-1])
    return Derived((z, y, x), (int(patch[2]), int(patch[1]), int(patch[0])), (low, high), epochs)


def _window(image: np.ndarray) -> np.ndarray:
    """Return the window (x, y, z) for images of a typical size in voxels."""
    edges = np.minimum(ROI, image)
    while edges.prod() < np.prod(ROI):
        larger = np.minimum(edges * GROWTH, image)
        if larger.prod() == edges.prod():
            break
        edges = larger
    return MULTIPLE * np.maximum(2, np.floor(edges / MULTIPLE))


def _triple(values: Any) -> np.ndarray:
    return np.asarray(values, float).reshape(-1)[:3]


class _Load(Transform):
    """Reads a stored case by its name, as if it were a NIfTI file."""

    def __init__(self, cases: Mapping[str, CaseFile]) -> None:
        self.cases = cases

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        case = self.cases[item["image"]]
        return {key: _tensor(path, case.case) for key, path in (("image", case.image), ("label", case.label))}


def _tensor(path: Path, name: str) -> MetaTensor:
    image = to_nifti(store.open_volume(path).load())
    values = torch.from_numpy(np.asarray(image.dataobj)[None].astype(np.float32))
    return MetaTensor(values, affine=torch.from_numpy(image.affine), meta={"filename_or_obj": name})
