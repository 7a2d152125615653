from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from processor.cli.doctor import judged
from processor.core.settings import Settings
from processor.store.checks import Facts
from tests.processor.cli.conftest import Cli, Ended, Terminal
from tests.support.impostor import REDIS_6, impostor
from tests.support.servers import running

HEALTHY = Facts(
    name="Valkey",
    version="9.1.2",
    role="master",
    primary=None,
    read_only=False,
    used_bytes=1 << 20,
    max_bytes=0,
    policy="noeviction",
    aof=True,
    fsync="everysec",
    snapshots="",
    pubsub_limit=(32 << 20, 8 << 20, 60),
    node_max_bytes=4096,
    clients=5,
    max_clients=10_000,
    clock_skew_ms=-3.2,
)


def _statuses(ended: Ended) -> dict[str, str]:
    return {record["check"]: record["status"] for record in ended.records}


async def test_a_server_that_will_do(cli: Cli) -> None:
    """Everything that was looked at is told, one object a line, and the exit code is 0."""
    ended = await cli("doctor")
    statuses = _statuses(ended)
    assert ended.code == 0
    assert {"versions", "server", "persistence", "eviction", "memory", "buffers", "clock", "namespace"} <= set(statuses)
    assert "FAIL" not in statuses.values()


async def test_at_a_terminal(terminal: Callable[..., Terminal]) -> None:
    """A line a finding, and the remedy under what fails."""
    seen = terminal("doctor", env={"TAILRACE_REDIS_URL": "redis://localhost:1"})
    assert await seen.ended() == 1
    lines = seen.seen.splitlines()
    assert lines[0].startswith("doctor: ok   versions    tailrace ")
    assert lines[1] == (
        "doctor: FAIL server      nothing answers at redis://localhost:1 (connection refused). "
        "The address comes from TAILRACE_REDIS_URL."
    )
    assert lines[2].startswith("  For development: unset it and run `tailrace up`")


async def test_without_any_server(lone_cli: Cli) -> None:
    """No address is something to mend."""
    ended = await lone_cli("doctor")
    assert (ended.code, _statuses(ended)["server"]) == (1, "FAIL")
    assert "no server is known" in ended.out


async def test_all_that_is_wrong_at_once(lone_cli: Cli) -> None:
    """An evicting server that also keeps nothing is told both, and a wrong variable besides."""
    extra = ["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "no"]
    with running("valkey", extra) as server:
        ended = await lone_cli("doctor", env={"TAILRACE_REDIS_URL": server.url, "TAILRACE_PROT": "1"})
    statuses = _statuses(ended)
    assert ended.code == 1
    assert (statuses["eviction"], statuses["persistence"], statuses["settings"]) == ("FAIL", "warn", "warn")
    assert "TAILRACE_PROT is set and names no setting. Perhaps TAILRACE_PORT?" in ended.out


async def test_too_old_and_wrong_settings(lone_cli: Cli) -> None:
    """Both are errors with their own words."""
    async with impostor(REDIS_6) as url:
        ended = await lone_cli("doctor", env={"TAILRACE_REDIS_URL": url})
    assert ended.code == 1
    assert "is Redis 6.0.16; tailrace needs Redis 7.0" in ended.out
    wrong = await lone_cli.here("doctor", env={"TAILRACE_PORT": "x"})
    assert (wrong.code, _statuses(wrong)["settings"]) == (1, "FAIL")


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        ({"aof": False, "snapshots": ""}, "persistence", "nothing is written to disk"),
        ({"aof": False, "snapshots": "3600 1"}, "persistence", "snapshots only (save 3600 1)"),
        ({"fsync": "no"}, "persistence", "a machine's crash loses up to 30 s"),
        ({"max_bytes": 1 << 20, "used_bytes": 1_000_000}, "memory", "(95%)"),
        ({"pubsub_limit": (1 << 20, 1 << 18, 3)}, "buffers", "pubsub 1.0 MiB, 256.0 KiB for 3 s"),
        ({"node_max_bytes": 65536}, "streams", "stream-node-max-bytes is 65536"),
        ({"clients": 9_000}, "clients", "9000 of 10000 connections"),
        ({"clock_skew_ms": 4200.0}, "clock", "4.2 s ahead of this machine's"),
    ],
)
def test_what_could_be_better(change: dict[str, Any], check: str, said: str) -> None:
    """Each weakness is a warning with its figure and a remedy."""
    found = {f.check: f for f in judged(dataclasses.replace(HEALTHY, **change), Settings(redis_url="redis://h"))}
    assert (found[check].status, said in found[check].detail, bool(found[check].remedy)) == ("warn", True, True)


def test_accepted_eviction() -> None:
    """Eviction that a setting accepts stays a warning."""
    facts = dataclasses.replace(HEALTHY, policy="allkeys-lru")
    found = {f.check: f for f in judged(facts, Settings(redis_url="redis://h", allow_eviction=True))}
    assert found["eviction"].status == "warn"


def test_nothing_to_say() -> None:
    """A healthy server has no warning, and what a server hides is left out."""
    assert {f.status for f in judged(HEALTHY, Settings(redis_url="redis://h"))} == {"ok"}
    hidden: dict[str, Any] = dict.fromkeys(
        (
            "used_bytes",
            "max_bytes",
            "policy",
            "aof",
            "fsync",
            "pubsub_limit",
            "node_max_bytes",
            "clients",
            "max_clients",
        )
    )
    told = [f.check for f in judged(dataclasses.replace(HEALTHY, **hidden), Settings(redis_url="redis://h"))]
    assert told == ["server", "clock"]
