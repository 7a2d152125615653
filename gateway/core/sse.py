"""Frames of the native SSE stream: LF only, one `data:` line each, events unnamed, control frames named and without `id:`."""

from __future__ import annotations

from collections.abc import Iterable

from processor.core.cursor import FeedId
from processor.core.json import dumps
from processor.core.splice import Gap, Message

__all__ = ["HEARTBEAT", "caught_up", "denied", "end", "event_frames", "gap", "http_chunk", "open_frame", "reconnect"]

HEARTBEAT = b":\n"  # a comment without a blank line: two clients take `:` LF LF behind an `id:` for an event


def event_frames(run: str, messages: Iterable[Message]) -> bytes:
    """One frame an event: `id: <feed ID>` and the envelope, which is the payload's bytes behind id and run."""
    name = run.encode()
    frames: list[bytes] = []
    for first, ms, payloads in messages:
        if len(payloads) == 1:
            frames.append(
                b'id: %d-%d\ndata: {"id":"%d-%d","run":"%b",%b\n\n' % (first, ms, first, ms, name, payloads[0])
            )
        else:  # a run's name holds no %
            frame = b'id: %%d-%d\ndata: {"id":"%%d-%d","run":"%b",%%b\n\n' % (ms, ms, name)
            frames += [frame % (seq, seq, payload) for seq, payload in enumerate(payloads, first)]
    return b"".join(frames) if len(frames) > 1 else frames[0]


def http_chunk(body: bytes) -> bytes:
    """As HTTP/1.1 sends it. body: not empty, since an empty chunk ends the response."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def _control(name: str, data: bytes, *, retry_ms: int | None = None) -> bytes:
    retry = b"" if retry_ms is None else b"retry: %d\n" % retry_ms
    return b"event: tailrace.%b\n%bdata: %b\n\n" % (name.encode(), retry, data)


def open_frame(
    run: str, status: str, cursor: FeedId, tail: FeedId, attempt: int, waiting_for: str | None, *, retry_ms: int
) -> bytes:
    """The first frame of a connection. tail: ZERO if the run has no event."""
    members: dict[str, object] = {
        "run": run,
        "status": status,
        "cursor": _cursor(cursor),
        "tail": str(tail) if tail.seq else None,
        "attempt": attempt,
    }
    if waiting_for is not None:
        members["waiting_for"] = waiting_for
    return _control("open", dumps(members), retry_ms=retry_ms)


def caught_up(cursor: FeedId) -> bytes:
    return _control("caught_up", dumps({"cursor": _cursor(cursor)}))


def gap(missing: Gap, snapshot: object) -> bytes:
    """snapshot: the run's state as GET /runs/{run} has it, None for an unknown run."""
    return _control(
        "gap", dumps({"from": missing.first, "to": missing.last, "reason": missing.reason, "snapshot": snapshot})
    )


def end(status: str, cursor: FeedId) -> bytes:
    """The last frame of a run that has ended."""
    return _control("end", dumps({"status": status, "cursor": _cursor(cursor)}))


def denied(problem: bytes) -> bytes:
    """problem: the answer that a new request would get, in one line."""
    return _control("denied", problem)


def reconnect(after_ms: int) -> bytes:
    return _control("reconnect", dumps({"after_ms": after_ms}), retry_ms=after_ms)


def _cursor(id: FeedId) -> str:
    return str(id) if id.seq else "0"
