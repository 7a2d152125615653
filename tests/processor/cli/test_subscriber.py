from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from processor.cli.subscriber import Watched, frames, watch
from processor.core.cursor import FeedId

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(text: str) -> bytes:
    data = text.encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(seq: int, type: str = "message.delta") -> str:
    return f'id: {seq}-1\ndata: {{"id":"{seq}-1","run":"r","type":"{type}","data":null}}\n\n'


def _end(seq: int, status: str = "succeeded") -> str:
    return f'event: tailrace.end\ndata: {{"status":"{status}","cursor":"{seq}-1"}}\n\n'


@asynccontextmanager
async def _gateway(*answers: bytes) -> AsyncIterator[tuple[str, list[str]]]:
    """Gives one answer a connection, then breaks it; and what it was asked."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(answers[len(asked) - 1])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/default", asked


async def test_it_is_cut_and_resumes() -> None:
    """After the cut it comes back with the last ID that it has, and counts what it saw."""
    first = HEAD + _chunk(_event(1) + _event(2) + _event(3))
    second = HEAD + _chunk(":\n" + _event(3) + _end(3)) + b"0\r\n\r\n"
    async with _gateway(first, second) as (base, asked):
        watched = await watch(base, "r", cut_after=2)
    assert [id.seq for id in watched.seen] == [1, 2, 3]
    assert (watched.cuts, watched.complete, watched.lost, watched.duplicated) == (1, True, 0, 0)
    assert "Last-Event-ID" not in asked[0]
    assert "Last-Event-ID: 2-1\r\n" in asked[1]


async def test_a_connection_that_breaks_is_resumed() -> None:
    """An end without tailrace.end is no end."""
    answers = [HEAD + _chunk(_event(1)), HEAD + _chunk(_event(2)), HEAD + _chunk(_end(2))]
    async with _gateway(*answers) as (base, asked):
        watched = await watch(base, "r", cut_after=100)
    assert [id.seq for id in watched.seen] == [1, 2]
    assert not watched.complete  # nobody cut it
    assert len(asked) == 3


async def test_losses_and_repetitions_are_counted() -> None:
    """What is missing up to the tail is lost, what came twice is duplicated, and neither is complete."""
    async with _gateway(HEAD + _chunk(_event(1) + _event(1) + _event(3) + _end(4))) as (base, _):
        watched = await watch(base, "r", cut_after=100)
    assert (watched.lost, watched.duplicated) == (2, 1)
    watched.cuts = 1
    assert not watched.complete


async def test_frames_across_chunks() -> None:
    """Frames are put together however the bytes are cut; U+2028 ends no line."""
    text = 'id: 1-1\ndata: {"a":"x\u2028y"}\n\n'
    data = text.encode()
    answer = HEAD + b"".join(b"1\r\n%c\r\n" % byte for byte in data)
    async with _gateway(answer) as (base, _):
        found = [frame async for frame in frames(f"{base}/runs/r/events", None)]
    assert [(f.id, f.data) for f in found] == [("1-1", '{"a":"x\u2028y"}')]


async def test_a_refusal_is_an_error() -> None:
    """404 is not waited out."""
    async with _gateway(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n") as (base, _):
        with pytest.raises(ConnectionError, match="answered 404"):
            await watch(base, "r", cut_after=1)


def test_order_matters() -> None:
    """All events in another order are not complete."""
    watched = Watched(seen=[FeedId(2, 1), FeedId(1, 1)], status="succeeded", cuts=1, tail=2)
    assert (watched.lost, watched.duplicated, watched.complete) == (0, 0, False)
