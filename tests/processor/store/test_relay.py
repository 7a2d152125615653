"""The outbox on its way: relays of several processes, pages, losses, and what may be deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from processor.core.errors import ServerError
from processor.core.events import draft
from processor.core.keys import Keyspace
from processor.store import relay as relay_module
from processor.store.executing import Output
from processor.store.relay import Relay
from processor.store.scripts import Scripts
from processor.store.topology import settle_layout
from tests.processor.store.scene_execution import Scene, unit
from tests.support.servers import TestServer


@dataclass
class Space:
    redis: Redis
    keys: Keyspace
    scripts: Scripts

    async def settle_topology(self, partition: int, answered: str) -> Keyspace:
        self.keys = await settle_layout(self.redis, self.keys, partition, answered)
        return self.keys


class Relays:
    """Partition 1 of a scene settles effects for runs of partition 0."""

    def __init__(self, server: TestServer, namespace: str) -> None:
        self.scene = Scene(server, namespace)
        redis = Redis.from_url(server.url, protocol=2)
        scripts = Scripts(redis, self.scene.here.limits, shebang=server.kind != "fake")
        self.space = Space(redis, self.scene.here.keyspace, scripts)
        self.count = 0

    def close(self) -> None:
        self.scene.here.run(self.space.redis.aclose())
        self.scene.close()

    def settle(self, *runs: str) -> None:
        """One handler whose effects these runs get, numbered."""
        taken, exec = self.scene.begin("a", f"n{self.count}")
        outputs = []
        for run in runs:
            self.count += 1
            outputs.append(Output(run, [draft("order.paid", b"%d" % self.count)]))
        self.scene.settle(unit(taken, exec, "finish", outputs=outputs))
        self.scene.forget("a")

    def relay(self, *relays: Relay) -> list[int]:
        async def all_at_once() -> list[int]:
            return await asyncio.gather(*(one.relay(1) for one in relays))

        return list(self.scene.here.run(all_at_once()))

    def clear(self, relay: Relay) -> int:
        return self.scene.here.run(relay.clear(1))

    def effects(self, run: str) -> list[int]:
        entries = self.scene.other.client.xrange(self.scene.other.keys.feed(run))
        return [int(fields[b"e"].rpartition(b":")[2][:-1]) for _, fields in entries]


@pytest.fixture
def relays(every_server: TestServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relays]:
    monkeypatch.setattr(relay_module, "PAGE", 3)
    relays = Relays(every_server, namespace)
    yield relays
    relays.close()


def test_everything_is_taken_in_order(relays: Relays) -> None:
    """Page by page; what comes later goes on behind it."""
    for _ in range(4):
        relays.settle("b", "d")
    relay = Relay(relays.space)
    assert relays.relay(relay) == [8]
    relays.settle("d", "b")
    assert relays.relay(relay) == [2]
    assert (relays.effects("b"), relays.effects("d")) == ([1, 3, 5, 7, 10], [2, 4, 6, 8, 9])


def test_relays_of_several_processes_take_each_once(relays: Relays) -> None:
    """They do the same at once, and later one of them that knows nothing."""
    for _ in range(5):
        relays.settle("b", "d")
    assert sum(relays.relay(*(Relay(relays.space) for _ in range(4)))) == 10
    assert relays.relay(Relay(relays.space)) == [0]
    assert (relays.effects("b"), relays.effects("d")) == ([1, 3, 5, 7, 9], [2, 4, 6, 8, 10])


def test_a_target_that_lost_its_tail_gets_it_again(relays: Relays) -> None:
    """A relay that begins anew finds where the target's mark stands; so does one whose next entry meets a hole."""
    relays.settle("b")
    relay = Relay(relays.space)
    relays.relay(relay)
    client, keys = relays.scene.other.client, relays.scene.other.keys
    client.delete(keys.marks, keys.run("b"), keys.feed("b"))
    relays.settle("b")
    assert relays.relay(relay) == [2]
    client.delete(keys.marks, keys.run("b"), keys.feed("b"))
    relay.forget()
    assert relays.relay(relay) == [2]
    assert relays.effects("b") == [1, 2]


def test_an_outbox_that_lost_entries_is_told(relays: Relays) -> None:
    """Behind what nobody has any more nothing can be taken in order."""
    relays.settle("b")
    relays.settle("b")
    first = relays.scene.here.model.outbox[0].id
    relays.scene.here.forget_relayed(first)
    with structlog.testing.capture_logs() as logs:
        assert relays.relay(Relay(relays.space)) == [0]
    assert [line["event"] for line in logs] == ["outbox_broken"]
    assert relays.effects("b") == []


def test_only_what_a_mark_covers_is_deleted(relays: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    """And only once it is old enough that its target cannot lose it any more."""
    relays.settle("b")
    relays.settle("d")
    relay = Relay(relays.space)
    assert relays.clear(relay) == 0
    relays.relay(relay)
    assert relays.clear(relay) == 0
    monkeypatch.setattr(relay_module, "KEEP_SECONDS", -2.0)
    client, keys = relays.scene.other.client, relays.scene.other.keys
    mark = relays.scene.here.model.outbox[0].id
    client.hset(keys.marks, "1", mark)  # the target lost what came behind it
    assert relays.clear(relay) == 1
    relays.relay(Relay(relays.space))
    assert relays.clear(relay) == 1
    assert relays.scene.here.client.xlen(relays.scene.here.keys.outbox) == 0


def test_all_that_is_old_goes_in_one_look(relays: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages were taken long enough ago, they are deleted together: else an outbox under load grows for ever."""
    for _ in range(5):
        relays.settle("b", "d")
    relay = Relay(relays.space)
    relays.relay(relay)
    monkeypatch.setattr(relay_module, "KEEP_SECONDS", -1.0)
    assert relays.clear(relay) == 10


def test_what_was_taken_is_not_sent_again(relays: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that knows nothing asks the marks, and sends what its targets lack."""
    relays.settle("b", "d")
    relays.relay(Relay(relays.space))
    sent: list[int] = []
    send = Relay._call

    async def counted(self: Relay, redis: Any, source: int, target: int, entries: Sequence[Any]) -> list[str]:
        sent.append(len(entries))
        return await send(self, redis, source, target, entries)

    monkeypatch.setattr(Relay, "_call", counted)
    assert relays.relay(Relay(relays.space)) == [0]
    assert sent == []
    relays.settle("d")
    assert relays.relay(Relay(relays.space)) == [1]
    assert sent == [1]


def test_what_was_read_before_a_flush_is_not_taken_behind_it(relays: Relays) -> None:
    """An entry under way while the namespace is made anew leaves no mark: the new outbox begins like any other."""
    relay = Relay(relays.space)
    relays.settle("b")
    old = relays.space.keys.layout
    meta = relays.space.keys.partitions[0].meta
    relays.scene.here.client.hset(meta, "layout", f"{old.partition(' ')[0]} another")
    relays.scene.here.client.hset(
        f"tr:{{{relays.space.keys.namespace}}}:topology", "layout", f"{old.partition(' ')[0]} another"
    )
    with pytest.raises(ServerError, match="made anew"):
        relays.relay(relay)
    assert relays.scene.here.client.hgetall(relays.space.keys.partitions[0].marks) == {}
    assert relays.relay(relay) == [1]
