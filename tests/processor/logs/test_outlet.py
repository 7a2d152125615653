"""The way of records into runs: bounded, drops counted and told; forks, signals, the end of a program."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from processor import Run, Tailrace
from processor.logs import Handler, counts
from processor.logs import outlet as outlet_module
from processor.logs.lines import Line
from processor.logs.outlet import Outlet, outlet
from processor.logs.targets import Outside
from tests.support.program import Program
from tests.support.servers import Daemon, TestServer
from tests.support.until import until


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outlet]:
    """An outlet for 64 records."""
    small = Outlet(64)
    monkeypatch.setattr(outlet_module, "_the_outlet", small)
    yield small
    assert small.on_their_way == 0


async def logs_of(tail: Tailrace, run: str) -> list[tuple[str, str]]:
    events = [event async for event in tail.run(run).follow(live=False)]
    return [(event.data["level"], line) for event in events if event.type == "log" for line in event.data["lines"]]


async def test_drops_are_counted_and_told(
    tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler], small: Outlet
) -> None:
    """What is too much is dropped at once; when there is room again the run is told how much, and the metric counts it."""
    handler = handled(tail, run="r")
    before = counts.total("full")
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(5)

    tail.background.loop.call_soon_threadsafe(hold)
    held.wait(5)
    for number in range(200):
        logger.info("%d", number)
    assert counts.total("full") == before + 136
    go_on.set()
    await asyncio.to_thread(handler.flush)
    await asyncio.to_thread(handler.flush)
    logs = await logs_of(tail, "r")
    assert [line for level, line in logs if level == "info"] == [str(number) for number in range(64)]
    assert [line for level, line in logs if level == "warning"] == [
        "136 log records were dropped: there were too many to send"
    ]


async def test_a_task_that_logs_too_much(
    tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler], small: Outlet
) -> None:
    """A task's own run is told as well, while it goes on."""
    handled()

    @tail.task(retry=1)
    async def much(run: Run) -> None:
        for number in range(100):
            logger.info("%d", number)
        await until(lambda: not small.on_their_way, "all records were taken")
        logger.info("end")

    run = await much.start_here()
    await run.result(5)
    logs = await logs_of(tail, run.id)
    assert [line for level, line in logs if level == "info"] == [*(str(n) for n in range(64)), "end"]
    assert [line for level, line in logs if level == "warning"] == [
        "36 log records were dropped: there were too many to send"
    ]


async def test_a_server_that_goes_and_comes(
    namespace: str, logger: logging.Logger, handled: Callable[..., Handler], small: Outlet
) -> None:
    """While it is away records are kept up to the bound; back again, it gets them in order, and is told of the others."""
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        daemon = Daemon("valkey", Path(folder), ("--appendonly", "yes"))
        daemon.start()
        try:
            tail = Tailrace(daemon.url, namespace=namespace)
            handler = handled(tail, run="r", flush_seconds=10)
            logger.info("before")
            await asyncio.to_thread(handler.flush)
            await asyncio.to_thread(daemon.kill)
            for number in range(100):
                logger.info("%d", number)
            await asyncio.to_thread(daemon.start)
            await asyncio.to_thread(handler.flush)
            async with tail:
                logs = await logs_of(tail, "r")
            await asyncio.to_thread(tail.background.call, tail.close())
            tail.background.stop()
        finally:
            daemon.kill()
    assert [line for level, line in logs if level == "info"] == ["before", *map(str, range(64))]
    assert [line for level, line in logs if level == "warning"] == [
        "36 log records were dropped: there were too many to send"
    ]


async def test_large_records_count_for_more(tail: Tailrace, small: Outlet) -> None:
    """The bound is one of bytes too."""
    target = Outside(tail, "r", tail.background.loop)
    before = counts.total("full")
    for _ in range(3):
        small.put(target, Line("info", ["x" * 30_000], "", {}))
    assert counts.total("full") == before + 1
    await asyncio.to_thread(small.flush, 5)
    await asyncio.to_thread(small.flush, 5)  # that one was dropped


async def test_many_threads(tail: Tailrace, logger: logging.Logger, handled: Callable[..., Handler]) -> None:
    """Each thread's records keep their order, none is lost or doubled."""
    handler = handled(tail, run="r")

    def write(name: str) -> None:
        for number in range(200):
            logger.info("%s %d", name, number)

    threads = [threading.Thread(target=write, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await asyncio.to_thread(handler.flush)
    lines = [line for _, line in await logs_of(tail, "r")]
    assert len(lines) == 8 * 200
    for n in range(8):
        assert [line for line in lines if line.startswith(f"t{n} ")] == [f"t{n} {number}" for number in range(200)]


async def test_loops_that_were_closed_hold_nothing(tail: Tailrace, small: Outlet) -> None:
    """What waited for a loop that was closed is given up and leaves its room to others."""
    loop = asyncio.new_event_loop()
    for _ in range(64):
        small.put(Outside(tail, "r", loop), Line("info", ["x"], "", {}))
    loop.close()
    before = counts.total("closed")
    small.put(Outside(tail, "r", tail.background.loop), Line("info", ["y"], "", {}))
    assert counts.total("closed") == before + 64
    await asyncio.to_thread(small.flush, 5)
    assert [line for _, line in await logs_of(tail, "r")] == ["y"]


def test_the_metric() -> None:
    """Prometheus sees what was dropped, by the reason."""
    from processor.observe import metrics

    counts.add("full", 1)
    assert b'tailrace_log_records_dropped_total{reason="full"}' in metrics.exposition()


HEAD = """
import asyncio, itertools, logging, os, signal, sys, threading, time
from processor import Run, SyncRun, Tailrace
from processor.logs import Handler
tail = Tailrace(sys.argv[1], namespace=sys.argv[2])
log = logging.getLogger("shop")
log.setLevel("INFO")
"""

SIGNALS = (
    HEAD
    + """
log.addHandler(Handler(tail, run="else"))
sys.setswitchinterval(1e-5)
numbers = itertools.count()

def hear(number, frame):
    log.info("signal %d", next(numbers))  # it may itself be interrupted

signal.signal(signal.SIGALRM, hear)

@tail.task(retry=1)
async def busy(run: Run) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    for number in range(3000):
        log.info("line %d", number)
        run.write("x")
        if number % 100 == 0:
            await run.log("wait")
    signal.setitimer(signal.ITIMER_REAL, 0)
    await asyncio.sleep(0.01)

async def main():
    async with tail:
        run = await busy.options(id="r").start_here()
        await run.result()

asyncio.run(main())
from processor.logs import counts
print(next(numbers), counts.total("nested"))
"""
)


async def test_signal_handlers_log(server: TestServer, namespace: str, program: Callable[..., Program]) -> None:
    """A signal handler that interrupts whatever it likes may log: nothing hangs, fails, is doubled or lost uncounted."""
    ended = program("python", "-c", SIGNALS, server.url, namespace)
    assert await ended.ended(60) == 0, ended.err
    assert not ended.err
    async with Tailrace(server.url, namespace=namespace) as tail:
        lines = [line for _, line in await logs_of(tail, "r")]
        # Those that came while the loop itself was at work.
        elsewhere = [line for _, line in await logs_of(tail, "else")]
    signals = [int(line.split()[1]) for line in lines + elsewhere if line.startswith("signal ")]
    count, nested = map(int, ended.out.split())
    assert len(signals) == len(set(signals)) == count - nested, (
        "one that interrupts several others may be dropped, counted"
    )
    assert any(line.startswith("signal ") for line in lines)
    assert [line for line in lines if line.startswith("line ")] == [f"line {number}" for number in range(3000)]


PREFORK = (
    HEAD
    + """
log.addHandler(Handler(tail, run="r"))
log.info("parent 0")
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        for number in range(50):
            log.info("c%d %d", child, number)
        sys.exit(0)
    children.append(pid)
for number in range(1, 50):
    log.info("parent %d", number)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
"""
)
POOL = (
    HEAD
    + """
import multiprocessing
log.addHandler(Handler(tail, run="r"))

def work(child):
    for number in range(50):
        log.info("c%d %d", child, number)

for number in range(50):
    log.info("parent %d", number)
context = multiprocessing.get_context("fork")
children = [context.Process(target=work, args=(child,)) for child in range(4)]
for child in children:
    child.start()
for child in children:
    child.join()
    assert child.exitcode == 0
"""
)


@pytest.mark.parametrize("code", [PREFORK, POOL], ids=["prefork", "multiprocessing"])
async def test_forks(code: str, server: TestServer, namespace: str, program: Callable[..., Program]) -> None:
    """Parent and children each send what they logged, once, in order, to the last record before their end."""
    ended = program("python", "-W", "ignore::DeprecationWarning", "-c", code, server.url, namespace)
    assert await ended.ended(30) == 0, ended.err
    assert not ended.err
    async with Tailrace(server.url, namespace=namespace) as tail:
        lines = [line for _, line in await logs_of(tail, "r")]
    assert len(lines) == 5 * 50
    for writer in ("parent", "c0", "c1", "c2", "c3"):
        assert [line for line in lines if line.startswith(f"{writer} ")] == [f"{writer} {n}" for n in range(50)]


FORK_IN_TASK = (
    HEAD
    + """
log.addHandler(Handler(tail, run="else"))

@tail.task(retry=1)
def forks(run: SyncRun) -> int:
    log.info("task")
    pid = os.fork()
    if pid == 0:
        log.info("child")
        logging.shutdown()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    log.info("task again")
    return status

assert forks.options(id="r").sync.start_here().result(10) == 0
"""
)


async def test_a_fork_in_a_task(server: TestServer, namespace: str, program: Callable[..., Program]) -> None:
    """The child is no execution of the task: its records go where those from elsewhere go."""
    ended = program("python", "-W", "ignore::DeprecationWarning", "-c", FORK_IN_TASK, server.url, namespace)
    assert await ended.ended(20) == 0, ended.err
    async with Tailrace(server.url, namespace=namespace) as tail:
        assert [line for _, line in await logs_of(tail, "r")] == ["task", "task again"]
        assert [line for _, line in await logs_of(tail, "else")] == ["child"]


AT_DEBUG = (
    HEAD
    + """
logging.getLogger().setLevel("DEBUG")
logging.getLogger().addHandler(Handler(tail, run="r"))
log.info("one")
log.info("two")
print(sum(thread.name == "tailrace-sync" for thread in threading.enumerate()))
"""
)


async def test_what_asyncio_says_of_our_own_loop(
    server: TestServer, namespace: str, program: Callable[..., Program]
) -> None:
    """With the root logger at DEBUG, asyncio logs that the background loop is made, and that makes no other one."""
    ended = program("python", "-c", AT_DEBUG, server.url, namespace)
    assert await ended.ended(20) == 0, ended.err
    assert (ended.out, ended.err) == ("1\n", "")
    async with Tailrace(server.url, namespace=namespace) as tail:
        lines = [line for _, line in await logs_of(tail, "r")]
    assert [line for line in lines if "selector" not in line] == ["one", "two"]


WRONG_SETTING = (
    HEAD
    + """
log.addHandler(Handler(run="r"))
for _ in range(3):
    log.info("x")
"""
)


async def test_settings_that_are_wrong(program: Callable[..., Program]) -> None:
    """A program whose settings cannot be read logs on; it is told once why no run has it."""
    ended = program("python", "-c", WRONG_SETTING, "redis://localhost:1", "n", env={"TAILRACE_LOG_LIMIT": "many"})
    assert await ended.ended(20) == 0
    assert (ended.out + ended.err).count("TAILRACE_LOG_LIMIT") == 1
    assert "Traceback" not in ended.err


LAST_WORDS = (
    HEAD
    + """
import atexit
log.addHandler(Handler(tail, run="r", flush_seconds=float(sys.argv[3])))
atexit.register(log.info, "atexit")

class Late:
    def __del__(self):
        log.info("del")

late = Late()
late.itself = late
for number in range(1000):
    log.info("%d", number)
print("logged")
"""
)


async def test_the_end_of_a_program(server: TestServer, namespace: str, program: Callable[..., Program]) -> None:
    """What was logged until the end is there, with what exit handlers logged; what the interpreter logs later does no harm."""
    ended = program("python", "-c", LAST_WORDS, server.url, namespace, "2")
    assert await ended.ended(20) == 0, ended.err
    assert not ended.err
    async with Tailrace(server.url, namespace=namespace) as tail:
        lines = [line for _, line in await logs_of(tail, "r")]
    assert [line for line in lines if line != "del"] == [*(str(number) for number in range(1000)), "atexit"]


async def test_the_end_without_a_server(program: Callable[..., Program]) -> None:
    """What cannot be sent holds the end no longer than it may."""
    ended = program("python", "-c", LAST_WORDS, "redis://127.0.0.1:1", "n", "0.2")
    await ended.says("logged")
    assert await ended.ended(5) == 0
    assert "Traceback" not in ended.err


def test_the_outlet_is_the_processs() -> None:
    """There is one, whoever asks."""
    assert outlet() is outlet()
