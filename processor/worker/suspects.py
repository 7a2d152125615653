"""Suspects: events that were in the hands of a process that died. They run one at a time in a process, whatever group they are of, so
that one which kills its process takes no try from the others."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

__all__ = ["turn"]

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def turn() -> asyncio.Lock:
    """Of the running loop: whoever has it runs its suspect."""
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
