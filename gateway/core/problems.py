"""What the gateway answers when it cannot do what was asked: one JSON object in one shape (RFC 9457's media type)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from processor.core.errors import (
    BacklogFull,
    BadInput,
    IllegalEvent,
    NotConfigured,
    RunClosed,
    RunError,
    ServerError,
    TailraceError,
    ThreadBusy,
)

__all__ = ["MEDIA_TYPE", "STATUS", "Headers", "Problem", "from_error", "retry_after_seconds"]

MEDIA_TYPE = "application/problem+json"
MAX_BYTES = 4096  # of a problem without its `results`, which number as many as the events of the body
MAX_VALUE = 200  # characters of what came

Headers = Sequence[tuple[bytes, bytes]]

STATUS: Mapping[str, int] = {
    "bad-json": 400,
    "bad-event": 400,
    "bad-name": 400,
    "bad-number": 400,
    "bad-cursor": 400,
    "cursor-beyond-tail": 400,
    "bad-limit": 400,
    "bad-query": 400,
    "bad-input": 400,
    "denied": 401,  # 403 to somebody who is known: the caller says so
    "token-expired": 401,
    "cors-refused": 403,
    "unknown-run": 404,
    "unknown-namespace": 404,
    "unknown-group": 404,
    "not-found": 404,
    "method": 405,
    "not-acceptable": 406,
    "timeout": 408,
    "hole": 409,
    "closed": 409,
    "illegal": 409,
    "stale": 409,
    "busy": 409,
    "run-exists": 409,
    "corrupt": 409,
    "event-too-large": 413,
    "too-many-events": 413,
    "body-too-large": 413,
    "media-type": 415,
    "headers-too-large": 431,
    "full": 429,
    "rate": 429,
    "internal": 500,
    "server-unreachable": 503,
    "server-read-only": 503,
    "server-full": 503,
    "draining": 503,
}

# Errors of the process rather than of the input, which WIRE has no slug for.
_OTHERS: Mapping[str, int] = {"buffer-full": 429, "events-lost": 503, "settings-error": 503}

_TITLES: Mapping[str, str] = {
    "bad-json": "The body is not JSON",
    "bad-event": "An event is not well formed",
    "bad-name": "A name is not allowed",
    "bad-number": "The producer headers are not well formed",
    "bad-cursor": "This is no cursor",
    "cursor-beyond-tail": "The cursor is beyond the end of the feed",
    "bad-limit": "The limit is not allowed",
    "bad-query": "A query parameter is not allowed",
    "bad-input": "What was given cannot be used",
    "denied": "Not allowed",
    "token-expired": "The link has expired",
    "cors-refused": "This origin may not read the gateway",
    "unknown-run": "There is no such run",
    "unknown-namespace": "There is no such namespace",
    "unknown-group": "There is no such group",
    "not-found": "There is nothing at this address",
    "method": "The method is not allowed here",
    "not-acceptable": "No form that you accept is served here",
    "timeout": "The request took too long to arrive",
    "hole": "Events before these are missing",
    "closed": "The run has ended",
    "illegal": "The event is not allowed in the run's state",
    "stale": "A newer attempt began",
    "busy": "The thread has a run in progress",
    "run-exists": "The run exists with another input",
    "corrupt": "The run's hash and feed do not belong together",
    "event-too-large": "An event is too large",
    "too-many-events": "Too many events in one body",
    "body-too-large": "The body is too large",
    "media-type": "The media type is not served here",
    "headers-too-large": "The request head is too large",
    "full": "The backlog is full",
    "rate": "Too many requests",
    "internal": "A bug",
    "server-unreachable": "The Redis server does not answer",
    "server-read-only": "The Redis server refuses writes",
    "server-full": "The Redis server is out of memory",
    "draining": "The gateway is about to end",
}

_REMEDIES: Mapping[str, str] = {
    "hole": "Send what follows the stored number first, or name it in Tailrace-Prev if that is all there is.",
    "closed": "A run that has ended takes no more events: begin another one.",
    "illegal": "Read the run's state, then send an event that it allows.",
    "stale": "Stop: whatever holds the newer attempt goes on.",
    "busy": "Wait for the run in progress, or cancel it.",
    "run-exists": "Choose another id, or send the input of the first start.",
    "corrupt": "Nothing is written until somebody has looked: `tailrace doctor` tells more.",
    "unknown-run": "Check the ID, or give ?wait=<seconds> where the run is about to begin.",
    "full": "Wait as long as Retry-After says, then send it again under the same producer and number.",
    "server-unreachable": "The outcome is unknown: send it again under the same producer and number.",
    "server-read-only": "The operator has to give the gateway the primary's address.",
    "server-full": "The operator has to free memory or raise maxmemory; send it again later.",
    "internal": "Tell its operator; sending it again under the same producer and number is harmless.",
    "draining": "Connect again after Retry-After; nothing is lost.",
}


class Problem(Exception):
    """An answer other than the one asked for. Raised anywhere below the app, which sends it.

    type: a slug of STATUS, also the default of status. field: where the fault stands, as `events[3].type`.
    value: what came, cut at 200 characters, None if nothing did. extra: further members of the answer.
    headers: of the answer, as Allow or Retry-After.
    """

    def __init__(
        self,
        type: str,
        detail: str = "",
        *,
        status: int | None = None,
        field: str | None = None,
        value: str | None = None,
        remedy: str = "",
        extra: Mapping[str, object] | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(type, detail)
        self.type = type
        self.status = status or STATUS[type]
        self.title = _TITLES.get(type, type)
        self.detail = detail or self.title + "."
        self.field = field
        self.value = value
        self.remedy = remedy or _REMEDIES.get(type, "")
        self.extra = dict(extra or {})
        self.headers = tuple(headers)

    def json(self) -> bytes:
        """One line; at most 4 KiB apart from `results`. Other than ASCII is escaped, lone surrogates included."""
        room, detail, value, remedy = MAX_BYTES, self.detail, self.value, self.remedy
        results = self.extra.get("results")
        value = value if value is None else value[:MAX_VALUE]
        while True:
            members = {
                "type": self.type,
                "title": self.title,
                "status": self.status,
                "detail": detail,
                "field": None if self.field is None else self.field[:MAX_VALUE],
                "value": value,
                "remedy": remedy,
                **{name: member for name, member in self.extra.items() if name != "results"},
            }
            if len(_line(members)) <= room or len(detail) + len(remedy) < 16:
                break
            detail, remedy = detail[: len(detail) * 3 // 4], remedy[: len(remedy) * 3 // 4]
        if results is not None:
            members["results"] = results
        return _line(members)

    async def send(self, scope: MutableMapping[str, Any], send: Any, headers: Headers = ()) -> None:
        """The whole answer; without body to HEAD."""
        body = self.json()
        head = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            *self.headers,
            *headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _line(members: Mapping[str, object]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def retry_after_seconds(draw: float, *, least: int = 1, most: int = 5) -> int:
    """Whole seconds in [least, most], spread so that those who were refused together do not return together.

    draw: the caller's random number in [0, 1).
    """
    return least + math.floor(draw * (most - least + 1))


def from_error(error: TailraceError, *, draw: float = 0.0) -> Problem:
    """The answer to a request that ended in this error. draw: as for retry_after_seconds.

    An error that HTTP has no slug for is the server's (503 server-unreachable) if it is a ServerError, otherwise the
    input's (400).
    """
    slug, detail, remedy = error.code, error.message, error.remedy
    if isinstance(error, (ServerError, NotConfigured)):  # its message names addresses, which are no business of clients
        slug, detail, remedy = (slug if slug in STATUS else "server-unreachable"), "", ""
    elif slug in _REMEDIES:  # the error's own speaks of Python
        remedy = ""
    status = STATUS.get(slug) or _OTHERS.get(slug, 400)
    extra: dict[str, object] = {}
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, RunClosed):
        extra = {"run_status": error.status}
    elif isinstance(error, IllegalEvent):
        extra = {"from": error.status, "event_type": error.type}
    elif isinstance(error, ThreadBusy):
        extra = {"run": error.run}
    elif isinstance(error, BacklogFull):
        extra = {"group": error.group}
        headers = [(b"retry-after", b"%d" % max(1, error.retry_after_seconds))]
    elif status in (429, 503):
        headers = [(b"retry-after", b"%d" % retry_after_seconds(draw))]
    field, value = (error.field or None, error.value) if isinstance(error, BadInput) else (None, None)
    if isinstance(error, RunError):
        field, value = "run", error.run or None
    return Problem(
        slug,
        detail,
        status=status,
        field=field,
        value=value,
        remedy=remedy,
        extra=extra,
        headers=headers,
    )
