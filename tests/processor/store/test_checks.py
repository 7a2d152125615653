"""What is said of a server that will not do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from processor.core.errors import (
    ServerDenied,
    ServerError,
    ServerEvicting,
    ServerFull,
    ServerReadOnly,
    ServerTooOld,
    ServerUnreachable,
)
from processor.core.settings import Settings
from processor.store.checks import Facts, check_server, size_text
from tests.support.impostor import REDIS_6, bulk, impostor
from tests.support.servers import Kind, TestServer, binary_of, running

pytestmark = pytest.mark.holds_loop  # each test starts a server of its own


@pytest.fixture(params=["valkey", "redis7"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """The real servers; fakeredis has no INFO."""
    found = cast("Kind", request.param)
    if binary_of(found) is None:
        pytest.skip(f"{found} is not installed")
    return found


@contextmanager
def _server(kind: Kind, *extra: str) -> Iterator[TestServer]:
    with running(kind, extra) as server:
        yield server


@asynccontextmanager
async def _client(url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=5)
    try:
        yield client
    finally:
        await client.aclose()


async def _check(url: str, *, origin: str = "TAILRACE_REDIS_URL", writes: bool = True, allow: bool = False) -> Facts:
    settings = Settings(redis_url=url, allow_eviction=allow, origins={"redis_url": origin})
    async with _client(url) as client:
        return await check_server(client, settings, writes=writes)


async def test_a_server_that_will_do(kind: Kind) -> None:
    """A plain new server passes, and its facts are told."""
    with _server(kind, "--appendonly", "yes") as server:
        facts = await _check(server.url)
    assert facts.name == ("Valkey" if kind == "valkey" else "Redis")
    assert (facts.role, facts.policy, facts.aof, facts.fsync) == ("master", "noeviction", True, "everysec")
    assert (facts.max_bytes, facts.node_max_bytes) == (0, 2048)
    assert facts.pubsub_limit == (32 << 20, 8 << 20, 60)
    assert abs(facts.clock_skew_ms) < 1000


async def test_unreachable_names_reason_and_origin() -> None:
    """Who set the address is told, and both remedies."""
    with pytest.raises(ServerUnreachable) as caught:
        await _check("redis://:secret@127.0.0.1:1")
    assert str(caught.value) == (
        "nothing answers at redis://:***@127.0.0.1:1 (connection refused). The address comes from TAILRACE_REDIS_URL.\n"
        "  For development: unset it and run `tailrace up`, which brings a server.   "
        "For your Redis: start it, or correct the variable: redis://user:password@host:port/0"
    )


async def test_unreachable_of_a_flag_and_of_a_folder() -> None:
    """An address that no variable holds is not told to be unset."""
    with pytest.raises(ServerUnreachable, match=r"comes from --redis-url\.\n  For development: run `tailrace up`"):
        await _check("redis://127.0.0.1:1", origin="--redis-url")
    with pytest.raises(ServerUnreachable, match=r"The address was given to Tailrace\(\.\.\.\)\.\n"):
        await _check("redis://127.0.0.1:1", origin="argument")
    with pytest.raises(ServerUnreachable, match=r"no such file or directory.*/x/server\.json: its `tailrace up` has"):
        await _check("unix:///nowhere.sock", origin="/x/server.json")


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ("redis_version:6.0.16\r\n", "is Redis 6.0.16; tailrace needs Redis 7.0 or Valkey 8 (it uses sharded PubSub)."),
        ("redis_version:6.2.14\r\nrole:master\r\n", "is Redis 6.2.14; tailrace needs"),
        ("server_name:valkey\r\nvalkey_version:7.2.8\r\nredis_version:7.2.4\r\n", "is Valkey 7.2.8; tailrace needs"),
    ],
)
async def test_too_old(info: str, said: str) -> None:
    """A release without sharded PubSub is refused before anything else, with a way out."""
    async with impostor({**REDIS_6, b"INFO": bulk(info)}) as url:
        with pytest.raises(ServerTooOld) as caught:
            await _check(url)
    assert said in str(caught.value)
    assert caught.value.remedy == (
        "Debian 12 and Ubuntu 24.04 carry Redis 7. To try tailrace without it: `tailrace up`."
    )


async def test_info_forbidden_by_an_acl(kind: Kind) -> None:
    """A user who may not INFO or CONFIG passes on what HELLO says."""
    with _server(kind) as server:
        admin: Any = server.client()
        admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-info", "-config")
        admin.close()
        facts = await _check(server.url.replace("unix://", "unix://app:pw@"))
    assert facts.number >= (7, 0)
    assert (facts.role, facts.policy) == ("master", None)


async def test_denied(kind: Kind) -> None:
    """A missing or wrong password is told as such, without it."""
    with _server(kind) as server:
        admin: Any = server.client()
        admin.config_set("requirepass", "right")
        for url in (server.url, server.url.replace("unix://", "unix://:wrong@")):
            with pytest.raises(ServerDenied, match="does not let us in") as caught:
                await _check(url)
            assert "wrong@" not in str(caught.value)
        admin.execute_command("AUTH", "right")
        admin.config_set("requirepass", "")
        admin.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_evicting(kind: Kind, policy: str) -> None:
    """Any policy but noeviction is refused in full words, unless the loss is accepted."""
    with _server(kind, "--maxmemory", "2gb", "--maxmemory-policy", policy) as server:
        with pytest.raises(ServerEvicting) as caught:
            await _check(server.url)
        assert str(caught.value) == (
            f"{server.url} has maxmemory-policy {policy} and 2.0 GiB: when full it deletes runs nobody has read. "
            "Not started.\n"
            "  CONFIG SET maxmemory-policy noeviction (and in its configuration), or use a server of its own. "
            "To accept the loss: TAILRACE_ALLOW_EVICTION=1; readers then see `gap`."
        )
        assert (await _check(server.url, allow=True)).policy == policy


async def test_full(kind: Kind) -> None:
    """A server at its maxmemory is told with both figures; who only reads may pass."""
    with _server(kind) as server:
        client = server.client()
        client.set("ballast", b"x" * (2 << 20))
        client.config_set("maxmemory", 2 << 20)
        client.close()
        with pytest.raises(ServerFull, match=r"has used \d\.\d MiB of its 2\.0 MiB \(maxmemory\) and refuses writes"):
            await _check(server.url)
        assert (await _check(server.url, writes=False)).max_bytes == 2 << 20


async def test_replica(kind: Kind) -> None:
    """A replica names its primary; who only reads may pass."""
    with _server(kind) as server:
        client = server.client()
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(ServerReadOnly, match=r"is a replica of 127\.0\.0\.1:1 and takes no writes") as caught:
            await _check(server.url)
        assert "redis://127.0.0.1:1" in caught.value.remedy
        assert (await _check(server.url, writes=False)).role == "replica"
        client.close()


async def test_a_primary_without_enough_replicas(kind: Kind) -> None:
    """NOREPLICAS is told in the server's own words."""
    with (
        _server(kind, "--min-replicas-to-write", "1") as server,
        pytest.raises(ServerReadOnly, match="refuses writes: NOREPLICAS"),
    ):
        await _check(server.url)


async def test_asking_to_write_writes_nothing(kind: Kind) -> None:
    """The check leaves no key, whether the namespace exists or not."""
    with _server(kind) as server:
        await _check(server.url)
        client = server.client()
        assert client.dbsize() == 0
        client.hset("tr:{default}:topology", "layout", "8 x")
        await _check(server.url)
        assert client.hgetall("tr:{default}:topology") == {b"layout": b"8 x"}
        client.close()


async def test_other_answers_keep_their_words() -> None:
    """What nobody foresaw is a ServerError with the server's sentence."""
    async with impostor({b"TIME": b"-ERR this is a proxy\r\n"}) as url:
        with pytest.raises(ServerError, match="answers: this is a proxy"):
            await _check(url)


def test_sizes_for_eyes() -> None:
    """Bytes are shown in the largest unit that fits."""
    assert [size_text(n) for n in (None, 5, 2048, 3 << 20, 2 << 30)] == [
        "unknown",
        "5 B",
        "2.0 KiB",
        "3.0 MiB",
        "2.0 GiB",
    ]
