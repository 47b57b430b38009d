"""Limits of what is read from requests, and errors as sentences."""

from __future__ import annotations

import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ctfm.app import answers
from ctfm.app.jobs import Busy
from ctfm.errors import Quarantine


def request(query="", parts=()):
    queue = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    queue.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return queue.pop(0)

    return Request({"type": "http", "query_string": query.encode(), "headers": []}, receive)


@pytest.mark.parametrize("query", ["", "a=", "a=x", "a=nan", "a=inf", "a=-1", "a=11", "a=1e999"])
def test_numbers_are_numbers_within_their_limits(query):
    with pytest.raises(HTTPException, match="'a' must be"):
        answers.number(request(query), "a", 0, 10)


def test_a_number_is_read():
    assert answers.number(request("a=2.5"), "a", 0, 10) == 2.5


def test_bodies_end_where_they_are_too_long(tmp_path):
    assert asyncio.run(answers.body(request(parts=[b"ab", b"c"]), 3)) == b"abc"
    with pytest.raises(HTTPException, match="too long"):
        asyncio.run(answers.body(request(parts=[b"ab", b"cd"]), 3))
    with pytest.raises(HTTPException, match="has more than"):
        asyncio.run(answers.save(request(parts=[b"ab", b"cd"]), tmp_path / "a", 3))
    assert (tmp_path / "a").stat().st_size <= 3
    with pytest.raises(HTTPException, match="empty"):
        asyncio.run(answers.save(request(), tmp_path / "a", 3))


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (Quarantine("not_3d", "four axes"), 422, "this scan can't be used (not_3d): four axes"),
        (Busy(), 429, "waiting already"),
        (HTTPException(404, "no"), 404, "no"),
        (TimeoutError(), 408, "slowly"),
        (RuntimeError("/secret/path"), 500, "something went wrong"),
    ],
)
def test_errors_are_sentences(error, status, text):
    answer = answers.failed(request(), error)
    assert answer.status_code == status and text in answer.body.decode() and "secret" not in answer.body.decode()
