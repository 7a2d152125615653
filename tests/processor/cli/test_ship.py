"""`tailrace ship`: what it says, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processor.cli.conftest import Cli
from tests.support.program import Program
from tests.support.servers import Daemon
from tests.support.until import until


async def test_once(cli: Cli, tmp_path: Path) -> None:
    """What is there is shipped, and told as one object a file; again, there is nothing; --finish ends the runs."""
    file = tmp_path / "a.log"
    file.write_bytes(b"one\n  more\ntwo\n")
    ended = await cli("ship", "--once", "--run", "logs", str(file))
    assert (ended.code, ended.err) == (0, "")
    assert ended.records == [{"run": "logs", "file": str(file), "bytes": 15}]
    ended = await cli("ship", "--once", "--finish", "--run", "logs", str(file))
    assert ended.records == [{"run": "logs", "file": str(file), "bytes": 0}]
    events = (await cli.here("replay", "logs", "--speed", "max")).records
    assert [line for event in events[:-1] for line in event["data"]["lines"]] == ["one\n  more", "two"]
    assert events[-1]["type"] == "run.finished"
    file.write_bytes(b"one\n  more\ntwo\nthree\n")
    ended = await cli("ship", "--once", "--run", "logs", str(file))
    assert ended.code == 4
    assert "error[closed]" in ended.err


async def test_own_beginnings(cli: Cli, tmp_path: Path) -> None:
    """--multiline says what begins an entry, and what is no regular expression is named."""
    file = tmp_path / "a.log"
    file.write_bytes(b"10 one\ntwo\n20 three\n")
    assert (await cli("ship", "--once", "--run", "logs", "--multiline", r"\d\d ", str(file))).code == 0
    events = (await cli.here("replay", "logs", "--speed", "max")).records
    assert [line for event in events for line in event["data"]["lines"]] == ["10 one\ntwo", "20 three"]
    ended = await cli.here("ship", "--multiline", "(", str(file))
    assert ended.code == 2
    assert "no regular expression" in ended.err


async def test_usage(cli: Cli) -> None:
    """--finish has no sense without --once, and a run's name is checked before anything is read."""
    ended = await cli.here("ship", "--finish", "x.log")
    assert (ended.code, "--once" in ended.err) == (2, True)
    assert (await cli.here("ship", "--run", "a b", "x.log")).code == 2


async def test_what_is_missing(cli: Cli, tmp_path: Path) -> None:
    """With --once, a file that is not there is told and gives 3, one that may not be read 6; others are shipped."""
    there, locked = tmp_path / "there.log", tmp_path / "locked.log"
    there.write_bytes(b"one\n")
    ended = await cli("ship", "--once", str(there), str(tmp_path / "none.log"), "--host", "web-1")
    assert ended.code == 3
    assert [record["bytes"] for record in ended.records] == [4, 0]
    assert ended.records[0]["run"].startswith("web-1:")
    assert "file_unreadable" in ended.err
    locked.write_bytes(b"one\n")
    locked.chmod(0)
    if not os.access(locked, os.R_OK):  # root may read everything
        assert (await cli("ship", "--once", str(locked))).code == 6


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_it_follows_until_it_is_stopped(cli: Cli, tmp_path: Path, sig: signal.Signals) -> None:
    """Files are told with their runs; SIGTERM is a clean end, Ctrl-C ends as everywhere."""
    file = tmp_path / "a.log"
    file.write_bytes(b"one\n")
    shipping = cli.begin("ship", str(file), "--silence", "100ms")
    await shipping.says('"file":')
    run = shipping.out.split('"')[3]
    events = cli.begin("tail", run, "--wait", "10s")
    await events.says("one")
    shipping.send(sig)
    assert await shipping.ended() == (0 if sig == signal.SIGTERM else 130)
    assert "Traceback" not in shipping.err


async def test_a_server_that_is_away(tmp_path: Path, program: Callable[..., Program]) -> None:
    """Followed files wait for the server, from the beginning and later; each time one line says so."""
    file = tmp_path / "a.log"
    file.write_bytes(b"one\n")
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        daemon = Daemon("valkey", Path(folder))
        env = {"TAILRACE_REDIS_URL": daemon.url, "TAILRACE_NAMESPACE": None}
        shipping = program(
            *("python", "-m", "processor.cli.main", "ship", str(file), "--run", "logs", "--silence", "100ms"), env=env
        )
        await shipping.says("warning[server-unreachable]")
        await asyncio.to_thread(daemon.start)
        try:
            follow = program("python", "-m", "processor.cli.main", "tail", "logs", "--wait", "20s", env=env)
            await follow.says("one")
            await asyncio.to_thread(daemon.kill)
            await shipping.says("appends_wait")
            with file.open("ab") as more:
                more.write(b"two\n")
            await asyncio.to_thread(daemon.start)  # without persistence: it has lost everything
            again = program("python", "-m", "processor.cli.main", "tail", "logs", "--wait", "20s", env=env)
            await again.says("two")
            await until(lambda: "one" in again.out, "the first line came again")
            assert shipping.err.count("warning[") == 1
        finally:
            await asyncio.to_thread(daemon.kill)
