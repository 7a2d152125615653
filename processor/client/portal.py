"""A way from threads into an event loop: the loop of a task, or one of its own in a background thread.

A fork() leaves the thread behind. A background portal starts another one when the child first uses it, so that what was made
before the fork goes on in both processes; and the fork waits until the thread is between two turns of its loop, since a lock
that it held just then would be held in the child for ever.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, Final, TypeVar

from processor.client.calling import executing_in_thread
from processor.client.signals import at_exit

__all__ = ["Portal"]

T = TypeVar("T")
PAUSE_SECONDS: Final = 0.5  # so long a fork waits for a loop that something holds
END_SECONDS: Final = 3.0  # so long the end of a process waits for what is still to be sent


class Portal:
    """Of one loop, which is given, or which a thread runs from the first use on."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._is_background = loop is None
        self._at_end: Callable[[], Coroutine[Any, Any, object]] | None = None
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._take_back: Callable[[], None] | None = None

    @classmethod
    def of_running_loop(cls) -> Portal:
        return cls(asyncio.get_running_loop())

    @classmethod
    def background(cls, at_end: Callable[[], Coroutine[Any, Any, object]] | None = None) -> Portal:
        """A loop of its own in a daemon thread, which starts when it is used. at_end: awaited there when the process ends."""
        portal = cls()
        portal._at_end = at_end
        return portal

    @property
    def is_background(self) -> bool:
        return self._is_background

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the one that the loop runs in."""
        return self._thread is not None and self._thread.ident == threading.get_ident() and self._pid == os.getpid()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Raises RuntimeError in a forked child, where the loop of a task is nobody's."""
        if self._loop is not None and self._is_alive:
            return self._loop
        if not self._is_background:
            raise RuntimeError(
                "this handle belongs to a task of the process that called fork(); in the child write to a run of your own, "
                'as tail.sync.run("…")'
            )
        return self._start()

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()  # outside of the lock: asyncio logs that, and who logs may come here as well
        with _lock:
            if self._is_alive:
                loop.close()
            else:
                self._thread = threading.Thread(target=loop.run_forever, name="tailrace-sync", daemon=True)
                self._loop, self._pid = loop, os.getpid()
                self._thread.start()
                self._take_back = at_exit(self._end)
                _started[self] = None
        assert self._loop is not None
        return self._loop

    @property
    def _is_alive(self) -> bool:
        return self._loop is not None and self._pid == os.getpid() and not self._loop.is_closed()

    def stop(self) -> None:
        """Ends the thread. Whatever still runs in its loop is left as it is."""
        with _lock:
            loop, thread = self._loop, self._thread
            if not self._is_background or loop is None or self._pid != os.getpid():
                return
            self._loop = self._thread = None
            _started.pop(self, None)
        if self._take_back is not None:
            self._take_back()
        if thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(PAUSE_SECONDS)
            if not thread.is_alive():
                loop.close()

    def _end(self) -> None:
        """The process ends: what was written goes out, also what nobody awaited."""
        if self._pid != os.getpid() or self._loop is None or self._at_end is None or not self._loop.is_running():
            return
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._at_end(), self._loop).result(END_SECONDS)

    def pause(self) -> Callable[[], None]:
        """Holds the loop between two turns, if it gets there in time. Returns what lets it go on."""
        loop = self._loop
        if loop is None or self._pid != os.getpid() or self.is_here or not loop.is_running():
            return _nothing
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go_on.wait()

        loop.call_soon_threadsafe(hold)
        if not held.wait(PAUSE_SECONDS):
            go_on.set()
        return go_on.set

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it there and waits. Raises RuntimeError in the loop's own thread, where it would wait for itself.

        In a task it runs in the task's loop, as a part of its execution. Raises CancelledError where that was cancelled.
        """
        try:
            here = executing_in_thread()
            loop = here.loop if here is not None else self.loop
        except (RuntimeError, asyncio.CancelledError):
            coroutine.close()
            raise
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop:
            coroutine.close()
            raise RuntimeError("a .sync call in the event loop itself would wait for ever; await the method instead")
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        return here.wait(future) if here is not None else future.result()

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """An async iterator, one step a time."""
        end = object()
        step_under_way: asyncio.Task[Any] | None = None

        async def step() -> Any:
            nonlocal step_under_way
            step_under_way = asyncio.current_task()
            return await anext(items, end)

        async def close() -> None:
            if step_under_way is not None and not step_under_way.done():  # a Ctrl-C ended the wait for it
                step_under_way.cancel()
                await asyncio.wait([step_under_way])
            aclose = getattr(items, "aclose", None)
            if aclose is not None:
                await aclose()

        try:
            while (item := self.call(step())) is not end:
                yield item
        finally:
            self.call(close())

    @contextmanager
    def entered(self, context: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An async context manager around a block that blocks."""

        async def leave(error: BaseException | None) -> bool | None:
            return await context.__aexit__(
                type(error) if error else None, error, error.__traceback__ if error else None
            )

        async def enter() -> T:
            return await context.__aenter__()

        value = self.call(enter())
        try:
            yield value
        except BaseException as error:
            if not self.call(leave(error)):
                raise
        else:
            self.call(leave(None))


# At a fork. The lock is taken before it, so that no portal is in the midst of starting; the child has a lock of its own.

_lock = threading.RLock()
_started: dict[Portal, None] = {}
_paused: list[Callable[[], None]] = []


def _nothing() -> None:
    """There was nothing to hold."""


def _before_fork() -> None:
    _lock.acquire()
    _paused.extend(portal.pause() for portal in _started)


def _in_parent() -> None:
    while _paused:
        _paused.pop()()
    _lock.release()


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()
    _paused.clear()
    _started.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
