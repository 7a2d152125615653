"""The appender against a server that does not answer, and when it is closed."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from processor import Tailrace
from processor.core.errors import ServerError, ServerUnreachable
from processor.store import append as append_module
from processor.store import server as server_module
from tests.support.servers import Daemon, TestServer


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A Valkey of the test's own."""
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        daemon = Daemon("valkey", Path(folder))
        daemon.start()
        yield daemon
        if daemon.process is not None:
            daemon.process.send_signal(signal.SIGCONT)
        daemon.kill(signal.SIGTERM)


def signal_to(daemon: Daemon, number: signal.Signals) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(number)


@pytest.mark.holds_loop
async def test_a_silent_server_counts_as_lost(daemon: Daemon, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that nobody ends and nobody answers on is given up, and what was under way is sent again once."""
    monkeypatch.setattr(append_module, "SWEEP_SECONDS", 0.05)
    async with Tailrace(daemon.url, namespace=namespace) as tail:
        run = tail.run("r")
        await run.log("one")
        appender = (await tail.session()).appender
        lost = asyncio.Event()
        appender.on_trouble.append(lambda _: lost.set())
        signal_to(daemon, signal.SIGSTOP)
        sent = run.log("two")
        with anyio.fail_after(5):
            await lost.wait()
        assert isinstance(appender.trouble, ServerUnreachable)
        signal_to(daemon, signal.SIGCONT)
        with anyio.fail_after(20):
            await sent
        assert [event.text async for event in run.follow(live=False)] == ["one", "two"]


@pytest.mark.holds_loop
async def test_closing_tells_whoever_waits(daemon: Daemon, namespace: str) -> None:
    """What had no answer when its Tailrace was closed is told so, awaited before or behind the end."""
    tail = Tailrace(daemon.url, namespace=namespace)
    run = tail.run("r")
    await run.log("one")
    writer = run._writer()
    signal_to(daemon, signal.SIGSTOP)
    sent = run.log("two")
    waiting = asyncio.ensure_future(sent.settled())
    await tail.close()
    with anyio.fail_after(5):
        await waiting
        with pytest.raises(ServerUnreachable, match="closed"):
            await sent
        with pytest.raises(ServerUnreachable, match="closed"):
            await writer.put(sent.draft)


async def test_closing_while_it_opens_tells_whoever_waits(
    server: TestServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a server that does not answer the first question is told when it is closed."""
    asked = asyncio.Event()

    async def unanswered(*_: object, **__: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(server_module, "check_server", unanswered)
    tail = Tailrace(server.url, namespace=namespace)
    opening = asyncio.create_task(tail.session())
    await asked.wait()
    await tail.close()
    with anyio.fail_after(5), pytest.raises(ServerUnreachable, match="closed"):
        await opening


async def test_what_keeps_it_from_opening_is_told(server: TestServer, namespace: str) -> None:
    """A topology that nobody can read is an error for whoever writes, not a wait without end."""
    client = server.client()
    client.hset(f"tr:{{{namespace}}}:topology", "layout", "eight nonce")
    client.close()
    tail = Tailrace(server.url, namespace=namespace)
    with anyio.fail_after(5), pytest.raises(ServerError, match="cannot be used"):
        await tail.run("r").log("x")
    await tail.close()


@pytest.mark.holds_loop
async def test_a_server_that_takes_no_script_is_told(daemon: Daemon, namespace: str) -> None:
    """Where an ACL forbids SCRIPT LOAD, writes raise what the server says, and the server is not asked without pause."""
    client = TestServer("valkey", daemon.url).client()
    client.acl_setuser("u", enabled=True, passwords=["+p"], keys=["*"], channels=["*"], commands=["+@all", "-script"])
    tail = Tailrace(daemon.url.replace("unix://", "unix://u:p@"), namespace=namespace)
    try:
        with anyio.fail_after(5), pytest.raises(ServerError, match="script"):
            await tail.run("r").log("x")
        await tail.close()
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] < 20
    finally:
        client.close()
