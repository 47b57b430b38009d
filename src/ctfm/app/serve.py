"""Command ``app``: serve the semantic-search page on this machine."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn

from ctfm import weights
from ctfm.app import demo, sources
from ctfm.app.library import Library
from ctfm.app.searching import Searcher
from ctfm.app.site import Site, build
from ctfm.embedding.encode import Encoder, find
from ctfm.embedding.searching import Search
from ctfm.errors import UserError
from ctfm.options import Voxels

RESULTS = Path("results")
PATCH = (16, 64, 64)  # of the published page; no more than the encoder's own
MATCHES = 10
PORT = 8765

log = logging.getLogger(__name__)


def app(
    scans: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of scans, or of a data set that 'ctfm datasets' stored; may be given several times."),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Folder of an encoder, or its name below results/.")] = None,
    patch: Annotated[str | None, typer.Option(help="Patch z,y,x in voxels at the encoder's spacing.")] = None,
    overlap: Annotated[float, typer.Option(min=0, max=0.9, help="Overlap of the patches of a target scan.")] = 0.625,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = PORT,
) -> None:
    """Find what looks like a chosen place of one CT in others, in the browser.

    Without options: the data set with the most organs below results/, and the encoder 'ctfm' of the same run; where
    there is none, phantoms and a random encoder.
    """
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="ctfm-app-") as folder:
        work = Path(folder)
        offered, told = choose_scans(scans, work)
        chosen = choose_encoder(encoder, scans, work)
        site = make(offered, chosen, work, patch=patch_of(patch, chosen), overlap=overlap, told=told)
        listener = listen(host, port)
        address = address_of(host, listener.getsockname()[1])
        if open_to_others(listener):
            log.warning("%s: anybody who reaches this address sees all scans and may send some: no login", host)
        print(f"Open {address} in a browser; Ctrl-C ends.", flush=True)
        config = uvicorn.Config(
            build(site, (host.lower(),)),
            log_level="warning",
            server_header=False,
            limit_concurrency=64,
            timeout_graceful_shutdown=2,
        )
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            site.jobs.close()


def _end(*_: object) -> None:
    """End as Ctrl-C does, so that no scan is left behind. The server ends first, then it raises the signal again."""
    raise SystemExit(0)


def choose_scans(folders: list[Path] | None, work: Path) -> tuple[list[sources.Source], str]:
    """Return the scans to offer, and a sentence about them for the page; empty for people's own."""
    if folders:
        return sources.unique([source for folder in folders for source in sources.find(folder)]), ""
    if found := sources.of_a_run(RESULTS):
        return sources.find(found), f"Scans of {found}."
    log.warning("neither --scans nor a data set below %s/: phantoms are made", RESULTS)
    return demo.scans(work), "The scans are synthetic: phantoms made for this page."


def choose_encoder(name: str | None, folders: list[Path] | None, work: Path) -> Encoder:
    """Return the encoder that is asked for, else 'ctfm' of the run whose scans are offered, else a random one."""
    if name:
        return Encoder(find(name))
    run = None if folders else sources.of_a_run(RESULTS)
    if run and (own := run.parents[1] / "encoders" / "ctfm" / weights.WEIGHTS).is_file():
        return Encoder(own.parent)
    log.warning("no --encoder: one with random weights is made, whose matches mean little")
    return Encoder(demo.encoder(work / "random"))


def patch_of(text: str | None, encoder: Encoder) -> Voxels:
    """Return the patch that is asked for, by default the published page's or the encoder's own if that is smaller.

    Raises:
        UserError: it is no three whole numbers from 1.
    """
    if text is None:
        z, y, x = (min(a, b) for a, b in zip(PATCH, encoder.preprocess.patch, strict=True))
        return z, y, x
    try:
        z, y, x = (int(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--patch: '{text}' is no 'z,y,x', such as '16,64,64'") from error
    if min(z, y, x) < 1:
        raise UserError(f"--patch: {text}: each must be 1 or more")
    return z, y, x


def make(
    offered: list[sources.Source], encoder: Encoder, work: Path, *, patch: Voxels, overlap: float, told: str = ""
) -> Site:
    """Return the site for scans and an encoder; what it makes lies below ``work``."""
    library = Library(offered, work)
    searcher = Searcher(encoder, Search(patch=patch, overlap=overlap, count=MATCHES), library)
    facts: dict[str, Any] = encoder.loaded.facts
    size = " x ".join(f"{n * mm:g}" for n, mm in zip(patch, encoder.preprocess.spacing_mm, strict=True))
    about = {
        "encoder": encoder.folder.name,
        "trained_on": str(facts.get("trained_on", "")),
        "random": bool(facts.get("random")),
        "patch": f"{size} mm",
        "told": told,
    }
    return Site(library, searcher, about)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UserError: the address can't be used.
    """
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(kind, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise UserError(f"{host}, port {port}: {error.strerror or error}; choose another --port or --host") from error
    return listener


def open_to_others(listener: socket.socket) -> bool:
    """Return whether other machines may reach a socket."""
    return not ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address_of(host: str, port: int) -> str:
    """Return the address to open in a browser."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
