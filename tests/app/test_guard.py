"""Whose requests are answered."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from ctfm.app.guard import HEADERS


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8765", "127.0.0.1:1", "[::1]:8765", "192.168.0.7", "LOCALHOST"]
)
def test_this_machine_and_addresses_are_hosts(client, host):
    assert client.get("/api/state", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8765",
        "",
        "[evil]",
        "localhost@x",
    ],
)
def test_other_names_are_refused_so_that_none_can_be_made_to_point_here(client, host):
    answer = client.get("/api/state", headers={"Host": host})
    assert answer.status_code == 403 and "scans" not in answer.text


def test_the_name_that_it_was_told_to_listen_on_is_known(site):
    from ctfm.app.site import build

    asked = TestClient(build(site, ("ct.lan",)), base_url="http://ct.lan")
    assert asked.get("/api/state").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://localhost"},
        {"Origin": "http://localhost:99"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/scans"), ("POST", "/api/searches"), ("DELETE", "/api/scans/1")]
)
def test_pages_of_strangers_change_nothing(client, headers, method, path):
    assert client.request(method, path, headers=headers).status_code == 403


def test_its_own_page_and_programs_may(client):
    for headers in ({"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}, {}):
        assert client.post("/api/searches", headers=headers, content=b"{}").status_code == 422


@pytest.mark.parametrize("path", ["/", "/api/state", "/static/js/page.js", "/api/scans/99", "/nothing"])
def test_every_answer_carries_the_headers(client, path):
    answer = client.get(path)
    for key, value in HEADERS.items():
        assert answer.headers[key] == value
    assert answer.headers["cache-control"] == ("no-store" if path.startswith("/api/") else "no-cache")
    assert "access-control-allow-origin" not in answer.headers
    assert "unsafe" not in answer.headers["content-security-policy"]
