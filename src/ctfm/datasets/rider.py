"""RIDER Lung CT: patients scanned twice within 15 minutes, for the stability of features (Extended Data Figure 7).

The scans come from the Imaging Data Commons by the stages ``select`` and ``prepare``, as those of any corpus do:
``root`` is the folder of such a corpus' volumes (``<outdir>/volumes/<corpus>``), with ``index.parquet``. Any corpus of
repeated scans will do.

A case is a patient; its image is the first scan, its label file the second. Which of both was made first the tables
don't tell, and it matters little: they are ordered by study and series. A patient with two usable series is a pair.
Of more, two and only two must be alike in reconstruction kernel and slice thickness; of several such twos the one with
the thinnest slices is taken. Every series that is in no pair is listed with the reason.

Source: Zhao et al., Radiology 2009, doi:10.1148/radiol.2522081593; doi:10.7937/k9/tcia.2015.u1x8a5nr.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ctfm import tables
from ctfm.config import VERSIONS, Millimetres
from ctfm.datasets import Case
from ctfm.errors import Quarantine, UserError
from ctfm.files import digest
from ctfm.imaging import store
from ctfm.imaging.resample import resample

SOURCE = {
    "version": "IDC",
    "url": "https://portal.imaging.datacommons.cancer.gov",
    "bytes": None,
    "checksum": None,  # series of the Imaging Data Commons: see the corpus' own tables
    "licence": "CC BY 4.0 (RIDER Lung CT); that of another corpus stands in its licenses.parquet",
}
NOTE = (
    "Of the real scans: RIDER Lung CT is part of the corpus that the paper's encoder was pre-trained on, so its "
    "stability there is no test on unseen scans. Pre-train on a corpus with "
    "'exclude_downstream: true' for one that has not seen them."
)
MARKER = "index.parquet"
LABELS = {"first": 1, "second": 2}
GROUPS = dict.fromkeys(LABELS, "scans")


@dataclass(frozen=True)
class Pair(Case):
    """A patient's two scans; or a series that is in no pair.

    Attributes:
        reason: why it is in none; empty for a pair.
        detail: of the reason.
    """

    reason: str = ""
    detail: str = ""


def check(root: Path) -> None:
    """Check that ``root`` is the folder of a corpus' volumes.

    Raises:
        UserError: there is no index, or none of its series is usable.
    """
    if not (root / MARKER).is_file():
        raise UserError(
            f"{root / MARKER}: no such file; 'root' is the folder of the volumes that 'ctfm prepare' makes of a "
            f"corpus, such as one of the collection rider_lung_ct ({SOURCE['url']})"
        )
    if not (tables.read("volumes", root / MARKER)["status"] == "ok").any():
        raise UserError(f"{root / MARKER}: no series is usable; look at its columns 'reason' and 'detail'")


def cases(root: Path) -> Iterator[Case]:
    """Yield the pairs, all of the test split, and after each patient's pair the series that are in none."""
    table = tables.read("volumes", root / MARKER).sort_values(["StudyInstanceUID", "SeriesInstanceUID"])
    for patient, rows in table.groupby("PatientID", sort=True):
        good = [row for row in rows.itertuples() if row.status == "ok"]
        pair, why = _paired([root / str(row.path) for row in good])
        if pair:
            yield Pair(str(patient), str(patient), "test", image=pair[0], labels=pair[1])
        for row in rows.itertuples():
            path = root / str(row.path)
            if row.status != "ok":
                reason, detail = "scan_refused", f"{row.reason}: {row.detail}"
            elif path in pair:
                continue
            else:
                reason, detail = "pair_of_one" if len(good) == 1 else "not_paired", why
            yield Pair(str(row.SeriesInstanceUID), str(patient), "test", path, None, reason=reason, detail=detail)


def keep(case: Case, spacing_mm: Millimetres | None, folder: Path) -> dict[str, Any]:
    """Store both scans of a pair, ``<case>.b2nd`` and ``<case>_second.b2nd``, unless they are there already.

    Args:
        case: what is stored.
        spacing_mm: spacing (z, y, x), mm; None: that of the corpus.
        folder: where to.

    Returns:
        The pair's part of the table of cases.

    Raises:
        Quarantine: it is no pair, or a scan can't be read.
    """
    assert isinstance(case, Pair)
    if case.reason or not isinstance(case.labels, Path):
        raise Quarantine(case.reason, case.detail)
    paths = [folder / f"{case.case}.b2nd", folder / f"{case.case}_second.b2nd"]
    for path, source in zip(paths, (case.image, case.labels), strict=True):
        _store(source, spacing_mm, path)
    first = store.open_volume(paths[0])
    row = {"shape": list(first.shape), "spacing": list(first.spacing), "labels": list(LABELS), "empty": []}
    return row | {"detail": "", "overlap_voxels": 0, "label": f"{folder.name}/{paths[1].name}"}


def _store(source: Path, spacing_mm: Millimetres | None, path: Path) -> None:
    """Store a prepared volume at a spacing, with the facts of its source."""
    given = store.open_volume(source)
    key = digest([VERSIONS["datasets"], given.meta.get("key"), source.name, spacing_mm and list(spacing_mm)])
    if store.same(path, key):
        return
    try:
        volume = given.load()
    except Exception as error:  # whatever the decoder says of damaged bytes
        raise Quarantine("unreadable", f"{source.name}: {error}") from error
    if spacing_mm and not np.allclose(volume.spacing, spacing_mm):
        volume = resample(volume, spacing_mm)
    store.save(volume, path, {"key": key, "source": given.meta.get("source", {})})


def _paired(paths: list[Path]) -> tuple[tuple[Path, ...], str]:
    """Return the two volumes of a patient that are a pair, or none; and why the others are in none."""
    if len(paths) == 2:
        return tuple(paths), ""
    if len(paths) < 2:
        return (), "the patient has one usable series"
    made = pd.DataFrame([_reconstruction(path) for path in paths])
    twos = [rows for _, rows in made.groupby(["thickness", "kernel"], sort=True) if len(rows) == 2]
    if not twos:
        return (), f"of {len(paths)} series, no two and only two have one kernel and slice thickness"
    chosen = ", ".join(f"{twos[0][key].iloc[0]}" for key in ("thickness", "kernel"))
    return tuple(twos[0].path), f"the patient's pair is of another reconstruction ({chosen})"


def _reconstruction(path: Path) -> dict[str, Any]:
    """Return kernel and slice thickness of a volume; of a damaged one, which reading it will tell, none."""
    try:
        source = store.open_volume(path).meta.get("source", {})
    except Quarantine:
        source = {}
    thickness = "/".join(f"{mm:g} mm" for mm in source.get("thickness_mm") or [])
    return {"path": path, "kernel": source.get("ConvolutionKernel", ""), "thickness": thickness}
