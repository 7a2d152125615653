"""`.sync`: the same, blocking."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable

import pytest

from processor import Run, Tailrace
from processor.core.errors import RunFailed
from tests.support.program import Program
from tests.support.servers import TestServer


@pytest.fixture
def tail(server: TestServer, namespace: str) -> Tailrace:
    return Tailrace(server.url, namespace=namespace)


def test_everything_blocks(tail: Tailrace) -> None:
    """Starting, writing, following and reading work without an event loop."""

    @tail.task
    async def answer(run: Run, prompt: str) -> str:
        run.write(prompt)
        return prompt

    with tail.sync as sync:
        run = answer.sync.start_here("hi")
        assert run.result(timeout_seconds=5) == "hi"
        assert run.text() == "hi"
        assert [event.type for event in run.follow()][-1] == "run.finished"
        with sync.run("block") as block:
            assert block.log("line").startswith("2-")
            with block.message() as message:
                message.write("text")
        assert block.state().status == "succeeded"
        assert sorted(state.run for state in sync.runs()) == sorted([run.id, "block"])
        queued = answer.sync.options(thread="t").start("x")
        active = sync.thread("t").active()
        assert active is not None
        assert active.id == queued.id
        assert queued.cancel()


async def test_a_sync_call_in_its_own_loop_is_refused(tail: Tailrace) -> None:
    """Blocking the loop that would have to do the work is an error, not a deadlock."""
    from processor.client.sync import Portal, SyncRun

    with pytest.raises(RuntimeError, match="wait for ever"):
        SyncRun(tail.run("r"), Portal.of_running_loop()).state()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_loops_that_were_closed_leave_nothing(tail: Tailrace) -> None:
    """asyncio.run() once and again, without close(), keeps neither sessions nor connections."""

    async def write() -> None:
        await tail.run("r").log("x")

    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Python's own, of connections that nobody closed
        for _ in range(3):
            asyncio.run(write())
        before = descriptors()
        for _ in range(10):
            asyncio.run(write())
        assert descriptors() <= before + 1
        assert len(tail._sessions) == 1
        tail._here = None
        tail._forget_closed_loops()
        gc.collect()


@pytest.mark.holds_loop
def test_ctrl_c_leaves_a_follow(server: TestServer, namespace: str) -> None:
    """A KeyboardInterrupt that ends the wait for the next event is what the caller sees."""
    tail = Tailrace(server.url, namespace=namespace)
    tail.sync.run("r").log("one")
    events = tail.sync.run("r").follow()
    next(events)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(events)
    timer.join()
    assert tail.sync.run("r").log("two").startswith("2-")
    tail.sync.close()


def test_a_forked_child_opens_its_own(tail: Tailrace) -> None:
    """After fork() the child has its own loop, connection and producer, and nothing of the parent's is lost or doubled."""
    with tail.sync as sync:
        run = sync.run("r")
        run.log("parent")
        child = os.fork()
        if child == 0:
            try:
                tail.sync.run("r").log("child")
                tail.sync.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        run.log("parent again")
        assert [event.data["lines"] for event in run.follow(live=False)] == [["parent"], ["child"], ["parent again"]]


async def test_a_script_that_ends_ends_its_runs(
    server: TestServer, namespace: str, program: Callable[..., Program]
) -> None:
    """A program that ends while a run of start_here goes on in its background thread says so."""
    code = (
        "import asyncio\n"
        "from tailrace import Run, Tailrace\n"
        f"tail = Tailrace({server.url!r}, namespace={namespace!r})\n"
        "@tail.task\n"
        "async def endless(run: Run) -> None:\n"
        "    await asyncio.sleep(60)\n"
        "endless.options(id='r').sync.start_here()\n"
    )
    ended = program("python", "-c", code)
    assert await ended.ended(10) == 0
    async with Tailrace(server.url, namespace=namespace) as tail:
        with pytest.raises(RunFailed) as failed:
            await tail.run("r").result(5)
    assert failed.value.reason == "shutdown"
