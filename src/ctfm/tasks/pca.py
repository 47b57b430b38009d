"""Task ``pca``: what the main components of patch embeddings show, the same in every scan (paper, Figure 6d).

Nothing is trained: ``predict`` draws some test cases, embeds their patches, and writes the components and colours of
all of them together (``components.parquet``). ``measure`` tells whether a colour means the same in every scan: a patch
whose centre lies in an organ is given the organ that the nearest colour has in another scan. A case's values are means
over the other scans, of

- ``colour_balanced_accuracy``: over the organs of both scans, the mean share of patches that got their own organ;
- ``colour_chance``: what guessing, or always naming the commonest organ, has of that: one over the organs;
- ``colour_accuracy``, and ``colour_majority``, which always naming the other scan's commonest organ has;
- ``colour_recall``: of each organ, with its label;
- ``foreground_agreement``: share of all patches that are foreground where the centre is in the body, and only there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field
from scipy.spatial import KDTree

from ctfm import files, tables
from ctfm.config import Millimetres, Patches, Voxels
from ctfm.embedding import own
from ctfm.imaging import overlays, store
from ctfm.imaging.overlays import Shown
from ctfm.tasks import CaseFile, _maps

TABLE = "components"
LABEL = "components"  # of the planes in the table `slices`
NO_COLOUR = -1  # in the planes; others are red * 65536 + green * 256 + blue


class Settings(Patches):
    """Which scans are shown to the encoder, and how. Defaults: the paper's patches and the published overlap."""

    patch: Voxels | None = Field((24, 64, 64), description="patch (z, y, x), voxels; null: the encoder's own")
    overlap: float = Field(0.75, ge=0, lt=1, description="overlap of the patches")
    spacing_mm: Millimetres | None = Field(None, description="(z, y, x) to embed at, mm; null: the encoder's own")
    standardise: bool = Field(False, description="bring each channel to unit variance first, as the published code did")
    scans: int = Field(2, ge=2, description="test cases that are shown, drawn at random")
    seed: int = Field(0, ge=0, description="of the draw")


def fit(
    settings: Settings,
    encoder: Path,
    train: list[CaseFile],
    val: list[CaseFile],
    out: Path,
    *,
    seed: int,
    frozen: object = False,
) -> dict[str, Any]:
    """Keep the encoder in ``out/model``; return facts for run.json. Neither cases nor seed change anything."""
    return _maps.keep("pca", settings, encoder, out)


def predict(model: Path, cases: list[CaseFile], out: Path) -> None:
    """Write the components of the patches of the drawn cases, unless they are there."""
    from ctfm.embedding import colouring  # torch
    from ctfm.embedding.encode import Encoder

    if (out / f"{TABLE}.parquet").is_file():
        return
    encoder, kept = _maps.kept(model)
    settings = Settings(**kept)
    images = [(case.case, case.image) for case in _maps.drawn(cases, settings.scans, settings.seed, out)]
    used, space = Encoder(encoder), settings.spacing_mm
    rows = colouring.of_scans(used, images, settings, spacing_mm=space, standardise=settings.standardise)
    tables.write(rows, TABLE, out / f"{TABLE}.parquet")


def measure(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return the rows of each drawn case; of the others, a row that says that they are not shown.

    Args:
        settings: not used: what is measured is fixed.
        cases: test cases, with label maps.
        predictions: folder that ``predict`` wrote.

    Raises:
        UserError: there are no components, or a case has no label map.
    """
    shown = _maps.among(cases, predictions)
    found = {case.case: _placed(case, _of(case, predictions)) for case in shown}
    rows = _maps.others(cases, predictions)
    for case in shown:
        own = {"case_id": case.case, "patient": case.patient}
        rest = [found[other.case] for other in shown if other is not case]
        rows += [{**own, **row} for row in _agreement(found[case.case], rest, dict(_maps.organs(case)[1].values()))]
    return rows


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each measure over scans; of recall over scans and organs."""
    return _maps.means(rows)


def picture(settings: Settings, case: CaseFile, prediction: Path) -> Figure | None:
    """Draw a case under its colours; none for a case that was not drawn."""
    if not _maps.among([case], prediction):
        return None
    return overlays.draw(f"{case.case}: components of patch embeddings", [("", _painted(case, prediction))])


def slices(settings: Settings, cases: list[CaseFile], predictions: Path) -> list[dict[str, Any]]:
    """Return an axial and a coronal plane of each drawn case, with colours as whole numbers."""

    def whole(shown: Shown) -> np.ndarray:
        red, green, blue = np.moveaxis(np.rint(shown.colours[..., :3] * 255).astype(int), -1, 0)
        return np.where(shown.colours[..., 3] > 0, (red * 256 + green) * 256 + blue, NO_COLOUR)

    shown = _maps.among(cases, predictions)
    return [row for case in shown for row in _maps.slices(case, LABEL, _painted(case, predictions), whole)]


def _painted(case: CaseFile, predictions: Path) -> _maps.Painted:
    from ctfm.embedding import colouring  # torch

    return colouring.painted(_of(case, predictions), store.open_volume(case.image).load(), _maps.middle(case))


def _of(case: CaseFile, predictions: Path) -> pd.DataFrame:
    """Return the patches of a case."""
    path = files.need_file(predictions / f"{TABLE}.parquet", "run 'ctfm adapt' first")
    rows = tables.read(TABLE, path)
    return rows[rows["case"] == case.case].reset_index(drop=True)


def _placed(case: CaseFile, rows: pd.DataFrame) -> pd.DataFrame:
    """Add to the patches the organ at their centre (empty: none), and whether that is in the body."""
    ids, names = _maps.organs(case)
    image = store.open_volume(case.image).load()
    body = _maps.body(image.array)
    centres = rows[["left_mm", "posterior_mm", "superior_mm"]].to_numpy()
    voxels = np.rint(own.of(image).index(centres)).astype(int)
    inside = ((voxels >= 0) & (voxels < image.shape)).all(axis=1)
    z, y, x = np.where(inside[:, None], voxels, 0).T
    found = np.where(inside, ids[z, y, x], 0)
    return rows.assign(organ=[names[i][0] if i in names else "" for i in found], body=inside & body[z, y, x])


def _agreement(own: pd.DataFrame, rest: list[pd.DataFrame], groups: dict[str, str]) -> list[dict[str, Any]]:
    """Return the rows of a scan against others, less case and patient."""
    agrees = float((own["foreground"] == own["body"]).mean())
    rows = [_row("foreground_agreement", agrees)]
    pairs = [pair for other in rest if len(pair := _named(own, other))]
    if not pairs:
        return [
            *rows,
            _row("colour_balanced_accuracy", float("nan"), note="no organ is in the foreground of two scans"),
        ]
    recalls = pd.concat([pair.groupby("organ")["right"].mean() for pair in pairs])
    values = {
        "colour_balanced_accuracy": np.mean([pair.groupby("organ")["right"].mean().mean() for pair in pairs]),
        "colour_chance": np.mean([1 / pair["organ"].nunique() for pair in pairs]),
        "colour_accuracy": np.mean([pair["right"].mean() for pair in pairs]),
        "colour_majority": np.mean([pair["commonest"].mean() for pair in pairs]),
    }
    rows += [_row(metric, float(value)) for metric, value in values.items()]
    of_organs = recalls.groupby(level=0).mean()
    return rows + [_row("colour_recall", float(v), str(organ), groups[str(organ)]) for organ, v in of_organs.items()]


def _named(own: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return the coloured patches in organs that both scans show, and whether the nearest colour names their organ."""
    sides = [side[side["foreground"] & (side["organ"] != "")] for side in (own, other)]
    both = set(sides[0]["organ"]) & set(sides[1]["organ"])
    here, there = (side[side["organ"].isin(both)] for side in sides)
    if not both:
        return here
    lab = ["lightness", "a", "b"]
    named = there["organ"].to_numpy()[KDTree(there[lab]).query(here[lab])[1]]
    return here.assign(right=here["organ"] == named, commonest=here["organ"] == there["organ"].mode()[0])


def _row(metric: str, value: float, label: str = "all", group: str = "all", note: str = "") -> dict[str, Any]:
    return {"label": label, "group": group, "metric": metric, "value": value, "note": note}
