"""A stand-in for BigQuery on this machine: its REST calls for queries, carried out by DuckDB on the synthetic tables.

It knows jobs.query (and dry runs), jobs.get and jobs.getQueryResults in pages, holds jobs to maximumBytesBilled, and
can be told to refuse.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import duckdb
import pyarrow as pa
import sqlglot

from tests.idc import dicom_all

KINDS = {"VARCHAR": "STRING", "BIGINT": "INTEGER", "DOUBLE": "FLOAT"}


class Server(ThreadingHTTPServer):
    """The tables, what was asked for, and how to misbehave."""

    bytes_processed = 10**9  # of every query
    page_rows = 5
    cached = False  # every result comes from the cache and bills nothing
    refusal: tuple[int, str, str] | None = None  # status, reason, message
    refuses = ("POST", "GET")

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.headers: list[dict[str, str]] = []
        self.pages = 0
        self.lock = threading.Lock()
        self.tables = duckdb.connect()
        self.tables.execute("ATTACH ':memory:' AS \"bigquery-public-data\"")
        for release in (14, 18):
            # As BigQuery stores them: no array is NULL.
            rows = [
                row | {key: row[key] or [] for key in ("ImagePositionPatient", "ImageType")}
                for row in dicom_all.rows(release)
            ]
            self.tables.register("loaded", pa.Table.from_pylist(rows, schema=dicom_all.SCHEMA))
            self.tables.execute(f'CREATE SCHEMA "bigquery-public-data".idc_v{release}')
            self.tables.execute(f'CREATE TABLE "bigquery-public-data".idc_v{release}.dicom_all AS FROM loaded')

    def configurations(self, *, dry: bool) -> list[dict[str, Any]]:
        """Return what was asked for."""
        return [asked for asked in self.asked if bool(asked.get("dryRun")) == dry]

    def execute(self, sql: str) -> dict[str, Any]:
        with self.lock:
            (translated,) = sqlglot.transpile(sql, read="bigquery", write="duckdb")
            relation = self.tables.sql(translated)
            schema = [
                {"name": name, "type": KINDS[str(kind)], "mode": "NULLABLE"}
                for name, kind in zip(relation.columns, relation.types, strict=True)
            ]
            rows = [
                {"f": [{"v": None if value is None else str(value)} for value in row]} for row in relation.fetchall()
            ]
        return {"schema": {"fields": schema}, "rows": rows}


class Refused(Exception):
    """An error in BigQuery's form."""


class Handler(BaseHTTPRequestHandler):
    """The REST calls."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(lambda project, parts: self._query(project, parts, body))

    def do_GET(self) -> None:
        self._answer(self._get)

    def _answer(self, make: Any) -> None:
        self.server.headers.append(dict(self.headers))
        _, _, _, project, *parts = urlparse(self.path).path.strip("/").split("/")
        status, answer = 200, {}
        try:
            if self.server.refusal and self.command in self.server.refuses:
                raise Refused(*self.server.refusal)
            answer = make(project, parts)
        except Refused as error:
            status, reason, message = error.args
            answer = {"error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _query(self, project: str, parts: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        server = self.server
        assert parts == ["queries"], parts
        server.asked.append(asked | {"project": project})
        limit, processed = asked.get("maximumBytesBilled"), server.bytes_processed
        if limit is not None and processed > int(limit):
            raise Refused(400, "bytesBilledLimitExceeded", f"Query exceeded limit for bytes billed: {limit}")
        found = {"kind": "bigquery#queryResponse", "totalBytesProcessed": str(processed), "jobComplete": True}
        if asked.get("dryRun"):  # no job is made
            return found | {"jobReference": {"projectId": project, "location": "US"}}
        name = asked["requestId"]
        server.results[name] = server.execute(asked["query"])
        statistics = {
            "statementType": "SELECT",
            "totalBytesProcessed": str(processed),
            "totalBytesBilled": "0" if server.cached else str(processed),
        }
        server.jobs[name] = {
            "kind": "bigquery#job",
            "jobReference": {"projectId": project, "jobId": name, "location": "US"},
            "configuration": {"query": {"query": asked["query"]}},
            "status": {"state": "DONE"},
            "statistics": {"totalBytesProcessed": str(processed), "query": statistics},
        }
        return found | self._page(name, 0, server.page_rows)

    def _get(self, project: str, parts: list[str]) -> dict[str, Any]:
        server, (kind, name) = self.server, parts
        if kind == "jobs":
            return server.jobs[name]
        asked = parse_qs(urlparse(self.path).query)
        first, rows = (int(asked.get(key, [value])[0]) for key, value in (("pageToken", 0), ("maxResults", 10**6)))
        return self._page(name, first, min(rows, server.page_rows))

    def _page(self, name: str, first: int, count: int) -> dict[str, Any]:
        result = self.server.results[name]
        answer = {
            "jobReference": self.server.jobs[name]["jobReference"],
            "jobComplete": True,
            "schema": result["schema"],
            "totalRows": str(len(result["rows"])),
            "rows": result["rows"][first : first + count],
        }
        if count:
            self.server.pages += 1
        if first + count < len(result["rows"]):
            answer["pageToken"] = str(first + count)
        return answer


@contextmanager
def running() -> Iterator[Server]:
    """Yield a server that listens on a port of the loopback device."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
