"""What is wrong with the Redis server is told as 503 in the words of the fault, within five seconds, and never as 500."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from gateway.app import standalone
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from tests.gateway.answers import post, problem_of
from tests.gateway.serving import Way, serving
from tests.support.servers import Daemon, TestServer, running
from tests.support.until import until

EVENT = {"type": "a"}


@pytest.fixture
def lonely() -> Iterator[TestServer]:
    """A server that no other test uses: it is broken here."""
    with running("valkey") as server:
        yield server


def command(server: TestServer, *words: str) -> None:
    client: Any = server.client()
    try:
        client.execute_command(*words)
    finally:
        client.close()


async def every_answer(http: httpx.AsyncClient) -> list[httpx.Response]:
    """Of all routes that need the server."""
    return list(
        await asyncio.gather(
            http.get("/api/default/runs"),
            http.get("/api/default/runs/r1"),
            http.get("/api/default/runs/r1/events"),
            http.get("/api/default/runs/r1/events", headers={"Accept": "application/x-ndjson"}),
            http.get("/api/default/runs/r1/events", headers={"Accept": "text/event-stream"}),
            http.get("/api/default/live"),
            http.get("/api/other/runs"),
            http.post("/api/default/runs", json={"task": "a"}),
            http.post("/api/default/runs/r1/events", json=EVENT),
            http.post("/api/default/runs/r1/cancel"),
            http.post("/api/default/runs/r1/inputs", json={"value": 1}),
            http.get("/readyz"),
        )
    )


def unreachable(response: httpx.Response) -> dict[str, Any]:
    problem = problem_of(response, 503, "server-unreachable")
    assert 1 <= int(response.headers["retry-after"]) <= 5
    return problem


async def test_nothing_answers(tmp_path: Path, way: Way) -> None:
    """From the start: every route says so at once, the process itself is healthy, and no address is told."""
    address = f"unix://{tmp_path}/nobody"
    tail = Tailrace(settings=Settings(redis_url=address))
    async with serving(standalone(tail), way) as http:
        for response in await every_answer(http):
            assert str(tmp_path) not in str(unreachable(response))
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/metrics")).status_code == 200
    await tail.close()


async def test_a_server_that_is_silent(lonely: TestServer, way: Way) -> None:
    """The answer comes after five seconds; a resend under the same number is harmless."""
    tail = Tailrace(settings=Settings(redis_url=lonely.url))
    pid = int(_info(lonely, "process_id"))
    async with serving(standalone(tail), way) as http:
        http.timeout = httpx.Timeout(10)
        await http.get("/readyz")
        numbers = {"Tailrace-Producer": "p", "Tailrace-Number": "1"}
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            response = await http.post("/api/default/runs/r1/events", json=EVENT, headers=numbers)
            unreachable(response)
            assert 4 < time.monotonic() - began < 7
        finally:
            os.kill(pid, signal.SIGCONT)
        response = await http.post("/api/default/runs/r1/events", json=EVENT, headers=numbers)
        (result,) = response.json()["results"]
        assert result["id"].startswith("1-")
    await tail.close()


def _info(server: TestServer, name: str) -> str:
    client = server.client()
    try:
        return str(client.info()[name])
    finally:
        client.close()


@pytest.mark.parametrize("opened", [True, False])
async def test_a_read_only_server(lonely: TestServer, way: Way, opened: bool) -> None:
    """Writes are refused in these words, whether it was so from the start or became so; reading goes on."""
    tail = Tailrace(settings=Settings(redis_url=lonely.url))
    async with serving(standalone(tail), way) as http:
        if opened:
            await http.post("/api/default/runs/r1/events", json=EVENT)
        command(lonely, "REPLICAOF", "127.0.0.1", "1")
        if not opened:
            problem_of(await http.get("/readyz"), 503, "server-read-only")
        response = await http.post("/api/default/runs/r1/events", json=EVENT)
        problem_of(response, 503, "server-read-only")
        assert int(response.headers["retry-after"]) >= 1
        problem_of(await http.post("/api/default/runs", json={"task": "a"}), 503, "server-read-only")
        problem_of(await http.get("/readyz"), 503, "server-read-only")
        if opened:
            assert (await http.get("/api/default/runs/r1")).status_code == 200
        command(lonely, "REPLICAOF", "NO", "ONE")
        await until(lambda: _took(http), "writes are taken again")
    await tail.close()


async def _took(http: httpx.AsyncClient) -> bool:
    return (await http.post("/api/default/runs/r1/events", json=EVENT)).status_code == 200


async def test_a_full_server(lonely: TestServer, way: Way) -> None:
    """Out of memory: appends are refused before their first write, reading and cancelling go on."""
    tail = Tailrace(settings=Settings(redis_url=lonely.url))
    async with serving(standalone(tail), way) as http:
        await http.post("/api/default/runs/r1/events", json=EVENT)
        command(lonely, "CONFIG", "SET", "maxmemory", "1")
        response = await http.post("/api/default/runs/r1/events", json=EVENT)
        problem_of(response, 503, "server-full")
        assert int(response.headers["retry-after"]) >= 1
        problem_of(await http.post("/api/default/runs", json={"task": "a"}), 503, "server-full")
        problem_of(await http.get("/readyz"), 503, "server-full")
        assert len((await http.get("/api/default/runs/r1/events")).json()["events"]) == 1
        assert (await http.post("/api/default/runs/r1/cancel")).status_code == 202
        command(lonely, "CONFIG", "SET", "maxmemory", "0")
        await until(lambda: _took(http), "writes are taken again")
    await tail.close()


async def test_a_server_that_was_killed_and_returns(tmp_path_factory: Any, way: Way) -> None:
    """503 while it is away, and the gateway goes on by itself."""
    folder = tmp_path_factory.mktemp("s")
    daemon = Daemon("valkey", folder, ["--appendonly", "yes"])
    daemon.start()
    tail = Tailrace(settings=Settings(redis_url=daemon.url))
    try:
        async with serving(standalone(tail), way, "/api/default") as http:
            await post(http, "r1", "a")
            daemon.kill()
            unreachable(await http.get("/runs/r1"))
            daemon.start()
            await until(lambda: _reads(http), "the gateway reads again")
            await post(http, "r1", "b")
            types = [event["type"] for event in (await http.get("/runs/r1/events")).json()["events"]]
            assert types == ["a", "b"]
    finally:
        await tail.close()
        daemon.kill()


async def _reads(http: httpx.AsyncClient) -> bool:
    return (await http.get("/runs/r1")).status_code == 200


async def test_a_stranger_in_the_keyspace_is_no_bug_of_ours(lonely: TestServer, way: Way) -> None:
    """A key of another type where ours should be: 503 or 409, never 500."""
    tail = Tailrace(settings=Settings(redis_url=lonely.url))
    async with serving(standalone(tail), way, "/api/default") as http:
        await post(http, "r1", "a")
        session = await tail.session()
        keys = session.keys.of("r1")
        client: redis.Redis = lonely.client()
        client.delete(keys.feed("r1"))
        client.set(keys.feed("r1"), "x")
        client.close()
        for response in (
            await http.get("/runs/r1/events"),
            await http.post("/runs/r1/events", json=EVENT),
        ):
            assert response.status_code in (409, 503), response.text
    await tail.close()
