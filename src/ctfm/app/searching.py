"""A search: the patch around a point of one scan, looked for in others; with what the page draws and lets download."""

from __future__ import annotations

import csv
import io
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.app import intake
from ctfm.app.jobs import Job
from ctfm.app.library import Entry, Library
from ctfm.embedding import dense, own, read, similarity
from ctfm.embedding.encode import Encoder
from ctfm.embedding.searching import Place, Search, places, query_in
from ctfm.errors import SCAN_FAULTS, told
from ctfm.files import ensure_folder
from ctfm.imaging import store
from ctfm.imaging.volume import Volume, write_nifti

MOST_SCANS = 16  # whose embeddings are kept in memory
OVERLAY_MM = 3.0  # finest spacing of the heat map that is drawn; it is as smooth as patches are large
OVERLAY, FULL, HEAT = "overlay.nii", "heat.nii.gz", "heat.b2nd"
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


class Searcher:
    """Searches scans of a library with one encoder; a scan that was embedded once is searched at once.

    Args:
        encoder: frozen.
        settings: patch, overlap, and how many matches are told.
        library: the scans.
    """

    def __init__(self, encoder: Encoder, settings: Search, library: Library) -> None:
        self.encoder, self.settings, self.library = encoder, settings, library
        self._kept: OrderedDict[str, dense.Dense] = OrderedDict()

    def search(self, job: Job, source: Entry, point_mm: np.ndarray, targets: list[Entry]) -> None:
        """Look for the patch around a point of ``source`` in the targets, one after the other.

        Args:
            job: is told how far it is, and gets one ``Found`` for each target, with a fault if that can't be used.
            source: whose patch it is.
            point_mm: its centre, LPS.
            targets: where to look.

        Raises:
            Quarantine: the source can't be used.
            UserError: the point lies in air around the body.
            Stopped: somebody has stopped it.
        """
        job.tell(0, f"opening {source.source.name}")
        scan = self._prepared(source)
        query = query_in(self.encoder, scan, point_mm, self.settings)
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
        """Return the heat map on the target's own grid; made when it is first asked for."""
        path = self.folder(job, target.id) / FULL
        if not path.is_file():
            heat, grid = store.open_volume(path.parent / HEAT).load(), own.of(target.open().volume)
            grid.write(similarity.on_grid_of(heat.array, self._prepared(target), grid), path)
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
            self._kept[entry.id] = dense.embed(self.encoder, scan, self.settings, self.settings.mode, tell)
            while len(self._kept) > MOST_SCANS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(entry.id)
        return self._kept[entry.id]

    def _found(self, job: Job, target: Entry, similar: np.ndarray, embedded: dense.Dense, start: float) -> Found:
        folder = ensure_folder(self.folder(job.id, target.id))
        scan, whole = embedded.scan, target.open().volume
        heat = similarity.heat(similar, embedded)
        store.save(Volume(heat, scan.volume.affine), folder / HEAT)
        grid = coarse(whole)
        drawn = similarity.on_grid_of(heat, scan, grid, outside=float(np.nanmin(heat)))  # browsers know no NaN
        write_nifti(Volume(drawn, grid.affine), folder / OVERLAY)
        spread = np.quantile(drawn, QUANTILES).tolist()
        matches = [self._match(target, place) for place in places(similar, embedded, own.of(whole), self.settings)]
        return Found(target.id, target.source.name, matches, spread, round(time.monotonic() - start, 2))

    def _match(self, target: Entry, place: Place) -> dict[str, Any]:
        there = target.open().at(np.asarray(place.point_mm))
        point = [round(mm, 2) for mm in place.point_mm]
        told = {"rank": place.rank, "similarity": round(place.similarity, 6), "point_mm": point}
        return told | {"voxel": there["voxel"], "organ": there["organ"]}


def coarse(scan: store.Stored) -> own.Own:
    """Return the grid that a heat map is drawn on: it covers the scan's own and shares its axes, no finer than 3 mm."""
    step = np.maximum(1.0, OVERLAY_MM / np.asarray(scan.spacing))
    z, y, x = np.maximum(1, np.ceil(np.asarray(scan.shape) / step)).astype(int).tolist()
    affine = scan.affine.copy()
    affine[:3, :3] = scan.affine[:3, :3] * step
    affine[:3, 3] = own.of(scan).world((step - 1) / 2)
    return own.Own((z, y, x), affine)


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
