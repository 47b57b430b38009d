"""What the site reads from requests, with limits, and how its errors are told: always ``{"error": a sentence}``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ctfm.app.jobs import Busy
from ctfm.errors import Quarantine, UserError


def number(request: Request, key: str, low: float, high: float) -> float:
    """Return a number of the address.

    Raises:
        HTTPException: it is missing, none, or outside of ``low`` to ``high``.
    """
    try:
        value = float(request.query_params[key])
    except (KeyError, ValueError) as error:
        raise HTTPException(422, f"'{key}' must be a number") from error
    if not (math.isfinite(value) and low <= value <= high):
        raise HTTPException(422, f"'{key}' must be from {low:g} to {high:g}")
    return value


async def body(request: Request, largest: int) -> bytes:
    """Return the whole of a small body.

    Raises:
        HTTPException: it has more than ``largest`` bytes.
    """
    whole = b""
    async for part in request.stream():
        whole += part
        if len(whole) > largest:
            raise HTTPException(413, "the question is too long")
    return whole


async def save(request: Request, path: Path, largest: int) -> None:
    """Write a body to a file as it comes in.

    Raises:
        HTTPException: it has more than ``largest`` bytes, whatever was declared, or none.
    """
    have = 0
    with path.open("wb") as file:
        async for part in request.stream():
            have += len(part)
            if have > largest:
                raise HTTPException(413, f"the file has more than {largest / 2**20:.0f} MiB")
            file.write(part)
    if not have:
        raise HTTPException(422, "the file is empty")


def failed(_: Request, error: Exception) -> Response:
    """Return the answer for an exception that an endpoint raised."""
    status, text = 500, "something went wrong here; the server's log tells more"
    if isinstance(error, HTTPException):
        status, text = error.status_code, str(error.detail)
    elif isinstance(error, Quarantine):
        status, text = 422, f"this scan can't be used ({error.code}): {error.detail}"
    elif isinstance(error, ValidationError):
        first = error.errors()[0]
        status, text = 422, f"{'.'.join(map(str, first['loc'])) or 'question'}: {first['msg']}"
    elif isinstance(error, Busy):
        status, text = 429, "other searches are waiting already; try again in a moment"
    elif isinstance(error, TimeoutError):
        status, text = 408, "the file came too slowly"
    elif isinstance(error, UserError):
        status, text = 507, str(error)
    return JSONResponse({"error": text}, status)


TOLD = (HTTPException, Quarantine, ValidationError, Busy, TimeoutError, UserError, ClientDisconnect, Exception)
HANDLERS: Mapping[Any, Any] = dict.fromkeys(TOLD, failed)
