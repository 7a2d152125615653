from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from processor.cli.exec import MAX_BYTES, MAX_LINES, Lines, _batches
from tests.processor.cli.conftest import Cli
from tests.support.servers import Daemon
from tests.support.until import until


async def _events(cli: Cli, run: str) -> list[dict[str, Any]]:
    return (await cli.here("replay", run, "--speed", "max")).records


async def test_a_program_becomes_a_run(cli: Cli) -> None:
    """Its lines are log events, it is passed through, its end is the run's end."""
    ended = await cli("exec", "--run", "job", "--", "sh", "-c", "echo one; echo two; echo bad >&2")
    assert (ended.code, ended.out, ended.err) == (0, "one\ntwo\n", "run job\nbad\n")
    events = await _events(cli, "job")
    assert {e["type"] for e in events[1:-1]} == {"log"}
    assert (events[0]["type"], events[-1]["type"]) == ("run.started", "run.finished")
    logs = [e["data"] for e in events if e["type"] == "log"]
    assert [line for d in logs if d["logger"] == "stdout" for line in d["lines"]] == ["one", "two"]
    assert [(d["level"], d["lines"]) for d in logs if d["logger"] == "stderr"] == [("warning", ["bad"])]
    assert events[-1]["data"] == {"result": {"exit_code": 0}}
    state = (await cli.here("show", "job")).records[0]
    assert state["labels"] == {"command": "sh -c echo one; echo two; echo bad >&2"}


async def test_a_long_command_names_its_beginning(cli: Cli) -> None:
    """A label has 64 bytes at most, and no character is cut."""
    await cli("exec", "-q", "--run", "job", "--", "true", "ä" * 100)
    state = (await cli.here("show", "job")).records[0]
    assert state["labels"] == {"command": "true " + "ä" * 29}


async def test_it_ends_as_the_program_did(cli: Cli) -> None:
    """An exit code fails the run and is ours."""
    ended = await cli("exec", "--run", "job", "--", "sh", "-c", "exit 3")
    assert ended.code == 3
    last = (await _events(cli, "job"))[-1]
    assert (last["type"], last["data"]["error"]) == ("run.failed", "exit code 3")


async def test_options_of_the_program_stay_its_own(cli: Cli) -> None:
    """Behind the program's name nothing is ours, with or without --."""
    for between in ([], ["--"]):
        ended = await cli("exec", "-q", *between, "echo", "--json", "-v", "--run", "x")
        assert (ended.code, ended.out, ended.err) == (0, "--json -v --run x\n", "")


async def test_no_such_program(cli: Cli) -> None:
    """127, as shells say it, and no run."""
    ended = await cli("exec", "--", "no-such-program")
    assert (ended.code, ended.err.split("\n")[0]) == (127, "error[usage]: there is no program 'no-such-program'.")
    assert (await cli.here("runs")).out == ""


async def test_signals_pass_through(cli: Cli) -> None:
    """SIGTERM reaches the program, which decides; a program that a signal ends is 128 and its number."""
    program = cli.begin(
        "exec",
        "--run",
        "a",
        "--",
        "sh",
        "-c",
        'trap "echo got it; exit 7" TERM; echo ready; while :; do sleep 0.02; done',
    )
    await program.says("ready")
    program.send(signal.SIGTERM)
    assert await program.ended() == 7
    assert "got it" in program.out
    program = cli.begin("exec", "--run", "b", "--", "sh", "-c", "echo ready; exec sleep 60")
    await program.says("ready")
    program.send(signal.SIGINT)
    assert await program.ended() == 128 + signal.SIGINT
    assert (await _events(cli, "b"))[-1]["data"]["error"] == "ended by SIGINT"


async def test_cancel_ends_the_program(cli: Cli) -> None:
    """`tailrace cancel` of the run is SIGTERM to the program."""
    program = cli.begin("exec", "--run", "a", "--", "sh", "-c", "echo ready; exec sleep 60")
    await program.says("ready")
    await cli.here("cancel", "a", "--reason", "enough")
    assert await program.ended() == 128 + signal.SIGTERM
    last = (await _events(cli, "a"))[-1]
    assert (last["type"], last["data"]["reason"]) == ("run.cancelled", "enough")


async def test_the_same_run_again_is_refused(cli: Cli) -> None:
    """--run with an ID that exists starts nothing."""
    await cli("exec", "--run", "a", "--", "true")
    ended = await cli("exec", "--run", "a", "--", "echo", "again")
    assert (ended.code, ended.out, ended.err.split(":")[0]) == (4, "", "error[run-exists]")
    assert "run a exists already" in ended.err


async def test_much_output(cli: Cli) -> None:
    """Every line arrives, in order, in few events."""
    count = 20_000
    code = f"for n in range({count}): print('line', n)"
    ended = await cli("exec", "-q", "--run", "a", "--", sys.executable, "-c", code)
    assert ended.out.count("\n") == count
    logs = [e for e in await _events(cli, "a") if e["type"] == "log"]
    assert [line for e in logs for line in e["data"]["lines"]] == [f"line {n}" for n in range(count)]
    assert len(logs) < count / 4  # how many lines a read brings depends on who gets the processor


async def test_the_server_goes_away_and_comes_back(cli: Cli) -> None:
    """The program runs on while the server is gone, and every line arrives once when it is back."""
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        daemon = Daemon("valkey", Path(folder), ["--appendonly", "yes"])
        await asyncio.to_thread(daemon.start)
        cli.url = daemon.url
        try:
            code = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo line $n; sleep 0.1; done"
            program = cli.begin("exec", "--run", "a", "--", "sh", "-c", code)
            await program.says("line 3\n")
            daemon.kill()
            await program.says("line 9\n")
            await asyncio.to_thread(daemon.start)
            assert await program.ended() == 0, program.err
            logs = [e for e in await _events(cli, "a") if e["type"] == "log"]
            assert [line for e in logs for line in e["data"]["lines"]] == [f"line {n}" for n in range(1, 16)]
        finally:
            daemon.kill()


async def test_nobody_reads_our_output(cli: Cli) -> None:
    """A closed pipe behind us does not disturb the program."""
    command = f"{sys.executable} -m processor.cli.main exec -q --run a -- sh -c 'echo 1; sleep 0.2; echo 2' | true"
    shell = cli._start("sh", "-c", command, env={"TAILRACE_REDIS_URL": cli.url}, cwd=cli.folder)
    await shell.ended()

    async def ended() -> bool:
        return '"succeeded"' in (await cli.here("runs")).out

    await until(ended, "the run succeeded", 15)
    logs = [e for e in await _events(cli, "a") if e["type"] == "log"]
    assert [line for e in logs for line in e["data"]["lines"]] == ["1", "2"]


def test_lines() -> None:
    """Pieces become whole lines, CR LF counts as one end, the last line needs none."""
    lines = Lines()
    assert lines.feed(b"a\r\nb") == ["a"]
    assert lines.feed(b"c\n\nd") == ["bc", ""]
    assert lines.end() == ["d"]
    assert lines.end() == []
    assert Lines().feed(b"\xff\n") == ["�"]


def test_lines_without_end_go_in_pieces() -> None:
    """A program that never writes LF does not fill the memory."""
    lines = Lines()
    pieces = [piece for _ in range(10) for piece in lines.feed(b"x" * 10_000)]
    assert sum(map(len, pieces + lines.end())) == 100_000
    assert max(map(len, pieces)) <= MAX_BYTES


@pytest.mark.parametrize("line", ["x" * 200_000, "\x01" * 50_000, "é" * 50_000])
def test_batches_fit_into_events(line: str) -> None:
    """However long a line is and whatever JSON makes of it, no batch is larger than an event may be."""
    batches = list(_batches(["a", line, "b"]))
    assert "".join(part for batch in batches for part in batch) == f"a{line}b"
    assert all(len(batch) <= MAX_LINES for batch in batches)
    assert len(list(_batches(["x"] * (MAX_LINES * 2 + 1)))) == 3
