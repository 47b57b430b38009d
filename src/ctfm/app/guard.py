"""What every request must pass and every answer carries: this server is for the browser beside it, not for others.

A page of a stranger that is open in the same browser could send requests here. Its own name made to point here (DNS
rebinding) is refused by the ``Host`` header; what it sends from its own name, by ``Origin``; what it embeds from
here, by ``Cross-Origin-Resource-Policy``. Our own page may load nothing from elsewhere (``Content-Security-Policy``).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

READING = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' data: "
    "blob:; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Around the whole site.

    Args:
        app: the site.
        names: host names that it may be called by, besides ``localhost``, this machine's and any address.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self.app = app
        self.names = {"localhost", socket.gethostname().lower(), *names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse, or hand on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store" if scope["path"].startswith("/api/") else "no-cache")
            await send(message)

        fault = self.fault(scope["method"], Headers(scope=scope))
        answer = JSONResponse({"error": fault}, 403) if fault else self.app
        await answer(scope, receive, guarded)

    def fault(self, method: str, headers: Headers) -> str:
        """Return why a request is refused, or nothing."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.known(hosts[0]):
            return "this server doesn't answer to that host name"
        if method in READING:
            return ""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin not in (None, f"http://{hosts[0]}") or site not in (None, "same-origin", "none"):
            return "only the page of this server may ask for that"
        return ""

    def known(self, host: str) -> bool:
        """Return whether a ``Host`` header names this server; an address can't be made to point elsewhere."""
        name = host.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
