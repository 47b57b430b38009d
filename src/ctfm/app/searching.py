"""A search: the patch around a point of one scan, looked for in others; with what the page draws and lets download."""

from __future__ import annotations

import csv
import io
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.app import intake
from ctfm.app.jobs import Job
from ctfm.app.library import Entry, Library
from ctfm.embedding import dense, read, similarity
from ctfm.embedding.encode import Encoder
from ctfm.errors import SCAN_FAULTS, told
from ctfm.files import ensure_folder
from ctfm.imaging import store
from ctfm.imaging.resample import resample_to
from ctfm.imaging.volume import Volume, write_nifti
from ctfm.options import Patches, Voxels

MOST_SCANS = 16  # whose embeddings are kept in memory
MATCHES = 10
OVERLAY_MM = 3.0  # finest spacing of the heat map that is drawn; it is as smooth as patches are large
OVERLAY, FULL = "overlay.nii", "heat.nii.gz"
QUANTILES = np.linspace(0, 1, 101)
COLUMNS = ("rank", "similarity", "organ", "left_mm", "posterior_mm", "superior_mm", "z", "y", "x")


@dataclass(frozen=True)
class Found:
    """What a search found in one scan.

    Attributes:
        target: the scan's id.
        name: of the scan, for people.
        matches: best first: ``rank``, ``similarity`` (cosine), ``point_mm`` (LPS), ``voxel`` (z, y, x of the scan's own
            grid with axes turned to S, P, L), ``organ``.
        quantiles: of the heat map, 0 to 100 %.
        seconds: it took.
        fault: why the scan can't be searched; empty if it was.
    """

    target: str
    name: str
    matches: list[dict[str, Any]]
    quantiles: list[float]
    seconds: float
    fault: str = ""


@dataclass(frozen=True)
class Watched(read.Scan):
    """A scan that tells how far up it is being read, 0 to 1; what ``tell`` raises ends the reading."""

    tell: Callable[[float], None] = field(default=lambda _: None, kw_only=True)

    def read(self, start: Voxels, size: Voxels) -> np.ndarray:
        """Read as any scan."""
        self.tell(min(max(start[0], 0) / self.shape[0], 1.0))
        return super().read(start, size)


class Searcher:
    """Searches scans of a library with one encoder; a scan that was embedded once is searched at once.

    Args:
        encoder: frozen.
        settings: patch and overlap.
        library: the scans.
    """

    def __init__(self, encoder: Encoder, settings: Patches, library: Library) -> None:
        self.encoder, self.settings, self.library = encoder, settings, library
        self._kept: OrderedDict[str, dense.Dense] = OrderedDict()

    @property
    def patch(self) -> Voxels:
        """Voxels (z, y, x) of a patch, at the encoder's spacing."""
        return self.settings.patch or self.encoder.preprocess.patch

    def search(self, job: Job, source: Entry, point_mm: np.ndarray, targets: list[Entry]) -> None:
        """Look for the patch around a point of ``source`` in the targets, one after the other.

        Args:
            job: is told how far it is, and gets one ``Found`` for each target, with a fault if that can't be used.
            source: whose patch it is.
            point_mm: its centre, LPS.
            targets: where to look.

        Raises:
            Quarantine: the source can't be used.
            Stopped: somebody has stopped it.
        """
        job.tell(0, f"opening {source.source.name}")
        scan = self._prepared(source)
        inverse = np.linalg.inv(scan.volume.affine)
        query = dense.at(self.encoder, scan, inverse[:3, :3] @ point_mm + inverse[:3, 3], self.patch)
        for number, target in enumerate(targets):
            start = time.monotonic()

            def tell(share: float, name: str = target.source.name, done: int = number) -> None:
                job.tell((done + share) / len(targets), f"embedding {name}")

            tell(0)
            try:
                embedded = self._dense(target, tell)
                found = self._found(job, target, similarity.cosines(query, embedded), embedded, start)
            except SCAN_FAULTS as error:
                found = Found(target.id, target.source.name, [], [], 0.0, ": ".join(told(error).values()))
            job.results.append(found)

    def folder(self, job: str, target: str = "") -> Path:
        """Return the folder of what a search found, in one scan or in all."""
        return self.library.work / "searches" / job / target

    def full(self, job: str, target: Entry) -> Path:
        """Return the heat map on the target's own grid as it was sent; made when it is first asked for."""
        path = self.folder(job, target.id) / FULL
        if not path.is_file():
            made, own = store.open_volume(path.parent / "heat.b2nd").load(), target.open().volume
            write_nifti(resample_to(made, own.shape, own.affine, background=np.nan), path)
        return path

    def _prepared(self, entry: Entry) -> read.Scan:
        entry.open()
        folder = entry.folder / "prepared"
        if (folder / "scan.b2nd").is_file():
            return read.prepare(folder / "scan.b2nd", self.encoder.preprocess, folder, crop=self.settings.crop)
        ensure_folder(folder)
        return read.prepare(entry.folder / intake.SCAN, self.encoder.preprocess, folder, crop=self.settings.crop)

    def _dense(self, entry: Entry, tell: Callable[[float], None]) -> dense.Dense:
        """Return the embeddings of a scan, from memory if it was embedded before."""
        if entry.id not in self._kept:
            scan = self._prepared(entry)
            found = dense.embed(self.encoder, Watched(**vars(scan), tell=tell), self.settings)
            self._kept[entry.id] = dense.Dense(found.vectors, found.grid, scan)
            while len(self._kept) > MOST_SCANS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(entry.id)
        return self._kept[entry.id]

    def _found(self, job: Job, target: Entry, similar: np.ndarray, embedded: dense.Dense, start: float) -> Found:
        folder = ensure_folder(self.folder(job.id, target.id))
        heat = Volume(similarity.heat(similar, embedded), embedded.scan.volume.affine)
        store.save(heat, folder / "heat.b2nd")
        drawn = overlay(heat, target.open().volume)
        write_nifti(drawn, folder / OVERLAY)
        spread = np.quantile(drawn.array, QUANTILES)
        matches = [self._match(target, rank, match) for rank, match in enumerate(distinct(similar, embedded), 1)]
        seconds = round(time.monotonic() - start, 2)
        return Found(target.id, target.source.name, matches, [float(q) for q in spread], seconds)

    def _match(self, target: Entry, rank: int, match: similarity.Match) -> dict[str, Any]:
        there = target.open().at(np.asarray(match.point_mm))
        point = [round(float(mm), 2) for mm in match.point_mm]
        told = {"rank": rank, "similarity": round(match.similarity, 6), "point_mm": point}
        return told | {"voxel": there["voxel"], "organ": there["organ"]}


def distinct(similar: np.ndarray, embedded: dense.Dense, count: int = MATCHES) -> list[similarity.Match]:
    """Return the best matches that lie apart: none within half a patch, along every axis, of a better one."""
    half = np.asarray(embedded.grid.patch) / 2
    kept: list[similarity.Match] = []
    for match in similarity.best(similar, embedded, len(similar)):
        if all((np.abs(np.subtract(match.centre, other.centre)) >= half).any() for other in kept):
            kept.append(match)
        if len(kept) == count:
            break
    return kept


def overlay(heat: Volume, own: store.Stored) -> Volume:
    """Return a heat map as it is drawn: on a grid that covers the scan's own and shares its axes, no finer than 3 mm.

    Outside of what was embedded it has its lowest value, for a browser knows no missing ones.

    Args:
        heat: (z, y, x) at the encoder's spacing, NaN outside of what was embedded.
        own: the scan on its own grid.
    """
    step = np.maximum(1.0, OVERLAY_MM / np.asarray(own.spacing))
    shape = np.maximum(1, np.ceil(np.asarray(own.shape) / step)).astype(int)
    affine = own.affine.copy()
    affine[:3, :3] = own.affine[:3, :3] * step
    affine[:3, 3] = own.affine[:3, :3] @ ((step - 1) / 2) + own.affine[:3, 3]
    lowest = float(np.nanmin(heat.array))
    filled = Volume(np.nan_to_num(heat.array, nan=lowest), heat.affine)
    return resample_to(filled, tuple(int(n) for n in shape), affine, background=lowest)


def table(found: list[Found], about: dict[str, Any]) -> str:
    """Return the matches of all targets as CSV, with the query in every row."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    left, posterior, superior = about["point_mm"]
    writer.writerow(["source", "query_left_mm", "query_posterior_mm", "query_superior_mm", "target", *COLUMNS])
    for one in found:
        for match in one.matches:
            place = [*match["point_mm"], *(match["voxel"] or ["", "", ""])]
            row = [match["rank"], match["similarity"], _cell(match["organ"] or ""), *place]
            writer.writerow([_cell(about["source"]), left, posterior, superior, _cell(one.name), *row])
    return stream.getvalue()


def _cell(text: str) -> str:
    """Return a name that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t" else text
