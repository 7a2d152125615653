"""Responses that are broken off on purpose, and what uvicorn says of them.

A client takes a clean end for success, so a stream that did not come to its run's end returns without completing its response.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import Any

__all__ = ["leave_unfinished"]

_LINE = "ASGI callable returned without completing response."
_meant: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()


class _Filter(logging.Filter):
    """Drops uvicorn's line for the tasks that meant it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg != _LINE:
            return True
        try:
            return asyncio.current_task() not in _meant
        except RuntimeError:  # logged outside a loop: not ours
            return True


_filter = _Filter()


def leave_unfinished() -> None:
    """The present task is about to return without completing its response, and means it."""
    task = asyncio.current_task()
    if task is not None:
        _meant.add(task)
        logging.getLogger("uvicorn.error").addFilter(_filter)  # the same one again is no second one
