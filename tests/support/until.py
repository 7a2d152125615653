"""Waiting for something to become true: on a named condition, with a deadline."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

__all__ = ["until", "wait_until"]

_PAUSE = 0.005  # seconds between two looks; a look is cheap, a turn of the loop must stay possible


async def until(predicate: Callable[[], object | Awaitable[object]], condition: str, deadline: float = 5) -> None:
    """Returns once predicate() is true (it may be a coroutine function).

    condition: what is waited for, in words, for the message. deadline: seconds. Raises AssertionError behind it.
    """
    end = time.monotonic() + deadline
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {condition}")
        await asyncio.sleep(_PAUSE)


def wait_until(predicate: Callable[[], object], condition: str, deadline: float = 5) -> None:
    """As `until`, for tests without a loop."""
    end = time.monotonic() + deadline
    while not predicate():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {condition}")
        time.sleep(_PAUSE)
