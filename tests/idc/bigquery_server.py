"""A stand-in for BigQuery on this machine: its REST calls for queries, carried out by DuckDB on the synthetic tables.

It knows jobs.insert (and dry runs), jobs.get and jobs.getQueryResults in pages, holds jobs to maximumBytesBilled, and
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
        """Return what jobs were asked for."""
        asked = [job["configuration"] for job in self.jobs.values()]
        return [one for one in asked if bool(one.get("dryRun")) == dry]

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
        self._answer(lambda project, parts: self._insert(project, body))

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

    def _insert(self, project: str, body: dict[str, Any]) -> dict[str, Any]:
        server, asked = self.server, body["configuration"]
        name = body["jobReference"]["jobId"]
        limit = asked["query"].get("maximumBytesBilled")
        processed = server.bytes_processed
        if limit is not None and processed > int(limit):
            raise Refused(400, "bytesBilledLimitExceeded", f"Query exceeded limit for bytes billed: {limit}")
        if not asked.get("dryRun"):
            server.results[name] = server.execute(asked["query"]["query"])
        billed = 0 if server.cached else processed
        server.jobs[name] = {
            "kind": "bigquery#job",
            "jobReference": {"projectId": project, "jobId": name, "location": "US"},
            "configuration": asked,
            "status": {"state": "DONE"},
            "statistics": {
                "totalBytesProcessed": str(processed),
                "query": {
                    "statementType": "SELECT",
                    "totalBytesProcessed": str(processed),
                    "totalBytesBilled": str(billed),
                },
            },
        }
        return server.jobs[name]

    def _get(self, project: str, parts: list[str]) -> dict[str, Any]:
        server, (kind, name) = self.server, parts
        if kind == "jobs":
            return server.jobs[name]
        asked = parse_qs(urlparse(self.path).query)
        result, first = server.results[name], int(asked.get("pageToken", ["0"])[0])
        count = min(int(asked.get("maxResults", [server.page_rows])[0]), server.page_rows)
        answer = {
            "jobReference": server.jobs[name]["jobReference"],
            "jobComplete": True,
            "schema": result["schema"],
            "totalRows": str(len(result["rows"])),
            "rows": result["rows"][first : first + count],
        }
        if count:
            server.pages += 1
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
