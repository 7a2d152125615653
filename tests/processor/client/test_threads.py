"""Threads for functions that block."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading

import anyio
import pytest

from processor.client import threads
from processor.client.threads import in_thread


async def test_many_may_wait_for_each_other() -> None:
    """Functions that block do so however many there are: none waits for a place."""
    many = 200
    gate = threading.Barrier(many)
    with anyio.fail_after(20):
        await asyncio.gather(*(in_thread(gate.wait, 15) for _ in range(many)))


async def test_a_thread_serves_again() -> None:
    """One call after the other takes the thread of the one before."""
    names = {await in_thread(lambda: threading.current_thread().ident) for _ in range(20)}
    assert len(names) == 1


async def test_results_errors_and_context_pass() -> None:
    """What the function returns or raises arrives, and it sees the caller's context."""
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var")
    var.set(3)

    def function(a: int, *, b: int) -> tuple[int, int, int]:
        return a, b, var.get()

    assert await in_thread(function, 1, b=2) == (1, 2, 3)
    with pytest.raises(ValueError, match="invalid literal"):
        await in_thread(int, "x")
    with pytest.raises(RuntimeError, match="StopIteration"):
        await in_thread(next, iter(()))


async def test_a_cancelled_wait_leaves_the_function_running() -> None:
    """Who waits is free at once; the thread ends later and serves again."""
    go, gone = threading.Event(), threading.Event()

    def slow() -> None:
        go.wait(10)
        gone.set()

    waiting = asyncio.create_task(in_thread(slow))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not gone.is_set()
    go.set()
    assert await in_thread(gone.wait, 10)


def test_a_closed_loop_is_no_matter() -> None:
    """A function that outlives its loop ends without a word."""
    go = threading.Event()

    async def leave() -> None:
        task = asyncio.create_task(in_thread(go.wait, 10))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    go.set()
    assert asyncio.run(in_thread(lambda: 1)) == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """Idle threads stay with the parent: a child's first call makes one."""
    asyncio.run(in_thread(int))
    assert threads._idle
    child = os.fork()
    if child == 0:
        os._exit(asyncio.run(in_thread(lambda: 7)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
