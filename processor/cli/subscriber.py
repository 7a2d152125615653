"""A subscriber over HTTP, as a browser is one: follows a run, is cut off, comes back with its last ID."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import httptools

from processor.core.cursor import FeedId
from processor.core.events import is_increment
from processor.core.json import loads

__all__ = ["Frame", "Watched", "frames", "watch"]

RETRY_SECONDS = 0.05


class Frame(NamedTuple):
    """One SSE event. event: empty for the run's own events."""

    event: str
    id: str
    data: str


@dataclass(slots=True)
class Watched:
    """What a subscriber saw."""

    seen: list[FeedId] = field(default_factory=list)
    status: str = ""  # how the run ended, once it did
    cuts: int = 0
    first_increment: float | None = None  # time.perf_counter() of its arrival
    tail: int = 0  # number of the last event, as the end tells it

    @property
    def lost(self) -> int:
        return len(set(range(1, self.tail + 1)) - {id.seq for id in self.seen})

    @property
    def duplicated(self) -> int:
        return len(self.seen) - len({id.seq for id in self.seen})

    @property
    def complete(self) -> bool:
        """Whole, once each, in order, although it was cut off."""
        return (
            self.status == "succeeded"
            and self.cuts > 0
            and [id.seq for id in self.seen] == list(range(1, self.tail + 1))
        )


async def watch(base: str, run: str, *, cut_after: int) -> Watched:
    """Follow a run to its end. cut_after: increments seen before the connection is cut off, once.

    base: of the API, as http://127.0.0.1:8600/api/default. Raises OSError if nothing answers there any more.
    """
    watched = Watched()
    url = f"{base}/runs/{quote(run, safe='~:')}/events"
    while not watched.status:
        await _connection(watched, url, cut_after if watched.cuts == 0 else None)
        if not watched.status:
            await asyncio.sleep(RETRY_SECONDS)
    return watched


async def _connection(watched: Watched, url: str, cut_after: int | None) -> None:
    """Until the run's end, the cut, or the end of the connection."""
    increments = 0
    last = str(watched.seen[-1]) if watched.seen else None
    async with aclosing(frames(url, last)) as stream:
        async for frame in stream:
            if frame.event == "tailrace.end":
                end = loads(frame.data)
                watched.status, watched.tail = end["status"], FeedId.parse(end["cursor"]).seq
                return
            if frame.event:
                continue
            watched.seen.append(FeedId.parse(frame.id))
            if is_increment(loads(frame.data)["type"]):
                increments += 1
                watched.first_increment = watched.first_increment or time.perf_counter()
            if cut_after is not None and increments >= cut_after:
                watched.cuts += 1
                return


async def frames(url: str, last_event_id: str | None) -> AsyncGenerator[Frame, None]:
    """The frames of one connection, until it ends or the iterator is closed. Raises OSError, ConnectionError."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    resume = f"Last-Event-ID: {last_event_id}\r\n" if last_event_id else ""
    writer.write(
        f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n{resume}\r\n".encode()
    )
    try:
        while chunk := await reader.read(65536):
            parser.feed_data(chunk)
            if parser.get_status_code() != 200:
                raise ConnectionError(f"{url} answered {parser.get_status_code()}")
            for block in answer.blocks():
                yield _frame(block)
    except ConnectionResetError:
        pass  # a stream that does not end with its run ends like that
    finally:
        writer.transport.abort()


class _Answer:
    """Body of a response, cut into blocks at empty lines."""

    def __init__(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def blocks(self) -> list[bytes]:
        *whole, self._body = self._body.split(b"\n\n")
        return [block.lstrip(b":\n") for block in whole]  # heartbeats stand between frames


def _frame(block: bytes) -> Frame:
    fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line)
    return Frame(fields.get("event", ""), fields.get("id", ""), fields.get("data", ""))
