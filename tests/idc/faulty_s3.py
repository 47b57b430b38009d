"""An S3 server on this machine that fails on demand: listings in pages, GET with ranges, HEAD, and faults."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "idc-open-data"
LISTING = "?list"
CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}
# Faults of a body, by name; a number is the HTTP status that a request is answered with.
DROP = "drop"  # half of the body, then a reset connection
SHORT = "short"  # half of the body, then a closed connection; the header promised all of it
CUT = "cut"  # half of the body, and a header that promises no more
EMPTY = "empty"  # no body, and a header that promises none
HANG = "hang"  # half of the body, then silence
MUTE = "mute"  # no answer at all
REDIRECT = "redirect"  # 307 to the same object under another address


class FaultyS3:
    """Public objects of one bucket. What ``fail`` names goes wrong so many times, or always.

    Attributes:
        objects: content by key, such as ``series/0.dcm``.
        omitted: keys that listings leave out.
        page: keys in one page of a listing.
        requests: how often each key was asked for with GET; listings count under ``LISTING``.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.omitted: set[str] = set()
        self.page = 1000
        self.requests: Counter[str] = Counter()
        self._faults: dict[str, tuple[str | int, float]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyS3:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fail(self, key: str, kind: str | int, times: float = float("inf")) -> None:
        """Let the next requests for a key fail; ``LISTING`` and ``BUCKET`` are keys too, ``*`` is everything."""
        self._faults[key] = (kind, times)

    def mend(self) -> None:
        """Let everything go well from now on."""
        self._faults.clear()

    def silence(self) -> None:
        """Say nothing until the server ends."""
        self._closing.wait(60)

    def fault(self, key: str, count: int = 1) -> str | int | None:
        """Count a request and return what goes wrong with it."""
        with self._lock:
            self.requests[key] += count
            for name in (key, "*"):
                kind, left = self._faults.get(name, ("", 0))
                if left > 0:
                    self._faults[name] = (kind, left - 1)
                    return kind
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Keep quiet of clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    store: FaultyS3
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        key = unquote(address.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        fault = self.store.fault(key or LISTING)
        if isinstance(fault, int):
            self._error(fault)
        elif fault == MUTE:
            self._drop(silent=True)
        elif fault == REDIRECT:
            self._redirect(address.path)
        elif not key:
            self._body(self._list({name: values[0] for name, values in parse_qs(address.query).items()}), fault)
        elif key not in self.store.objects:
            self._error(404)
        else:
            self._body(self.store.objects[key], fault)

    def do_HEAD(self) -> None:
        key = unquote(urlsplit(self.path).path).strip("/").removeprefix(f"{BUCKET}/")
        content = b"" if key == BUCKET else self.store.objects.get(key)
        fault = self.store.fault(key, count=0)
        status = fault if isinstance(fault, int) else 404 if content is None else 200
        self._head(status, 0 if status != 200 else len(content or b""))

    def _body(self, content: bytes, fault: str | int | None) -> None:
        start, stop = 0, len(content)
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(span[1]), min(stop, int(span[2] or stop - 1) + 1)
            if start >= len(content):
                self._error(416)
                return
        body, half = content[start:stop], content[start : start + (stop - start) // 2]
        promised = {CUT: half, EMPTY: b""}.get(str(fault), body)
        whole = len(content) if promised is body else start + len(promised)
        extra = {"Content-Range": f"bytes {start}-{start + max(len(promised), 1) - 1}/{whole}"} if span else {}
        self._head(206 if span else 200, len(promised), {"Last-Modified": _DATE, "ETag": '"x"', **extra})
        self.wfile.write(half if fault in (DROP, SHORT, HANG) else promised)
        self.wfile.flush()
        if fault in (DROP, SHORT, HANG):
            self._drop(silent=fault == HANG, reset=fault == DROP)

    def _drop(self, silent: bool = False, reset: bool = False) -> None:
        if silent:
            self.store.silence()
        if reset:  # no lingering: the other side sees a reset, not an end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _redirect(self, path: str) -> None:
        self._head(307, 0, {"Location": f"{self.store.url}{path}?moved"})

    def _list(self, query: dict[str, str]) -> bytes:
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        keys = sorted(k for k in self.store.objects if k.startswith(prefix) and k not in self.store.omitted)
        later = [key for key in keys if key > after]
        page = later[: self.store.page]
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(later) > len(page) else ""
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>x</ETag><Size>{len(self.store.objects[key])}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key in page
        )
        return _xml(
            f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<MaxKeys>{self.store.page}</MaxKeys><IsTruncated>{'true' if more else 'false'}</IsTruncated>"
            f"{more}{entries}</ListBucketResult>"
        )

    def _error(self, status: int) -> None:
        code = CODES.get(status, "InvalidRange")
        body = _xml(f"<Error><Code>{code}</Code><Message>{code}</Message><RequestId>1</RequestId></Error>")
        self._head(status, len(body))
        self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()


def _xml(text: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()


_DATE = "Mon, 01 Jan 2024 00:00:00 GMT"
