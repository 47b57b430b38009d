from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ctfm import archive
from ctfm.errors import UserError


def packed(top: str = "") -> bytes:
    """Return a zip file of a tiny data set, within a folder ``top``."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as content:
        content.writestr(f"{top}s0000/ct.nii.gz", bytes(range(256)) * 40)
        content.writestr(f"{top}meta.csv", "image_id;split\n")
    return stream.getvalue()


def tarred(top: str) -> bytes:
    """Return a tar file of a tiny data set, with a folder in it that holds a file of the marker's name too."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as content:
        for name, text in {f"{top}a/other/x.py": b"no", f"{top}a/scripts/x.py": b"yes" * 900}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            content.addfile(member, io.BytesIO(text))
    return stream.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``content`` at any address, from where it is asked to; breaks off after ``most`` bytes."""

    content, most, ranges, length = b"", 10**9, True, False
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.asked.append(self.headers["Range"])
        start = int(self.headers["Range"][6:-1]) if self.headers["Range"] and self.server.ranges else 0
        body = self.server.content[start:]
        self.send_response(416 if not body else 206 if start else 200)
        if self.server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()  # no length: the end of the connection is the end of the file
        self.wfile.write(body[: self.server.most])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = Server(("127.0.0.1", 0), Handler)
    made.content, made.asked = packed(), []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def source(server, **changes):
    digest = hashlib.md5(server.content).hexdigest()
    known = {"url": f"http://127.0.0.1:{server.server_port}/data.zip", "version": "2"}
    return known | {"checksum": f"md5:{digest}", "bytes": len(server.content)} | changes


@pytest.mark.parametrize("top", ["", "Totalsegmentator_dataset_v201/"])
def test_an_archive_becomes_the_folder_of_the_data_set(server, tmp_path, top):
    server.content = packed(top)
    root = tmp_path / "data/ts"
    facts = archive.fetch(source(server), root, "meta.csv")
    assert facts["fetched"] and facts["checksum"] == source(server)["checksum"]
    assert sorted(p.name for p in root.iterdir()) == ["meta.csv", "s0000"]
    assert (root / "s0000/ct.nii.gz").stat().st_size == 256 * 40
    assert [p.name for p in root.parent.iterdir()] == ["ts"]  # neither the archive nor half a folder is left
    again = archive.fetch(source(server), root, "meta.csv")
    assert not again["fetched"] and server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on(server, tmp_path, ranges):
    server.most, server.ranges = 1000, ranges
    with pytest.raises(UserError, match=f"broke off after 1000 of {len(server.content)} bytes; start again"):
        archive.fetch(source(server), tmp_path / "ts", "meta.csv")
    assert not (tmp_path / "ts").exists()
    server.most = 10**9
    assert archive.fetch(source(server), tmp_path / "ts", "meta.csv")["fetched"]
    assert server.asked == [None, "bytes=1000-"]


def test_other_bytes_than_published_are_refused_and_removed(server, tmp_path):
    with pytest.raises(UserError, match=r"its md5 is .* was published; it is removed"):
        archive.fetch(source(server, checksum="md5:" + 32 * "0"), tmp_path / "ts", "meta.csv")
    assert not list(tmp_path.iterdir())


def test_what_is_no_data_set_is_refused(server, tmp_path):
    with pytest.raises(UserError, match=r"holds no other\.csv"):
        archive.fetch(source(server), tmp_path / "ts", "other.csv")
    server.content = b"no zip file at all"
    with pytest.raises(UserError, match="can't be unpacked"):
        archive.fetch(source(server), tmp_path / "two", "meta.csv")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty and has no meta\.csv"):
        archive.fetch(source(server), tmp_path / "full", "meta.csv")


def test_no_network_and_a_small_disk_are_told(server, tmp_path):
    with pytest.raises(UserError, match=r"can't be fetched.*name the folder in the configuration"):
        archive.fetch(source(server, url="http://127.0.0.1:9/data.zip"), tmp_path / "ts", "meta.csv")
    with pytest.raises(UserError, match=r"GB are free and 1000000000 GB are needed"):
        archive.fetch(source(server, bytes=10**18), tmp_path / "ts", "meta.csv")


def test_a_tar_file_of_a_size_that_is_not_published(server, tmp_path):
    server.content, server.length = tarred("Task03/"), True
    known = source(server, bytes=None)
    server.most = 100
    with pytest.raises(UserError, match="start again"):
        archive.fetch(known, tmp_path / "a", "scripts/x.py")
    server.most = 10**9
    assert archive.fetch(known, tmp_path / "a", "scripts/x.py")["fetched"]
    assert (tmp_path / "a/scripts/x.py").read_bytes() == b"yes" * 900
    assert server.asked == [None, "bytes=100-"]


def test_a_whole_archive_of_a_size_that_is_not_published_is_not_fetched_again(server, tmp_path):
    server.content = tarred("")
    (tmp_path / "a.download").write_bytes(server.content)
    assert archive.fetch(source(server, bytes=None), tmp_path / "a", "scripts/x.py")["fetched"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
