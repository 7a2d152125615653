"""`tailrace worker` as a process: what it executes, what it says, how it ends, how it is kept."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from processor.client.queueing import Options, start_queued
from processor.client.tailrace import Tailrace
from processor.core.worker import Workers
from processor.store.workers import list_workers
from tests.processor.cli.conftest import Cli, Terminal
from tests.processor.store.logside import LogSide
from tests.support.program import Program
from tests.support.servers import TestServer
from tests.support.until import until

TASKS = """\
import asyncio
from tailrace import Run, Tailrace

tail = Tailrace(imports=["more"])
empty = Tailrace()
VERSION = 1


@tail.task
async def answer(run: Run, seconds: float = 0) -> int:
    run.log("begun")
    await asyncio.sleep(seconds)
    return VERSION


@tail.task
def block(run: Run) -> None: ...
"""
MORE = """\
import time
from tailrace import Run
from tasks import tail


@tail.task
async def hold(run: Run, seconds: float) -> None:
    run.log("begun")
    await run.log("holds the loop from here")
    time.sleep(seconds)
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path) -> None:
    write(tmp_path / "tasks.py", TASKS)
    write(tmp_path / "more.py", MORE)


def write(path: Path, text: str) -> None:
    """At once: half a file would be a fault of its own."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


async def begin(cli: Cli, *args: str) -> Program:
    """A worker that takes work."""
    program = cli.begin("worker", "tasks:tail", *args)
    await program.says("worker_ready", 20)
    return program


def told(program: Program, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in program.err.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


async def start(cli: Cli, task: str, id: str, **input: object) -> None:
    async with Tailrace(cli.url) as tail:
        await start_queued(tail, task, json.dumps(input).encode(), Options(id=id))


async def status(cli: Cli, run: str) -> str:
    async with Tailrace(cli.url) as tail:
        return (await tail.run(run).state()).status


async def begun(cli: Cli, run: str) -> None:
    """The function's first line has run."""

    async def is_begun() -> bool:
        async with Tailrace(cli.url) as tail:
            return any([event.type == "log" async for event in tail.run(run).follow(live=False)])

    await until(is_begun, f"{run} has begun", 20)


async def workers(cli: Cli) -> Workers:
    async with Tailrace(cli.url) as tail:
        return await list_workers(await tail.session())


async def test_burst(cli: Cli) -> None:
    """It executes what waits, those of imports= included, and ends; it says which tasks it has."""
    await start(cli, "answer", "a")
    await start(cli, "hold", "h", seconds=0)
    ended = await cli("worker", "tasks:tail", "--burst")
    assert ended.code == 0, ended.err
    (ready,) = [json.loads(line) for line in ended.err.splitlines() if '"worker_ready"' in line]
    assert (ready["tasks"], ready["concurrency"]) == (["answer", "block", "hold"], 100)
    assert [await status(cli, run) for run in "ah"] == ["succeeded"] * 2
    (worker,) = (await workers(cli)).all
    assert (worker.consumer, worker.tasks) == (ready["consumer"], ("answer", "block", "hold", "tailrace.flow"))
    assert worker.stopped is not None


async def test_only_some_tasks(cli: Cli) -> None:
    """With --tasks the others wait for another worker; a name that is none is refused with those there are."""
    await start(cli, "answer", "a")
    await start(cli, "hold", "h", seconds=0)
    ended = await cli("worker", "tasks:tail", "--burst", "--tasks", "hold, block")
    assert ended.code == 0, ended.err
    assert [await status(cli, run) for run in "ah"] == ["queued", "succeeded"]
    refused = await cli("worker", "tasks:tail", "--tasks", "hold,crawl")
    assert (refused.code, refused.err) == (
        2,
        "error[usage]: --tasks names crawl, which tasks does not have.\n  It has: answer, block, hold.\n",
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["tasks:empty"],
            "error[no-task]: this worker has nothing to do: it imported tasks and found no task, reaction or inlet.\n  They exist",
        ),
        (["tasks:nothing"], 'error[not-loaded]: module tasks has no "nothing".\n  Perhaps tasks:empty or tasks:tail\n'),
        (["taskss:tail"], 'error[not-loaded]: there is no module "taskss" in '),
        (["tasks:tail", "--burst", "--reload"], "error[usage]: --burst ends by itself, --reload never."),
        (["taskss:tail", "--processes", "2"], 'error[not-loaded]: there is no module "taskss" in '),
        (["taskss:tail", "--reload"], 'error[not-loaded]: there is no module "taskss" in '),
    ],
)
async def test_wrong_usage(cli: Cli, args: list[str], said: str) -> None:
    """What cannot work ends it with 2 and says what would, also where it only keeps the processes that find out."""
    ended = await cli("worker", *args)
    assert ended.code == 2
    assert ended.err.count(said) == 1


async def test_a_task_that_cannot_be_executed(cli: Cli, tmp_path: Path) -> None:
    """An annotation that does not exist is told before a run fails of it."""
    write(tmp_path / "more.py", MORE.replace("seconds: float", 'seconds: "Secondz"'))
    ended = await cli("worker", "tasks:tail")
    assert ended.code == 2
    assert ended.err.startswith("error[not-loaded]: task hold cannot be executed: ")
    assert "Secondz" in ended.err


async def test_without_a_server(lone_cli: Cli) -> None:
    """No address, and one where nothing answers, are told as all commands tell them."""
    ended = await lone_cli("worker", "tasks:tail")
    assert (ended.code, ended.err.split(":")[0]) == (5, "error[not-configured]")
    ended = await lone_cli("worker", "tasks:tail", "--redis-url", "redis://localhost:1")
    assert (ended.code, ended.err.split(":")[0]) == (5, "error[server-unreachable]")


async def test_flags_reach_the_module(lone_cli: Cli, cli: Cli, namespace: str) -> None:
    """--redis-url and --namespace stand for the variables that the module's Tailrace reads."""
    async with Tailrace(cli.url, namespace=namespace) as tail:
        run = await tail.start("answer")
        ended = await lone_cli("worker", "tasks:tail", "--burst", "--redis-url", str(cli.url), "--namespace", namespace)
        assert ended.code == 0, ended.err
        assert await run.result() == 1


async def test_what_it_lacks(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """Tasks that runs wait for and no worker has are named while it runs: as fields in logs, word for word at a terminal."""
    for n in range(12):
        await start(cli, "crawl", f"c{n}")
    program = await begin(cli, "--tasks", "answer,hold")
    await program.says("no_task")
    (found,) = told(program, "no_task")
    assert (found["task"], found["runs"], found["imported"]) == ("crawl", 12, ["tasks", "more"])
    assert (found["found"], found["level"]) == (["answer", "block", "hold"], "warning")
    program.send(signal.SIGTERM)
    assert await program.ended() == 0
    seen = terminal("worker", "tasks:tail", "--tasks", "answer,hold", env={"TAILRACE_REDIS_URL": cli.url})
    await seen.shows('warning[no-task]: 12 runs wait for task "crawl" (oldest ', 20)
    await seen.shows(
        " s), which this worker does not have. It imported tasks, more and found: answer, block, hold.\n  A task exists once "
    )
    await seen.shows("tasks has answer, hold; up to 100 at once, from unix://")
    seen.press("\x03")
    assert await seen.ended() == 130


async def test_groups_that_nobody_has(cli: Cli, server: TestServer, terminal: Callable[..., Terminal]) -> None:
    """Groups that events wait for and no live worker has are named too, once while they wait."""
    async with Tailrace(cli.url) as tail:
        side = LogSide(server, await tail.session())
        await side.bind("audit")
        await side.emit("a", 12)
        side.close()
    program = await begin(cli)
    await program.says("no_group")
    (found,) = told(program, "no_group")
    assert (found["group"], found["events"], found["level"]) == ("audit", 12, "warning")
    program.send(signal.SIGTERM)
    assert await program.ended() == 0
    seen = terminal("worker", "tasks:tail", env={"TAILRACE_REDIS_URL": cli.url})
    await seen.shows('warning[no-group]: 12 events wait for group "audit" (oldest ', 20)
    await seen.shows(" s), which no live worker has.\n  Start a worker whose module has its reactions")
    seen.press("\x03")
    assert await seen.ended() == 130


async def test_it_drains(cli: Cli) -> None:
    """SIGTERM lets what runs finish; it ends with 0."""
    await start(cli, "answer", "a", seconds=1)
    program = await begin(cli)
    await begun(cli, "a")
    await start(cli, "answer", "b", seconds=1)
    await begun(cli, "b")
    program.send(signal.SIGTERM)
    assert await program.ended(15) == 0
    assert [await status(cli, run) for run in "ab"] == ["succeeded"] * 2


async def test_a_second_signal(cli: Cli) -> None:
    """It ends the process at once, even one whose loop is held."""
    await start(cli, "hold", "h", seconds=60)
    program = await begin(cli)
    await begun(cli, "h")
    program.send(signal.SIGTERM)

    def has_ended_by_another() -> bool:
        program.send(signal.SIGINT)  # one that comes before the first was taken note of is as good as none
        return program.process.poll() is not None

    await until(has_ended_by_another, "it has ended", 10)
    assert await program.ended(5) == -signal.SIGINT


async def test_processes(cli: Cli) -> None:
    """--processes 2: two workers with names of their own; one that is killed has a successor under a new name; all end together."""
    program = cli.begin("worker", "tasks:tail", "--processes", "2")
    await until(lambda: len(told(program, "worker_ready")) == 2, "two workers", 20)
    first = {ready["consumer"]: pid_of(ready) for ready in told(program, "worker_ready")}
    killed = min(first)
    os.kill(first[killed], signal.SIGKILL)
    await until(lambda: len(told(program, "worker_ready")) == 3, "a successor", 20)
    assert told(program, "process_died")[0]["code"] == -9
    names = [ready["consumer"] for ready in told(program, "worker_ready")]
    assert len(set(names)) == 3
    await start(cli, "answer", "a")
    await until(lambda: ended_as(cli, "a", "succeeded"), "it is executed", 20)
    program.send(signal.SIGINT)
    assert await program.ended(15) == 130
    alive = {worker.consumer for worker in (await workers(cli)).alive}
    assert alive <= {killed}  # which may not be missed yet
    assert not any(is_alive(pid_of(ready)) for ready in told(program, "worker_ready"))


async def test_signals_of_a_service_manager(cli: Cli) -> None:
    """One that signals every process of the service, as systemd does, makes two signals of one: they drain all the same."""
    program = cli.begin("worker", "tasks:tail", "--processes", "2")
    await until(lambda: len(told(program, "worker_ready")) == 2, "two workers", 20)
    await start(cli, "answer", "a", seconds=1)
    await begun(cli, "a")
    for pid in [*map(pid_of, told(program, "worker_ready")), program.pid]:
        os.kill(pid, signal.SIGTERM)
    assert await program.ended(15) == 0
    assert await status(cli, "a") == "succeeded"
    program = cli.begin("worker", "tasks:tail", "--processes", "2")
    await until(lambda: len(told(program, "worker_ready")) == 2, "two workers", 20)
    await start(cli, "answer", "b", seconds=60)
    await begun(cli, "b")
    program.send(signal.SIGINT)
    program.send(signal.SIGTERM)
    assert await program.ended(5) == 130


async def test_ended_while_it_starts(cli: Cli) -> None:
    """Ctrl-C before its processes are ready ends all without a traceback."""
    program = cli.begin("worker", "tasks:tail", "--processes", "2")
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    await until(children.read_text, "the first process is made", 20)
    program.send(signal.SIGINT)
    assert await program.ended(15) == 130
    assert "Traceback" not in program.err


async def test_burst_of_several_processes(cli: Cli) -> None:
    """They end by themselves, and so does what keeps them."""
    for n in range(20):
        await start(cli, "answer", f"a{n}")
    ended = await cli("worker", "tasks:tail", "--processes", "2", "--burst")
    assert ended.code == 0, ended.err
    assert {await status(cli, f"a{n}") for n in range(20)} == {"succeeded"}


async def test_processes_end_with_their_keeper(cli: Cli) -> None:
    """kill -9 of the supervisor leaves no worker behind, and lets them drain."""
    if sys.platform != "linux":
        pytest.skip("the kernel tells of a parent's death on Linux only")
    program = cli.begin("worker", "tasks:tail", "--processes", "2")
    await until(lambda: len(told(program, "worker_ready")) == 2, "two workers", 20)
    await start(cli, "answer", "a", seconds=1)
    await begun(cli, "a")
    program.process.kill()
    pids = [pid_of(ready) for ready in told(program, "worker_ready")]
    await until(lambda: not any(map(is_alive, pids)), "both are gone", 15)
    assert await status(cli, "a") == "succeeded"


async def test_reload(cli: Cli, tmp_path: Path) -> None:
    """A change brings a process with the new code, while the old one finishes what it has; a fault changes nothing."""
    await start(cli, "answer", "old", seconds=2)
    program = await begin(cli, "--reload")
    await begun(cli, "old")
    write(tmp_path / "tasks.py", TASKS.replace("VERSION = 1", "VERSION = 2"))
    await until(lambda: len(told(program, "worker_ready")) == 2, "the new code", 20)
    await until(lambda: ended_as(cli, "old", "succeeded"), "the old one has finished", 20)
    await until(lambda: not is_alive(pid_of(told(program, "worker_ready")[0])), "the old one is gone", 20)
    write(tmp_path / "more.py", "def (:\n")
    await program.says("reload_failed", 20)
    assert "SyntaxError" in program.err
    await start(cli, "answer", "new")
    await until(lambda: ended_as(cli, "new", "succeeded"), "the new one goes on", 20)
    async with Tailrace(cli.url) as tail:
        assert [await tail.run(name).result() for name in ("old", "new")] == [1, 2]
    program.send(signal.SIGTERM)
    assert await program.ended(15) == 0


def pid_of(ready: dict[str, Any]) -> int:
    return int(ready["consumer"].split("-")[-2])


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


async def ended_as(cli: Cli, run: str, wanted: str) -> bool:
    return await status(cli, run) == wanted
