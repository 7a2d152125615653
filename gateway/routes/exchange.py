"""One request and its answer, over ASGI's two callables: what every route needs, and nothing that a stream must carry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from gateway.auth import Access, Grant, denied, everyone, read_link
from gateway.core.ingest import MAX_BODY, check_body_size
from gateway.core.problems import Headers, Problem
from processor.core.json import dumps
from processor.store.runs import RunState, read_state

if TYPE_CHECKING:
    from gateway.app import Gateway
    from processor.client.session import Session

__all__ = [
    "BODY_SECONDS",
    "DRAINED_BYTES",
    "SERVER_SECONDS",
    "ClientGone",
    "Exchange",
    "Message",
    "Receive",
    "Scope",
    "Send",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_SECONDS = 30.0
SERVER_SECONDS = 5.0
DRAINED_BYTES = 8 * MAX_BODY  # a refused body that is longer costs its connection, and may cost its sender the answer


class ClientGone(Exception):
    """The client left before its request was whole."""


class Exchange:
    """A request at a gateway. `base` is where the gateway is, as Location begins: `/tail` or `/api/default`."""

    __slots__ = ("_query", "base", "gateway", "receive", "route", "scope", "send", "unseen")

    def __init__(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send, base: str) -> None:
        self.gateway = gateway
        self.scope, self.receive, self.send = scope, receive, send
        self.base = base
        self.route = "none"  # its name in metrics and logs
        self.unseen = False  # the application was asked about a run that did not exist, so without its labels
        self._query: dict[str, list[str]] | None = None

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    def headers(self, name: str) -> list[str]:
        """Values of a header, as often as it came; name in lower case."""
        wanted = name.encode()
        return [value.decode("latin-1") for key, value in self.scope["headers"] if key.lower() == wanted]

    def headers_from(self, prefix: str) -> list[tuple[str, str]]:
        """Headers whose names begin so, as often as they came; names in lower case."""
        pairs = ((key.decode("latin-1").lower(), value.decode("latin-1")) for key, value in self.scope["headers"])
        return [(name, value) for name, value in pairs if name.startswith(prefix)]

    def header(self, name: str) -> str | None:
        """The header, several joined by commas; None if it did not come."""
        values = self.headers(name)
        return ", ".join(values) if values else None

    @property
    def query(self) -> Mapping[str, list[str]]:
        if self._query is None:
            self._query = {}
            text = self.scope.get("query_string", b"").decode("latin-1")
            for name, value in parse_qsl(text, keep_blank_values=True):
                self._query.setdefault(name, []).append(value)
        return self._query

    def parameter(self, name: str, problem: str = "bad-query") -> str | None:
        """A query parameter that may come once; None if it is absent or empty. Raises Problem."""
        values = self.query.get(name, [])
        if len(values) > 1:
            raise Problem(
                problem, f"{name} came {len(values)} times.", field=name, value=values[1], remedy=f"Give one {name}."
            )
        return values[0] or None if values else None

    def whole(self, name: str, problem: str, default: int, most: int) -> int:
        """A query parameter that is a whole number from 1. Raises Problem."""
        text = self.parameter(name, problem)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
            raise Problem(
                problem,
                f"{name} is {text[:100]!r}.",
                field=name,
                value=text,
                remedy=f"Give a whole number from 1 to {most}, or leave it out: {default}.",
            )
        return int(text)

    async def session(self) -> Session:
        """The namespace's connections in this loop. Raises ServerError."""
        async with asyncio.timeout(SERVER_SECONDS):
            session = await self.gateway.tail.session()
        session.keep_passes()
        return session

    async def state(self, run: str) -> RunState | None:
        session = await self.session()
        async with asyncio.timeout(SERVER_SECONDS):
            return await read_state(session, run)

    async def known(self, run: str) -> RunState:
        """Raises Problem unknown-run."""
        return known(await self.state(run), run)

    async def permit(self, access: Access) -> datetime | None:
        """Until when this may be done; None without an end. Raises Problem: denied, token-expired."""
        until = self._link(access)
        if until is not None:
            return until
        authorize = self.gateway.authorize
        if authorize is everyone:
            return None
        if access.run is not None and access.scope != "start":
            state = await self.state(access.run)
            self.unseen = state is None
            if state is not None:
                access = Access(access.scope, access.run, state.thread, state.labels)
        try:
            granted = await authorize(HTTPConnection(self.scope), access)
        except HTTPException as refusal:
            status = refusal.status_code if refusal.status_code in (401, 403) else 403
            raise Problem(
                "denied", str(refusal.detail), status=status, remedy="Sign in as somebody who may."
            ) from refusal
        if isinstance(granted, Grant):
            if granted.until is not None and granted.until <= datetime.now(UTC):
                raise denied(access)
            return granted.until
        if not granted:
            raise denied(access)
        return None

    def _link(self, access: Access) -> datetime | None:
        """A link permits GET and HEAD of its run, nothing else; there it is judged also where it is not needed."""
        if access.scope != "read" or access.run is None or self.method not in ("GET", "HEAD"):
            return None
        tokens = self.query.get("token", [])
        if not tokens:
            return None
        gateway = self.gateway
        return read_link(
            tokens[0] if len(tokens) == 1 else "",
            gateway.tail.settings.jwt_key,
            namespace=gateway.tail.settings.namespace,
            run=access.run,
            now=datetime.now(UTC),
            cursor=self.header("last-event-id") or self.query.get("after", [None])[0],
        )

    async def body(self) -> bytes:
        """The whole body. Raises Problem: body-too-large, before reading where Content-Length says so; timeout."""
        declared = self.header("content-length")
        if declared is not None and declared.isascii() and declared.isdigit():
            length = int(declared[:18])  # what is longer is too large by far, and no int() need read it
            self._check_size(length, whole=length <= DRAINED_BYTES)
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    size += len(chunk)
                    if size <= MAX_BODY:
                        chunks.append(chunk)
                    elif size > DRAINED_BYTES:
                        break
        except TimeoutError as error:
            raise Problem(
                "timeout",
                f"The body was not whole after {BODY_SECONDS:.0f} s.",
                remedy="Send it again under the same producer and number.",
                headers=[(b"connection", b"close")],
            ) from error
        self._check_size(size, whole=not more)
        return b"".join(chunks)

    def _check_size(self, size: int, *, whole: bool) -> None:
        """whole: the server reads the rest of the body away, so the connection can serve on."""
        try:
            check_body_size(size)
        except Problem as problem:
            if not whole:
                problem.headers = (*problem.headers, (b"connection", b"close"))
            raise

    async def answer(self, status: int, body: bytes, media: str = "application/json", headers: Headers = ()) -> None:
        """The whole answer; HEAD gets the head alone."""
        head: list[tuple[bytes, bytes]] = [
            (b"content-type", media.encode()),
            (b"content-length", b"%d" % len(body)),
            *headers,
        ]
        if not any(name == b"cache-control" for name, _ in headers):
            head.append((b"cache-control", b"no-store"))
        await self.send({"type": "http.response.start", "status": status, "headers": head})
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def answer_json(self, status: int, value: object, headers: Headers = ()) -> None:
        await self.answer(status, dumps(value), headers=headers)

    async def answer_empty(self, status: int, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await self.send({"type": "http.response.body", "body": b""})


def known(state: RunState | None, run: str) -> RunState:
    """Raises Problem unknown-run."""
    if state is None:
        raise unknown_run(run)
    return state


def unknown_run(run: str) -> Problem:
    return Problem("unknown-run", f"There is no run {run}: it never began, or it expired.", field="run", value=run)
