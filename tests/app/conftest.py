"""A page over two small phantoms and a small random encoder; as an application, and served on a port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from starlette.testclient import TestClient

from ctfm.app import demo, serve
from ctfm.app.site import Site, build
from ctfm.app.sources import Source
from ctfm.embedding.encode import Encoder
from ctfm.imaging.volume import Volume, write_nifti

SPACING_MM = 6.0
PATCH, OVERLAP = (16, 16, 16), 0.25


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> list[Source]:
    """Return two phantoms with their label maps."""
    return demo.scans(tmp_path_factory.mktemp("phantoms"), count=2, spacing_mm=SPACING_MM)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Encoder:
    """Return a small encoder with random weights."""
    return Encoder(demo.encoder(tmp_path_factory.mktemp("encoders") / "random"))


@pytest.fixture(scope="session")
def site(phantoms, encoder, tmp_path_factory) -> Iterator[Site]:
    """Return the site."""
    made = serve.make(
        phantoms, encoder, tmp_path_factory.mktemp("work"), patch=PATCH, overlap=OVERLAP, told="Phantoms."
    )
    yield made
    made.jobs.close()


@pytest.fixture(scope="session")
def client(site) -> TestClient:
    """Return a client that asks the site directly."""
    return TestClient(build(site), base_url="http://localhost")


@pytest.fixture(scope="session")
def address(site) -> Iterator[str]:
    """Return the address of the site on a port of this machine."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build(site), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    listener.close()


def block(shape=(24, 20, 22), spacing=(3.0, 2.0, 2.5)) -> Volume:
    """Return a block of water with a hard ball in it, in air."""
    z, y, x = np.indices(shape)
    array = np.full(shape, -1000, np.int16)
    array[2:-2, 2:-2, 2:-2] = 0
    array[(z - 12) ** 2 + (y - 8) ** 2 + (x - 14) ** 2 < 20] = 800
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]])
    affine[:3, 3] = (-20, -30, 100)
    return Volume(array, affine)


def nifti(path: Path, volume: Volume | None = None) -> Path:
    """Write a scan as NIfTI."""
    write_nifti(volume or block(), path)
    return path


def finished(client: TestClient, search: str, seconds: float = 120) -> dict:
    """Return a search's answer when it is over."""
    for _ in range(int(seconds / 0.1)):
        told = client.get(f"/api/searches/{search}").json()
        if told["state"] not in ("waiting", "running"):
            return told
        time.sleep(0.1)
    raise AssertionError("the search does not end")
