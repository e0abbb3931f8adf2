"""Who may ask: loopback names, this page's own requests, the holder of the token; reading only.

Any web page that is open in a browser can send requests to this machine, and can let its own name point
here. So the name in Host must be one of ours, a request that another site caused is refused, and a random
token from the printed address turns into a cookie that only this server knows by name.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
TOKEN_BYTES = 32
MAX_TARGET_CHARS = 4_096
"""Of path and query together."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
)
SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
        "cache-control": "no-store",
    }
)
_OWN_SITES = frozenset({"same-origin", "none"})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The secrets of one server, new at every start, and the names that it answers to."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES), repr=False)
    """In the printed address; 256 random bits."""
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES), repr=False)
    """What a browser holds in its place."""
    server_id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Part of the cookie's name: browsers do not keep cookies of different ports apart."""
    names: frozenset[str] = LOOPBACK_NAMES
    """Names in Host that are accepted, without the port: a tunnel may end at another one."""
    accepts_addresses: bool = False
    """Whether a literal address is accepted, too: it cannot be made to point here by somebody else."""

    @property
    def cookie_name(self) -> str:
        """Name of the cookie."""
        return f"esper_{self.server_id}"


@final
class Guard:
    """The outermost layer of the application: nothing behind it sees a request that is refused."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Stand before an application."""
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await _close_socket(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = refuse(scope, headers, self._access) or self._admit(scope, headers)
        await (answer or self._app)(scope, receive, _with_headers(send))

    def _admit(self, scope: Scope, headers: Headers) -> Response | None:
        given = token_of(scope["query_string"])
        if given is not None:
            if scope["path"] == "/" and _is_same(given, self._access.token):
                answer = RedirectResponse("/", status_code=303)
                answer.set_cookie(
                    self._access.cookie_name, self._access.cookie, httponly=True, samesite="strict", path="/"
                )
                return answer
            return _deny(401, "this token is not the one that `esper dash` printed")
        if _is_same(bearer_of(headers), self._access.token):
            return None
        if _is_same(cookie_of(headers, self._access.cookie_name), self._access.cookie):
            return None
        return _deny(401, "open the address that `esper dash` printed: it holds the token of this server")


def refuse(scope: Scope, headers: Headers, access: Access) -> Response | None:
    """Return why a request is refused whoever sent it; None = it may be asked for its token."""
    if scope["method"] not in ("GET", "HEAD"):
        return _deny(405, "this page only reads: GET and HEAD", allow="GET, HEAD")
    if headers.get("content-length", "0").strip() != "0" or "transfer-encoding" in headers:
        return _deny(413, "a request has no body here")
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET_CHARS:
        return _deny(414, f"an address has at most {MAX_TARGET_CHARS} characters")
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_own_host(hosts[0], access):
        return _deny(403, "unknown Host: open this page as localhost or 127.0.0.1, or name it with --host")
    origin = headers.get("origin")
    if origin is not None and origin.casefold() != f"{scope['scheme']}://{hosts[0]}".casefold():
        return _deny(403, "another site asked for this")
    site = headers.get("sec-fetch-site")
    if site is not None and site not in _OWN_SITES:
        return _deny(403, "another site asked for this")
    return None


def is_own_host(host: str, access: Access) -> bool:
    """Whether a Host header names this server; any port will do."""
    name = host.casefold()
    if name.startswith("["):
        name, _, port = name.partition("]")
        name, port = name + "]", port.removeprefix(":")
    else:
        name, _, port = name.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return False
    return name in access.names or (access.accepts_addresses and _is_address(name.strip("[]")))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def token_of(query: bytes) -> str | None:
    """Return the token of a query string; None = it has none."""
    for part in query.decode("ascii", "replace").split("&"):
        key, found, value = part.partition("=")
        if key == "token" and found:
            return value
    return None


def bearer_of(headers: Headers) -> str:
    """Return the token of an Authorization header; empty = there is none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.casefold() == "bearer" else ""


def cookie_of(headers: Headers, name: str) -> str:
    """Return the value of a cookie; empty = there is none."""
    for part in headers.get("cookie", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value
    return ""


def _is_same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())


def _deny(status: int, reason: str, allow: str = "") -> Response:
    headers = {"connection": "close"} | ({"allow": allow} if allow else {})
    return PlainTextResponse(reason + "\n", status_code=status, headers=headers)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
        await send(message)

    return send_with_headers


async def _close_socket(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
