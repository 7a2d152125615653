"""Threads for functions that block: as many as are needed at once.

The event loop's own pool has a few threads and no more. Plain functions that wait for each other (`task.sync.call`) would
fill it and wait for ever, and a worker's concurrency would be that of the pool. These threads are daemons: a function that
blocks for ever ends with its process and does not hold it.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeVar

__all__ = ["in_thread"]

P = ParamSpec("P")
T = TypeVar("T")
IDLE_SECONDS: Final = 10.0

_Call = tuple[asyncio.Future[Any], Callable[[], Any]]


class _Thread:
    """One thread, which executes what it is given and then waits for more."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="tailrace-thread", daemon=True).start()

    def give(self, call: _Call) -> None:
        self._calls.put(call)

    def _work(self) -> None:
        while True:
            try:
                call = self._calls.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with _lock:
                    if self in _idle:
                        _idle.remove(self)
                        return
                continue  # it was chosen just now, and its call is on the way
            self._execute(*call)
            del call  # what it holds goes now, not with the next one

    def _execute(self, future: asyncio.Future[Any], function: Callable[[], Any]) -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = function()
        except BaseException as raised:  # noqa: BLE001 - it is raised where the function was called
            error = raised
        with _lock:
            _idle.append(self)
        with suppress(RuntimeError):  # the loop was closed: nobody waits
            future.get_loop().call_soon_threadsafe(_tell, future, result, error)


_idle: list[_Thread] = []
_lock = threading.Lock()


def _tell(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # who waited was cancelled
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):  # no future takes it
        wrapped = RuntimeError(f"a function in a thread raised {error!r}")
        wrapped.__cause__ = error
        future.set_exception(wrapped)
    else:
        future.set_exception(error)


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls it in a thread of its own, in the present context, and waits. A cancelled wait leaves it running."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    context = contextvars.copy_context()
    with _lock:
        thread = _idle.pop() if _idle else None
    (thread or _Thread()).give((future, functools.partial(context.run, function, *args, **kwargs)))
    return await future


def _in_child() -> None:
    """After a fork() the threads are the parent's."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_in_child)
