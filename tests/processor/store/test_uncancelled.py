from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
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


async def test_without_a_cancellation_nothing_changes() -> None:
    """Results and errors pass."""

    async def answer() -> int:
        return 1

    async def refuse() -> int:
        raise NoScriptError("no matching script")

    assert await uncancelled(answer()) == 1
    with pytest.raises(NoScriptError):
        await uncancelled(refuse())
