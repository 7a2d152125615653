"""Who may do what: the application's own word, signed links that permit one run, and origins that may read."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import jwt
import structlog
from starlette.requests import HTTPConnection

from gateway.core.problems import Headers, Problem

__all__ = [
    "Access",
    "Authorize",
    "Cors",
    "Grant",
    "check_host",
    "denied",
    "everyone",
    "expired",
    "is_loopback",
    "links_only",
    "read_link",
]

log = structlog.get_logger("tailrace.gateway")


@dataclass(frozen=True, slots=True)
class Access:
    """What somebody wants to do.

    scope: list (runs, live, groups), start, read (state and events), append, cancel, answer, or metrics of a mounted gateway.
    run: its ID, None for list; for start the one asked for. thread: of the run. labels: of the run, none while it does
    not exist; for list those it is filtered by, for start those it is to have.
    """

    scope: Literal["list", "start", "read", "append", "cancel", "answer", "metrics"]
    run: str | None = None
    thread: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Permission. until: when it ends (a datetime with zone); a stream that is open then ends with tailrace.denied."""

    until: datetime | None = None


Authorize = Callable[[HTTPConnection, Access], Awaitable[Grant | bool]]


async def everyone(connection: HTTPConnection, access: Access) -> bool:
    """Permits everything to everybody."""
    return True


async def links_only(connection: HTTPConnection, access: Access) -> bool:
    """Permits nothing by itself: what remains is reading with a link."""
    return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that binds host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(scope: Mapping[str, Any], public_url: str | None) -> None:
    """Whether a request to a gateway that asks nobody names this machine, or where a proxy shows it.

    A page may point its own name at 127.0.0.1 (DNS rebinding): then its origin equals the Host, and a browser lets it read
    and write. Raises Problem denied (403), which is logged too.
    """
    shown = None if public_url is None else urlsplit(public_url).hostname
    for key, value in scope["headers"]:
        if key != b"host":
            continue
        host = bytes(value).decode("latin-1")
        name = _hostname(host)
        if name != shown and not is_loopback(name) and not name.endswith(".localhost"):
            log.warning("host_refused", host=host[:200])
            raise Problem(
                "denied",
                f"This gateway asks nobody who they are and answers on this machine only, not as {host[:200]!r}.",
                status=403,
                field="Host",
                value=host,
                remedy="Use http://localhost, or set TAILRACE_PUBLIC_URL to the address at which your proxy shows it.",
            )


def _hostname(host: str) -> str:
    """A Host header without its port, in lower case; empty if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def read_link(token: str, key: str | None, *, namespace: str, run: str, now: datetime, cursor: str | None) -> datetime:
    """When the link ends that this token is, for GET and HEAD of a run and its events.

    cursor: what the reader brought, for the remedy. Raises Problem: token-expired (401), denied (401).
    """
    if not key:
        raise _invalid_link("This gateway has no key and takes no links.")
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=["HS256"],
            options={"require": ["exp", "ns", "run"], "verify_exp": False},
        )
        until = datetime.fromtimestamp(_seconds(claims["exp"]), UTC)
    except (jwt.PyJWTError, ValueError, OverflowError, OSError) as error:
        raise _invalid_link("The link is not valid.") from error
    if claims["run"] != run or claims["ns"] != namespace:
        raise _invalid_link("The link is for another run.")
    if until <= now:
        raise expired(until, now, cursor)
    return until


def _seconds(exp: object) -> float:
    if isinstance(exp, bool) or not isinstance(exp, int | float):
        raise ValueError("exp is no number")
    return exp


def _invalid_link(detail: str) -> Problem:
    return Problem(
        "denied",
        detail,
        status=401,
        field="token",
        remedy="Get a new one from your server (run.link()).",
        headers=[(b"www-authenticate", b"Bearer")],
    )


def expired(until: datetime, now: datetime, cursor: str | None) -> Problem:
    """A link that has ended. cursor: the last ID that the reader has, None if it has none."""
    seconds = max(0, round((now - until).total_seconds()))
    ago = "just now" if seconds == 0 else f"{seconds} s ago"
    reconnect = f" and reconnect with ?after={cursor}" if cursor and cursor != "0" else ""
    return Problem(
        "token-expired",
        f"the link ended {ago} ({until.astimezone(UTC):%H:%M:%SZ}).",
        field="token",
        remedy=f"Nothing is lost: get a new one from your server (run.link()){reconnect}",
        headers=[(b"www-authenticate", b"Bearer")],
    )


def denied(access: Access) -> Problem:
    """403: somebody who may not."""
    what = f"{access.scope} run {access.run}" if access.run else access.scope
    return Problem(
        "denied",
        f"You may not {what}.",
        status=403,
        field="run" if access.run else None,
        value=access.run,
        remedy="Sign in as somebody who may, or ask for a link.",
    )


class Cors:
    """Which pages may read. Nothing is said to others, and `*` is never said."""

    def __init__(self, origins: Sequence[str], *, public_url: str | None = None) -> None:
        """origins: as `https://app.example.com`. public_url: where a proxy shows this gateway; its pages are our own."""
        self._listed = {_normal(origin): origin.rstrip("/") for origin in origins}
        self._own = None if public_url is None else _normal(public_url)

    def headers(self, scope: Mapping[str, Any]) -> Headers:
        """Headers of the answer to this request. Raises Problem cors-refused (403), which is logged too."""
        origin = _header(scope, b"origin")
        if origin is None:
            return ()
        if _normal(origin) in self._listed:
            return (
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-allow-credentials", b"true"),
                (b"access-control-expose-headers", b"location, retry-after"),
                (b"vary", b"origin"),
            )
        if self._is_own(origin, scope):
            return ()
        allowed = ", ".join(self._listed.values()) or "none"
        log.warning("cors_refused", origin=origin[:200], allowed=allowed)
        raise Problem(
            "cors-refused",
            f"origin {origin[:200]} may not read this gateway (allowed: {allowed}).",
            field="Origin",
            value=origin,
            remedy=f"Set TAILRACE_CORS_ORIGINS={','.join([*self._listed.values(), origin[:200]])}, "
            "or return FeedResponse from a route of the page's own server.",
        )

    def preflight(self, scope: Mapping[str, Any], allow: str) -> Headers:
        """Headers of the answer to OPTIONS. allow: methods of the route, joined by commas."""
        try:
            headers = self.headers(scope)
        except Problem:
            return ()  # 204 without a word is how a browser is told no
        if not headers:
            return ()
        return (
            *headers,
            (b"access-control-allow-methods", allow.encode()),
            (
                b"access-control-allow-headers",
                b"authorization, content-type, last-event-id, tailrace-number, tailrace-prev, tailrace-producer",
            ),
            (b"access-control-max-age", b"600"),
        )

    def _is_own(self, origin: str, scope: Mapping[str, Any]) -> bool:
        host = _header(scope, b"host")
        if host is not None and _normal(origin) == _normal(f"{scope.get('scheme', 'http')}://{host}"):
            return True
        return self._own is not None and _normal(origin) == self._own


def _header(scope: Mapping[str, Any], name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


def _normal(origin: str) -> str:
    """Scheme, host and port, the port also where it is the usual one."""
    try:
        parts = urlsplit(origin)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        return origin
    return f"{parts.scheme}://{parts.hostname}:{port}" if parts.hostname else origin
