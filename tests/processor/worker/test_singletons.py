from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
from structlog.testing import capture_logs

from processor import Tailrace
from processor.core.settings import Settings
from processor.worker.singletons import Duty, Singletons
from tests.processor.store.lock_servers import running_lock_servers
from tests.support.servers import Daemon, TestServer
from tests.support.until import until

TTL_MS = 500


class Doing:
    """A duty that notes who does it."""

    def __init__(self) -> None:
        self.now: list[str] = []
        self.most = 0
        self.begun: list[str] = []

    def duty(self, who: str) -> Duty:
        async def do(stop: asyncio.Event) -> None:
            self.begun.append(who)
            self.now.append(who)
            self.most = max(self.most, len(self.now))
            try:
                await stop.wait()
            finally:
                self.now.remove(who)

        return do


class Member:
    """A process that stands for duties."""

    def __init__(self, singletons: Singletons) -> None:
        self.singletons = singletons
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(singletons.run(self.stop))

    async def leave(self) -> None:
        self.stop.set()
        await self.task

    async def die(self) -> None:
        """Its locks stay, as those of a killed process do."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def members(
    settings: Settings, duties: Callable[[str], dict[str, Duty]], names: str, **options: object
) -> AsyncIterator[dict[str, Member]]:
    """One for each letter of names."""
    async with AsyncExitStack() as stack:
        found = {}
        for name in names:
            tail = await stack.enter_async_context(Tailrace(settings=settings))
            singletons = Singletons(await tail.session(), duties(name), **{"ttl_ms": TTL_MS, **options})  # type: ignore[arg-type]
            found[name] = Member(singletons)
        try:
            yield found
        finally:
            for member in found.values():
                await member.leave()


async def test_one_at_a_time(settings: Settings) -> None:
    """Of three processes one has the duty; when it stops, another has it at once, long before a TTL."""
    doing = Doing()
    async with members(settings, lambda who: {"tidy": doing.duty(who)}, "abc", ttl_ms=1500) as found:
        for _ in range(2):
            await until(lambda: doing.now, "one is elected", 8)
            (first,) = doing.now
            assert found[first].singletons.held == {"tidy"}
            before = time.monotonic()
            await found[first].leave()
            assert first not in doing.now
            await until(lambda: doing.now, "another is elected")
            assert time.monotonic() - before < 1
    assert doing.most == 1


async def test_duties_are_held_apart(settings: Settings) -> None:
    """Each duty has a lock of its own, and goes on for many TTLs."""
    doing = Doing()
    async with members(settings, lambda who: {"tidy": doing.duty("tidy"), "count": doing.duty("count")}, "ab"):
        await until(lambda: sorted(doing.now) == ["count", "tidy"], "both are done", 8)
        await asyncio.sleep(TTL_MS / 1000 * 3)
        assert sorted(doing.begun) == ["count", "tidy"]


async def test_lost_to_another(settings: Settings, server: TestServer, namespace: str) -> None:
    """A duty is cancelled when its lock is somebody else's, and done again once that has expired."""
    doing = Doing()
    async with members(settings, lambda who: {"tidy": doing.duty(who)}, "a"):
        await until(lambda: doing.now, "it is elected", 8)
        with server.client() as client:
            client.set(f"tr:{{{namespace}}}:lock:tidy", "somebody", px=1000)
        await until(lambda: not doing.now, "the duty was cancelled", TTL_MS / 1000)
        await until(lambda: doing.now, "it is elected again")


async def test_ends_with_its_validity(namespace: str) -> None:
    """A duty whose lock server does not answer any more is cancelled when the lock is no longer valid; then it waits."""
    with tempfile.TemporaryDirectory(prefix="tailrace-lock-") as folder:
        daemon = Daemon("valkey", Path(folder))
        daemon.start()
        try:
            doing = Doing()
            settings = Settings(redis_url=daemon.url, namespace=namespace)
            async with members(settings, lambda who: {"tidy": doing.duty(who)}, "a") as found:
                await until(lambda: doing.now, "it is elected", 8)
                daemon.kill()
                before = time.monotonic()
                await until(lambda: not doing.now, "the duty was cancelled")
                assert time.monotonic() - before <= TTL_MS / 1000 + 0.1
                daemon.start()
                await until(lambda: doing.now, "it is elected again", 8)
                assert not found["a"].task.done()
        finally:
            daemon.kill()


async def test_minority_of_lock_servers_away(server: TestServer, namespace: str) -> None:
    """With three lock servers of their own a duty outlives the loss of one, and two processes never have it."""
    doing = Doing()
    with running_lock_servers(3) as daemons:
        settings = Settings(redis_url=server.url, namespace=namespace, lock_urls=tuple(daemons.urls))
        async with members(settings, lambda who: {"tidy": doing.duty(who)}, "ab"):
            await until(lambda: doing.now, "one is elected", 8)
            daemons.kill(1)
            await asyncio.sleep(TTL_MS / 1000 * 2.5)
            assert len(doing.now) == len(doing.begun) == 1
            with server.client() as client:
                assert client.keys(f"tr:{{{namespace}}}:lock:*") == []
    assert doing.most == 1


async def test_handed_over(settings: Settings) -> None:
    """After so many extensions the duty is given up, so that another process may be elected."""
    doing = Doing()
    with capture_logs() as logs:
        async with members(settings, lambda who: {"tidy": doing.duty(who)}, "ab", max_extensions=2):
            await until(lambda: len(set(doing.begun)) == 2, "both had their turn", 15)
    assert doing.most == 1
    assert {log["why"] for log in logs if log["event"] == "singleton_over"} == {"handed_over", "stopped"}


async def test_a_process_that_was_frozen_gives_up(settings: Settings) -> None:
    """Who finds that the lock's validity has passed meanwhile asks nobody, and is elected anew."""
    doing, leap = Doing(), [0.0]
    clock = lambda: time.monotonic() + leap[0]  # noqa: E731
    with capture_logs() as logs:
        async with members(settings, lambda who: {"tidy": doing.duty(who)}, "a", clock=clock):
            await until(lambda: doing.now, "it is elected", 8)
            leap[0] = 100
            await until(lambda: not doing.now, "the duty was cancelled", TTL_MS / 1000)
            await until(lambda: doing.now, "it is elected again")
    assert [log["why"] for log in logs if log["event"] == "singleton_over"] == ["lost", "stopped"]


async def test_what_a_duty_raises(settings: Settings) -> None:
    """A duty that fails is told with its traceback and stood for again; others go on."""
    tries, doing = [0], Doing()

    async def fails(stop: asyncio.Event) -> None:
        tries[0] += 1
        if tries[0] == 1:
            raise ValueError("spilled")
        await stop.wait()

    with capture_logs() as logs:
        async with members(settings, lambda who: {"fails": fails, "tidy": doing.duty(who)}, "a"):
            await until(lambda: tries[0] == 2, "it is tried again", 10)
            assert doing.begun == ["a"]
    (failed,) = [log for log in logs if log["event"] == "singleton_failed"]
    assert (failed["duty"], str(failed["exc_info"])) == ("fails", "spilled")


async def test_a_duty_that_does_not_stop(settings: Settings, server: TestServer, namespace: str) -> None:
    """It has a second to end by itself, then it is cancelled; its lock is given back."""
    begun = asyncio.Event()

    async def deaf(stop: asyncio.Event) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with members(settings, lambda who: {"deaf": deaf}, "a") as found:
        with anyio.fail_after(8):
            await begun.wait()
        with anyio.fail_after(2):
            await found["a"].leave()
        with server.client() as client:
            assert client.keys(f"tr:{{{namespace}}}:lock:*") == []


async def test_on_fakeredis(every_server: TestServer, namespace: str) -> None:
    """On the sandbox's server duties are done as on real ones."""
    doing = Doing()
    settings = Settings(redis_url=every_server.url, namespace=namespace)
    async with members(settings, lambda who: {"tidy": doing.duty(who)}, "ab"):
        await until(lambda: doing.now, "one is elected", 8)
        await asyncio.sleep(TTL_MS / 1000)
        assert len(doing.begun) == 1
