"""`.sync` under threads, after fork() and at the end of a program."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from processor import Tailrace
from tests.support.program import Program
from tests.support.servers import TestServer


def lines_of(tail: Tailrace, run: str) -> list[str]:
    return [line for event in tail.sync.run(run).follow(live=False) for line in event.data["lines"]]


def in_order(lines: list[str], writer: str) -> list[int]:
    """Numbers that this writer wrote, as they stand in the feed. A line is `<writer> <number>`."""
    return [int(line.split()[1]) for line in lines if line.split()[0] == writer]


def test_threads_keep_their_order(server: TestServer, namespace: str) -> None:
    """Eight threads write to one run and to many: each one's lines stand in its order, all of them, once."""
    tail = Tailrace(server.url, namespace=namespace)
    shared = tail.sync.run("shared")
    errors: list[BaseException] = []

    def write(name: str) -> None:
        try:
            own = tail.sync.run(name)
            for number in range(60):
                shared.log(f"{name} {number}")
                own.log(f"{name} {number}")
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    names = [f"t{n}" for n in range(8)]
    threads = [threading.Thread(target=write, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    lines = lines_of(tail, "shared")
    assert len(lines) == 8 * 60
    for name in names:
        assert in_order(lines, name) == list(range(60))
        assert lines_of(tail, name) == [f"{name} {number}" for number in range(60)]
    tail.sync.close()


def test_threads_that_come_at_once_share_one_portal() -> None:
    """However many threads use `.sync` first, there is one background thread."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            tail = Tailrace("redis://localhost:1")
            found: list[asyncio.AbstractEventLoop] = []
            threads = [threading.Thread(target=lambda: found.append(tail.portal.loop)) for _ in range(8)]  # noqa: B023
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            assert len(found) == 8
            assert len(set(found)) == 1
            tail.portal.stop()
    finally:
        sys.setswitchinterval(interval)


HEAD = """
import os, sys, threading
from processor import Run, SyncRun, Tailrace
tail = Tailrace(sys.argv[1], namespace=sys.argv[2])
"""

MODULE_HANDLE = (
    HEAD
    + """
run = tail.sync.run("r")  # as a module's global, before a server forks its workers
run.log("parent 0")
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        for number in range(20):
            run.log(f"c{child} {number}")
        os._exit(0)
    children.append(pid)
for number in range(1, 20):
    run.log(f"parent {number}")
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
"""
)


async def test_a_handle_from_before_a_fork(server: TestServer, namespace: str, program: Callable[..., Program]) -> None:
    """A handle made before fork() writes on both sides, each under a producer of its own."""
    ended = program("python", "-W", "ignore::DeprecationWarning", "-c", MODULE_HANDLE, server.url, namespace)
    assert await ended.ended(20) == 0, ended.err
    async with Tailrace(server.url, namespace=namespace) as tail:
        lines = [line async for event in tail.run("r").follow(live=False) for line in event.data["lines"]]
    assert len(lines) == 5 * 20
    for writer in ("parent", "c0", "c1", "c2", "c3"):
        assert in_order(lines, writer) == list(range(20))


UNDER_LOAD = (
    HEAD
    + """
names = ["a", "b", "c", "d"]
sys.setswitchinterval(0.00005)
stop = threading.Event()
wrote = {name: 0 for name in names}

def write(name):
    run = tail.sync.run("r")
    while not stop.is_set():
        run.log(f"{name} {wrote[name]}")
        wrote[name] += 1

threads = [threading.Thread(target=write, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for child in range(40):
    pid = os.fork()
    if pid == 0:
        for number in range(5):
            tail.sync.run("r").log(f"child{child} {number}")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
print(" ".join(f"{name}={wrote[name]}" for name in names))
"""
)


async def test_a_fork_under_load(server: TestServer, namespace: str, program: Callable[..., Program]) -> None:
    """fork() while four threads write: neither side hangs, loses or doubles a line."""
    ended = program("python", "-W", "ignore::DeprecationWarning", "-c", UNDER_LOAD, server.url, namespace)
    assert await ended.ended(60) == 0, ended.err
    wrote = {name: int(number) for name, number in (pair.split("=") for pair in ended.out.split())}
    async with Tailrace(server.url, namespace=namespace) as tail:
        lines = [line async for event in tail.run("r").follow(live=False) for line in event.data["lines"]]
    for name, count in wrote.items():
        assert in_order(lines, name) == list(range(count))
    for child in range(40):
        assert in_order(lines, f"child{child}") == list(range(5))
    assert len(lines) == sum(wrote.values()) + 40 * 5


HELD_LOCK = (
    HEAD
    + """
from processor.observe import metrics
tail.sync.run("r").log("parent")
held, go_on = threading.Event(), threading.Event()

def count():  # what the background thread does all the time, made long
    with metrics.append_batch_events._sum._lock:
        held.set()
        go_on.wait(0.15)

tail.portal.loop.call_soon_threadsafe(count)
held.wait()
pid = os.fork()
if pid == 0:
    tail.sync.run("r").log("child")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
)


async def test_a_fork_finds_the_background_thread_at_rest(
    server: TestServer, namespace: str, program: Callable[..., Program]
) -> None:
    """No lock that the background thread takes is held for ever in the child."""
    ended = program("python", "-W", "ignore::DeprecationWarning", "-c", HELD_LOCK, server.url, namespace)
    assert await ended.ended(10) == 0, ended.err


IN_A_TASK = (
    HEAD
    + """
@tail.task
def forks(run: SyncRun) -> int:
    run.log("task")
    pid = os.fork()
    if pid == 0:
        try:
            run.log("not from here")
        except RuntimeError as error:
            assert "fork" in str(error), error
            tail.sync.run("other").log("child")
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]

assert forks.options(id="r").sync.start_here().result(10) == 0
"""
)


async def test_a_fork_in_a_task(server: TestServer, namespace: str, program: Callable[..., Program]) -> None:
    """The child of a task's thread is no execution: its handle says so, what it writes elsewhere goes from outside."""
    ended = program("python", "-W", "ignore::DeprecationWarning", "-c", IN_A_TASK, server.url, namespace)
    assert await ended.ended(20) == 0, ended.err
    async with Tailrace(server.url, namespace=namespace) as tail:
        assert [event.data["lines"] async for event in tail.run("other").follow(live=False)] == [["child"]]


ENDS = """
async def unawaited():
    for number in range(500):
        tail.run("r").log(f"u {number}")

tail.sync.run("r").log("awaited 0")
tail.portal.call(unawaited())
"""
WAYS = {
    "script": HEAD + ENDS,
    "exit": HEAD + ENDS + "sys.exit(3)\n",
    "raises": HEAD + ENDS + "raise SystemExit(3)\n",
    "fork": HEAD + "if os.fork():\n    os.wait()\n    sys.exit(3)\n" + ENDS + "sys.exit(3)\n",
    "multiprocessing": (
        HEAD
        + "import multiprocessing\n"
        + "def work():\n    exec(ENDS, globals())\n"
        + f"ENDS = {ENDS!r}\n"
        + "child = multiprocessing.get_context('fork').Process(target=work)\nchild.start()\nchild.join()\n"
        + "assert child.exitcode == 0\n"
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_program_wrote_is_there(
    way: str, server: TestServer, namespace: str, program: Callable[..., Program]
) -> None:
    """A program that ends without closing anything leaves nothing unsent, awaited or not."""
    ended = program("python", "-W", "ignore::DeprecationWarning", "-c", WAYS[way], server.url, namespace)
    assert await ended.ended(20) in (0, 3), ended.err
    assert not ended.err
    async with Tailrace(server.url, namespace=namespace) as tail:
        lines = [line async for event in tail.run("r").follow(live=False) for line in event.data["lines"]]
    assert Counter(lines) == Counter(["awaited 0", *(f"u {number}" for number in range(500))])
    assert in_order(lines, "u") == list(range(500))


async def test_an_end_without_a_server_is_bounded(program: Callable[..., Program]) -> None:
    """What cannot be sent holds the end of a program for a second or two, no longer."""
    code = HEAD + ENDS.split("tail.sync")[0]
    code += "tail.portal.call(unawaited())\nprint('wrote')\n"
    ended = program("python", "-c", code, "redis://127.0.0.1:1", "n")
    await ended.says("wrote", 10)
    assert await ended.ended(5) == 0
