"""cached over several processes, some of which die."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from processor import Tailrace
from processor.cache import cached
from tests.support.program import Program
from tests.support.servers import Daemon, TestServer
from tests.support.until import until

HEAD = """
import asyncio, json, os, sys, threading, time
from processor import Tailrace
from processor.cache import cached
tail = Tailrace(sys.argv[1], namespace=sys.argv[2])
redis = __import__("redis").Redis.from_url(sys.argv[1])
"""

ASYNC = (
    HEAD
    + """
@cached(tail, ttl_seconds=60, claim_seconds=1)
async def slow(x):
    redis.incr("computed"), redis.expire("computed", 60)
    await asyncio.sleep(2.5)  # longer than its claim lasts without renewal
    return x + 1

async def main():
    async with tail:
        print("ready", flush=True)
        while not await asyncio.to_thread(redis.exists, "go"):
            await asyncio.sleep(0.005)
        results = await asyncio.gather(*(slow(1) for _ in range(13)))
        print(json.dumps(results), flush=True)

asyncio.run(main())
"""
)
PLAIN = (
    HEAD
    + """
@cached(tail, ttl_seconds=60, claim_seconds=1)
def slow(x):
    redis.incr("computed"), redis.expire("computed", 60)
    time.sleep(2.5)
    return x + 1

print("ready", flush=True)
while not redis.exists("go"):
    time.sleep(0.005)
results = []
threads = [threading.Thread(target=lambda: results.append(slow(1))) for _ in range(13)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(results), flush=True)
"""
)


async def _one_computation(
    code: str, server: TestServer, namespace: str, program: Callable[..., Program], other_commands: int
) -> None:
    client = server.client()

    def asked() -> int:
        calls: int = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
        return calls

    programs = [program("python", "-c", code, server.url, namespace) for _ in range(4)]
    for one in programs:
        await one.says("ready", 20)
    before = asked()
    client.set("go", 1, ex=60)
    for one in programs:
        assert await one.ended(20) == 0, one.err
        assert json.loads(one.out.split("\n")[1]) == [2] * 13
    assert client.get("computed") == b"1"
    more = asked() - before
    client.close()
    assert more <= other_commands, "those who wait ask when they are woken, and not all the time"


async def test_fifty_callers_in_four_processes(
    server: TestServer, namespace: str, program: Callable[..., Program]
) -> None:
    """They cause one computation, although that takes longer than a claim, and nobody polls."""
    await _one_computation(ASYNC, server, namespace, program, other_commands=40)


async def test_fifty_threads_in_four_processes(
    server: TestServer, namespace: str, program: Callable[..., Program]
) -> None:
    """Plain functions alike; each thread asks for itself, and again when the claim that it knows of would have ended."""
    await _one_computation(PLAIN, server, namespace, program, other_commands=52 * 6 + 30)


DIES = (
    HEAD
    + """
@cached(tail, ttl_seconds=60, claim_seconds=1, name="slow")
async def slow(x):
    print("computes", flush=True)
    await asyncio.sleep(60)

asyncio.run(slow(1))
"""
)


async def test_an_owner_that_is_killed(server: TestServer, namespace: str, program: Callable[..., Program]) -> None:
    """kill -9 of whoever computes: one of those who wait takes over, once the claim has ended."""
    owner = program("python", "-c", DIES, server.url, namespace)
    await owner.says("computes")
    async with Tailrace(server.url, namespace=namespace) as tail:
        computed = 0

        @cached(tail, ttl_seconds=60, claim_seconds=1, name="slow")
        async def slow(x: int) -> int:
            nonlocal computed
            computed += 1
            return x + 1

        waiting = asyncio.create_task(slow(1))
        await asyncio.sleep(0)
        began = time.monotonic()
        owner.kill()
        async with asyncio.timeout(5):
            assert await waiting == 2
        assert time.monotonic() - began < 1.5
        assert computed == 1


async def test_an_owner_that_was_frozen(server: TestServer, namespace: str, program: Callable[..., Program]) -> None:
    """SIGSTOP beyond its claim: what it computes when it wakes is its own caller's, and replaces nothing."""
    code = DIES.replace("await asyncio.sleep(60)", "await asyncio.sleep(1.5)\n    return 'late'").replace(
        "asyncio.run(slow(1))", "print(asyncio.run(slow(1)), flush=True)"
    )
    owner = program("python", "-c", code, server.url, namespace)
    await owner.says("computes")
    owner.send(signal.SIGSTOP)
    async with Tailrace(server.url, namespace=namespace) as tail:

        @cached(tail, ttl_seconds=60, claim_seconds=1, name="slow", early=0)
        async def slow(x: int) -> str:
            return "new"

        assert await slow(1) == "new"
        owner.send(signal.SIGCONT)
        assert await owner.ended(10) == 0, owner.err
        assert "late" in owner.out
        hit = await slow.peek(1)
        assert hit is not None
        assert hit.value == "new"


async def test_a_server_that_goes_and_comes(namespace: str) -> None:
    """Killed in the midst of a computation, the server costs nobody a result; back again, it caches as before."""
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        daemon = Daemon("valkey", Path(folder))
        daemon.start()
        try:
            async with Tailrace(daemon.url, namespace=namespace) as tail:
                computed = 0

                @cached(tail, ttl_seconds=60, claim_seconds=1)
                async def f(x: int) -> int:
                    nonlocal computed
                    computed += 1
                    if x == 1:
                        await asyncio.to_thread(daemon.kill)
                    return x

                assert await f(1) == 1
                assert await f(2) == 2
                await asyncio.to_thread(daemon.start)

                async def is_cached() -> bool:
                    await f(3)
                    try:
                        return await f.peek(3) is not None
                    except Exception:  # noqa: BLE001 - not yet there
                        return False

                await until(is_cached, "it caches again", 15)
        finally:
            daemon.kill()
