"""Queries on BigQuery, against a stand-in that carries them out: billing, pages, and what goes wrong."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator

import google.auth
import pytest
import typer
from google.auth import exceptions as auth_exceptions

from ctfm.config import Select
from ctfm.errors import UserError
from ctfm.idc import bigquery
from tests.idc import bigquery_server

TABLE = "`bigquery-public-data.idc_v18.dicom_all`"
ROWS = f"SELECT SeriesInstanceUID, COUNT(*) AS n, MIN(SAFE_CAST(SliceThickness AS float64)) AS thickness FROM {TABLE} "
ROWS += "GROUP BY SeriesInstanceUID ORDER BY SeriesInstanceUID"
COUNT = f"SELECT COUNT(*) AS n FROM {TABLE}"
GB = 10**9


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[bigquery_server.Server]:
    with bigquery_server.running() as server:
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "who-pays")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have a person at a terminal who says yes; return the questions."""
    asked: list[str] = []

    def confirm(text: str, err: bool = False) -> bool:
        asked.append(text)
        return True

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", confirm)
    return asked


def test_all_pages_of_all_queries(server: bigquery_server.Server) -> None:
    (rows, count), facts = bigquery.run([ROWS, COUNT], Select())
    wanted = server.tables.sql(
        'SELECT SeriesInstanceUID, count(*), min(TRY_CAST(SliceThickness AS DOUBLE)) FROM "bigquery-public-data"'
        ".idc_v18.dicom_all GROUP BY ALL ORDER BY 1"
    ).fetchall()
    assert len(wanted) > 2 * server.page_rows
    assert server.pages > len(wanted) // server.page_rows
    assert rows["SeriesInstanceUID"].tolist() == [row[0] for row in wanted]
    assert rows["n"].tolist() == [row[1] for row in wanted]
    assert rows["n"].dtype == "int64" and rows["thickness"].dtype == "float64"
    known = [row[2] for row in wanted if row[2] is not None and row[2] == row[2]]
    assert sorted(rows["thickness"].dropna()) == sorted(known)
    assert count["n"].tolist() == [sum(row[1] for row in wanted)]
    assert facts == {"bytes_estimated": 2 * GB, "bytes_billed": 2 * GB}


def test_dry_runs_come_first_and_jobs_are_guarded(
    server: bigquery_server.Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        bigquery.run([ROWS, COUNT], Select(bigquery_limit_gigabytes=7))
    assert "will bill 2.00 GB on BigQuery (select.bigquery_limit_gigabytes: 7)" in caplog.messages[0]
    assert [bool(asked.get("dryRun")) for asked in server.asked] == [True, True, False, False]
    guards = [int(asked["maximumBytesBilled"]) for asked in server.configurations(dry=False)]
    assert guards == [7 * GB, 6 * GB]  # what the first one billed is no longer there for the second
    assert {asked["project"] for asked in server.asked} == {"who-pays"}


def test_an_emulator_gets_no_credentials(server: bigquery_server.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google.auth, "default", lambda **_: pytest.fail("looked for credentials"))
    bigquery.run([COUNT], Select())
    assert server.headers and not any("authorization" in map(str.lower, one) for one in server.headers)


def test_too_much_without_a_terminal_is_refused(
    server: bigquery_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    with pytest.raises(UserError, match=r"^select\.bigquery_limit_gigabytes: .*2\.00 GB.*raise it.*backend to duckdb$"):
        bigquery.run([ROWS, COUNT], Select(bigquery_limit_gigabytes=1.5))
    assert not server.configurations(dry=False)


def test_too_much_is_asked_about(server: bigquery_server.Server, terminal: list[str]) -> None:
    _, facts = bigquery.run([ROWS, COUNT], Select(bigquery_limit_gigabytes=1.5))
    assert len(terminal) == 1 and "2.00 GB" in terminal[0]
    assert facts["bytes_billed"] == 2 * GB
    guards = [int(asked["maximumBytesBilled"]) for asked in server.configurations(dry=False)]
    assert 2 * GB < guards[0] < 2.1 * GB  # what was agreed to, and no more


def test_a_no_runs_nothing(
    server: bigquery_server.Server, terminal: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: False)
    with pytest.raises(UserError, match="which was refused"):
        bigquery.run([COUNT], Select(bigquery_limit_gigabytes=0.5))
    assert not server.configurations(dry=False)


def test_a_cheap_query_is_not_asked_about(server: bigquery_server.Server, terminal: list[str]) -> None:
    server.cached = True
    _, facts = bigquery.run([COUNT], Select(bigquery_limit_gigabytes=1))
    assert not terminal
    assert facts == {"bytes_estimated": GB, "bytes_billed": 0}


def test_a_wrong_estimate_bills_nothing(server: bigquery_server.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery, "_estimate", lambda client, query: 10)
    with pytest.raises(UserError, match=r"400 bytesBilledLimitExceeded: .*check .*bigquery_limit_gigabytes"):
        bigquery.run([COUNT], Select(bigquery_limit_gigabytes=0.5))
    assert not server.results


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ((403, "accessDenied", "secret@example.org may not"), r"refused \(403 accessDenied\).*BigQuery Job User"),
        ((403, "quotaExceeded", "secret quota"), r"refused \(403 quotaExceeded\)"),
        ((401, "authError", "secret token"), "no valid credentials were found; log in"),
        (
            (404, "notFound", "Not found: Dataset idc_v99"),
            r"404 notFound: Not found: Dataset idc_v99; check .*releases",
        ),
        ((400, "invalidQuery", "Unrecognized name: x"), r"400 invalidQuery: Unrecognized name: x"),
        ((503, "backendError", "secret"), r"no answer \(ServiceUnavailable\).*try later"),
    ],
)
def test_refusals(
    server: bigquery_server.Server, monkeypatch: pytest.MonkeyPatch, refusal: tuple[int, str, str], says: str
) -> None:
    monkeypatch.setattr(bigquery, "RETRY", bigquery.RETRY.with_timeout(0.1))
    server.refusal = refusal
    with pytest.raises(UserError, match=says) as caught:
        bigquery.run([COUNT], Select())
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert str(caught.value).endswith("or set select.backend to duckdb")


def test_a_job_that_fails_while_it_runs(server: bigquery_server.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.refusal, server.refuses = (400, "resourcesExceeded", "Resources exceeded during query execution"), ("GET",)
    with pytest.raises(UserError, match="400 resourcesExceeded: Resources exceeded"):
        bigquery.run([COUNT], Select())
    assert len(server.configurations(dry=False)) == 1


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "who-pays")
        monkeypatch.setattr(bigquery, "RETRY", bigquery.RETRY.with_timeout(0.1))
        with pytest.raises(UserError, match=r"no answer \(ConnectionError\); check the network"):
            bigquery.run([COUNT], Select())


def test_no_project(server: bigquery_server.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
    with pytest.raises(UserError, match=r"^GOOGLE_CLOUD_PROJECT: not set; .*backend to duckdb"):
        bigquery.run([COUNT], Select())


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """The file that the environment names is not there; what it is called is not passed on."""
    monkeypatch.delenv("BIGQUERY_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "secret.json"))
    with pytest.raises(UserError, match="no valid credentials were found; log in with 'gcloud auth") as caught:
        bigquery.run([COUNT], Select())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (auth_exceptions.RefreshError("secret", {"refresh_token": "secret"}), "no valid credentials"),
        (auth_exceptions.TransportError("secret"), "can't be reached to log in"),
    ],
)
def test_credentials_that_fail(monkeypatch: pytest.MonkeyPatch, error: Exception, says: str) -> None:
    def default(**_: object) -> None:
        raise error

    monkeypatch.delenv("BIGQUERY_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", default)
    with pytest.raises(UserError, match=says) as caught:
        bigquery.run([COUNT], Select())
    assert "secret" not in str(caught.value)
