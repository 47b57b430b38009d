"""Tables of headers: from a folder, or fetched from a server that may be wrong in several ways."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctfm.errors import UserError
from ctfm.idc import geometry_index
from tests.idc.index_maker import install, newest

CT, GEOMETRY = geometry_index.FILES.values()


class Handler(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012  (shared by the requests of a test on purpose)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder that a server on this machine serves as the artifacts of 25.0.5."""
    install(monkeypatch, tmp_path / "package", [newest("1.1")])
    folder = tmp_path / "site/25.0.5/release_artifacts"
    folder.mkdir(parents=True)
    for name in (CT, GEOMETRY):
        (folder / name).write_bytes(name.encode() * 1000)
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / f"{name}.sha256").write_text(f"{digest}  {name}\n")
    handler = functools.partial(Handler, directory=str(tmp_path / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.asked.clear()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(geometry_index.VARIABLE, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("CTFM_MACHINE", json.dumps({"cache": str(tmp_path / "cache")}))
    yield folder
    server.shutdown()
    server.server_close()


def test_fetched_once_into_the_cache(served: Path, tmp_path: Path) -> None:
    found = geometry_index.tables("download", "corpora.x")
    assert {role: table.path.name for role, table in found.items()} == {"ct": CT, "geometry": GEOMETRY}
    assert found["ct"].path == tmp_path / "cache/idc-index-data/25.0.5" / CT
    assert found["ct"].path.read_bytes() == (served / CT).read_bytes()
    assert found["ct"].facts() == {
        "file": CT,
        "package": "idc-index-data",
        "version": "25.0.5",
        "sha256": hashlib.sha256((served / CT).read_bytes()).hexdigest(),
    }
    assert len(Handler.asked) == 4
    assert geometry_index.tables("download", "corpora.x") == found
    assert len(Handler.asked) == 4


@pytest.mark.parametrize("damaged", [CT, f"{CT}.sha256"])
def test_what_is_damaged_in_the_cache_is_fetched_anew(served: Path, damaged: str) -> None:
    table = geometry_index.tables("download", "corpora.x")["ct"].path
    table.with_name(damaged).write_text("damaged")
    geometry_index.tables("download", "corpora.x")
    assert table.read_bytes() == (served / CT).read_bytes()


def test_wrong_checksum_is_refused(served: Path, tmp_path: Path) -> None:
    (served / f"{CT}.sha256").write_text("0" * 64)
    with pytest.raises(UserError, match=rf"{CT}: can't be fetched \(its SHA-256 is .* and 0+ was published\)"):
        geometry_index.tables("download", "corpora.x")
    assert not (tmp_path / "cache/idc-index-data/25.0.5" / CT).exists()


def test_a_sidecar_without_a_digest_is_refused(served: Path) -> None:
    (served / f"{GEOMETRY}.sha256").write_text("<html>moved</html>")
    with pytest.raises(UserError, match=rf"{GEOMETRY}: can't be fetched \(the file beside it holds no SHA-256\)"):
        geometry_index.tables("download", "corpora.x")


def test_absent_file_and_absent_server(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (served / GEOMETRY).unlink()
    with pytest.raises(UserError, match=rf"{GEOMETRY}: can't be fetched \(HTTP Error 404.*corpora\.x\.geometry_index"):
        geometry_index.tables("download", "corpora.x")
    monkeypatch.setenv(geometry_index.VARIABLE, "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"can't be fetched \(.*refused"):
        geometry_index.tables("download", "corpora.x")


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / CT).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"{GEOMETRY}: no such file.*corpora\.x\.geometry_index names the folder"):
        geometry_index.tables(str(tmp_path), "corpora.x")
    (tmp_path / GEOMETRY).write_bytes(b"y")
    found = geometry_index.tables(str(tmp_path), "corpora.x")
    assert found["geometry"].facts() == {"file": GEOMETRY, "sha256": hashlib.sha256(b"y").hexdigest()}
