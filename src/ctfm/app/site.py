"""The site: the page, and what it asks for, under ``/api``. Scans and searches have ids; no path comes from outside.

Points are LPS mm; voxels are (z, y, x) of a scan's own grid with axes turned to (S, P, L).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ctfm.app import answers, planes, searching, uploads
from ctfm.app.guard import Guard
from ctfm.app.jobs import Job, Jobs
from ctfm.app.library import Entry, Library
from ctfm.app.searching import Found, Searcher
from ctfm.imaging.volume import Volume, read_image

STATIC = Path(__file__).parent / "static"
LARGEST_QUESTION = 2**16  # bytes
SLOWEST_S = 900  # for a scan to be sent
MOST_TARGETS = 32
NIFTI = "application/octet-stream"
Millimetre = Annotated[FiniteFloat, Field(ge=-1e5, le=1e5)]


class Question(BaseModel):
    """What a search is asked."""

    model_config = ConfigDict(extra="forbid")
    source: str
    point_mm: tuple[Millimetre, Millimetre, Millimetre]
    targets: list[str] = Field(min_length=1, max_length=MOST_TARGETS)


class Site:
    """The answers to all requests.

    Args:
        library: the scans.
        searcher: with the encoder.
        about: of encoder and scans, for the page's head.
    """

    def __init__(self, library: Library, searcher: Searcher, about: dict[str, Any]) -> None:
        self.library, self.searcher, self.about = library, searcher, about
        self.jobs = Jobs(self._forget)
        self.asked: dict[str, dict[str, Any]] = {}
        self.receiving = threading.BoundedSemaphore(2)

    def state(self, _: Request) -> Response:
        """Say which scans there are, and what encoder."""
        listed = [entry.about() for entry in self.library.all()]
        return JSONResponse({**self.about, "scans": listed, "largest_bytes": uploads.SENT_BYTES})

    def scan(self, request: Request) -> Response:
        """Tell of a scan, which is opened for it."""
        return JSONResponse(self._entry(request).details())

    def shown(self, request: Request) -> Response:
        """Send a scan to the browser."""
        return FileResponse(self._entry(request).open().shown, media_type=NIFTI)

    def at(self, request: Request) -> Response:
        """Tell HU and organ at a point."""
        point = [answers.number(request, key, -1e5, 1e5) for key in ("left", "posterior", "superior")]
        return JSONResponse(self._entry(request).open().at(np.asarray(point)))

    def plane(self, request: Request) -> Response:
        """Draw a plane of a scan, for browsers without WebGL."""
        volume = self._entry(request).open().volume
        z, y, x = (int(answers.number(request, k, 0, n - 1)) for k, n in zip("zyx", volume.shape, strict=True))
        low, high = answers.number(request, "low", -1e5, 1e5), answers.number(request, "high", -1e5, 1e5)
        plane = request.path_params["plane"]
        if plane not in planes.LAYOUT or low >= high:
            raise HTTPException(404, "there is no such plane")
        picture = planes.draw(volume, plane, (z, y, x), (low, high), self._heat(request))
        return Response(picture, media_type="image/png")

    async def send(self, request: Request) -> Response:
        """Take a scan: the request's body is the file, its name stands in the address."""
        if int(request.headers.get("content-length") or 0) > uploads.SENT_BYTES:
            raise HTTPException(413, f"the file has more than {uploads.SENT_BYTES // 2**20} MiB")
        if not self.receiving.acquire(blocking=False):
            raise HTTPException(429, "other scans are being sent; try again in a moment")
        try:
            with tempfile.TemporaryDirectory(dir=self.library.work) as folder:
                sent = Path(folder, "sent")
                async with asyncio.timeout(SLOWEST_S):
                    await answers.save(request, sent, uploads.SENT_BYTES)
                name = request.query_params.get("name", "")
                entry = await run_in_threadpool(self.library.receive, sent, name)
        finally:
            self.receiving.release()
        return JSONResponse(entry.about(), 201)

    def remove(self, request: Request) -> Response:
        """Forget a scan that was sent."""
        if not self.library.remove(self._entry(request).id):
            raise HTTPException(403, "only scans that were sent can be removed")
        return Response(status_code=204)

    async def search(self, request: Request) -> Response:
        """Queue a search."""
        question = Question.model_validate_json(await answers.body(request, LARGEST_QUESTION))
        source, *targets = (self._known(name) for name in (question.source, *dict.fromkeys(question.targets)))
        point = np.asarray(question.point_mm)
        told = await run_in_threadpool(lambda: source.open().at(point))
        if told["voxel"] is None:
            raise HTTPException(422, "the point lies outside of the source scan")
        job = self.jobs.add(lambda job: self.searcher.search(job, source, point, targets))
        self.asked[job.id] = {"source": source.source.name, "point_mm": list(question.point_mm), **told}
        return JSONResponse({"id": job.id}, 202)

    def progress(self, request: Request) -> Response:
        """Tell how far a search is, and what it has found."""
        job = self._job(request.path_params["search"])
        told = {"id": job.id, "state": job.state, "share": round(job.share, 4), "message": job.message}
        return JSONResponse({**told, "query": self.asked.get(job.id), "results": [asdict(one) for one in job.results]})

    def stop(self, request: Request) -> Response:
        """Stop a search."""
        self._job(request.path_params["search"]).stop.set()
        return Response(status_code=204)

    def overlay(self, request: Request) -> Response:
        """Send a heat map to the browser."""
        job, target, _ = self._result(request)
        return FileResponse(self.searcher.folder(job.id, target.id) / searching.OVERLAY, media_type=NIFTI)

    def heat(self, request: Request) -> Response:
        """Send a heat map on the scan's own grid, to keep."""
        job, target, found = self._result(request)
        name = f"heat_{found.name}.nii.gz"
        return FileResponse(self.searcher.full(job.id, target), media_type=NIFTI, filename=name)

    def matches(self, request: Request) -> Response:
        """Send the matches, to keep: JSON or CSV."""
        job = self._job(request.path_params["search"])
        asked, kind = self.asked[job.id], request.path_params["kind"]
        if kind not in ("csv", "json"):
            raise HTTPException(404, "matches come as csv or json")
        headers = {"Content-Disposition": f'attachment; filename="matches.{kind}"'}
        if kind == "csv":
            return Response(searching.table(job.results, asked), media_type="text/csv", headers=headers)
        results = [asdict(one) for one in job.results]
        return JSONResponse({"encoder": self.about["encoder"], "query": asked, "results": results}, headers=headers)

    def _forget(self, job: str) -> None:
        self.asked.pop(job, None)
        shutil.rmtree(self.searcher.folder(job), ignore_errors=True)

    def _known(self, name: str) -> Entry:
        if (entry := self.library.get(name)) is None:
            raise HTTPException(404, "there is no such scan")
        return entry

    def _entry(self, request: Request) -> Entry:
        return self._known(request.path_params["scan"])

    def _job(self, name: str) -> Job:
        if (job := self.jobs.get(name)) is None:
            raise HTTPException(404, "there is no such search")
        return job

    def _heat(self, request: Request) -> tuple[Volume, float, float, float] | None:
        """Return the heat map that a plane is to be drawn with, and how."""
        if (search := request.query_params.get("search")) is None:
            return None
        job, target, _ = self._result(request, search)
        span = [answers.number(request, key, -1, 1) for key in ("from", "to")]
        file = self.searcher.folder(job.id, target.id) / searching.OVERLAY
        return read_image(file), span[0], span[1], answers.number(request, "opacity", 0, 1)

    def _result(self, request: Request, search: str = "") -> tuple[Job, Entry, Found]:
        job, target = self._job(search or request.path_params["search"]), self._entry(request)
        found = next((one for one in job.results if one.target == target.id), None)
        if found is None or found.fault:
            raise HTTPException(404, "there is no such result")
        return job, target, found


def build(site: Site, names: tuple[str, ...] = ()) -> Guard:
    """Return the application.

    Args:
        site: its answers.
        names: host names that it may be called by, see ``Guard``.
    """
    found = "/api/searches/{search}"
    routes = [
        Route("/", lambda _: FileResponse(STATIC / "index.html")),
        Route("/api/state", site.state),
        Route("/api/scans", site.send, methods=["POST"]),
        Route("/api/scans/{scan}", site.scan),
        Route("/api/scans/{scan}", site.remove, methods=["DELETE"]),
        Route("/api/scans/{scan}/shown.nii", site.shown),
        Route("/api/scans/{scan}/at", site.at),
        Route("/api/scans/{scan}/{plane}.png", site.plane),
        Route("/api/searches", site.search, methods=["POST"]),
        Route(found, site.progress),
        Route(found, site.stop, methods=["DELETE"]),
        Route(found + "/matches.{kind}", site.matches),
        Route(found + "/{scan}/overlay.nii", site.overlay),
        Route(found + "/{scan}/heat.nii.gz", site.heat),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Guard(Starlette(routes=routes, exception_handlers=answers.HANDLERS), names)
