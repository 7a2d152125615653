from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from processor.store.connection import uncancelled


async def _swallows_and_answers() -> int:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass  # as wait_for of Python 3.11, when the result is there in the same turn of the loop
    return 1


async def _swallows_and_refuses() -> int:
    await _swallows_and_answers()
    raise NoScriptError("no matching script")


@pytest.mark.parametrize("call", [_swallows_and_answers, _swallows_and_refuses])
async def test_a_swallowed_cancellation_is_raised(call: Callable[[], Awaitable[int]]) -> None:
    """Whether the call then answers or fails: otherwise a task that was cancelled once would run on for ever."""
    task = asyncio.ensure_future(uncancelled(call()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_came_before_the_call() -> None:
    """A signal's handler cancels the task while it runs, so the call is the first that hears of it; it is none of an older one."""

    async def swallow() -> int:
        with contextlib.suppress(asyncio.CancelledError):  # as wait_for of Python 3.11 does it
            await asyncio.sleep(10)
        return 1

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uncancelled(swallow())
        assert task.cancelling() == 1
        assert await uncancelled(asyncio.sleep(0, 2)) == 2  # what cleans up behind it may still ask

    await asyncio.ensure_future(work())


async def test_without_a_cancellation_nothing_changes() -> None:
    """Results and errors pass."""

    async def answer() -> int:
        return 1

    async def refuse() -> int:
        raise NoScriptError("no matching script")

    assert await uncancelled(answer()) == 1
    with pytest.raises(NoScriptError):
        await uncancelled(refuse())


def test_a_connection_that_uvloop_has_closed_is_lost() -> None:
    """What uvloop says of a write behind a reset, which redis-py lets through, is an error of the connection like any other."""

    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.transport.abort(), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await reader.read()

            async def write() -> None:
                writer.transport.abort()
                await asyncio.sleep(0)  # the handle closes in the next turn of the loop
                writer.writelines([b"PING"])

            with pytest.raises(RedisConnectionError):
                await uncancelled(write())

            async def other() -> None:
                raise RuntimeError("something else")

            with pytest.raises(RuntimeError, match="something else"):
                await uncancelled(other())

    uvloop.run(main())
