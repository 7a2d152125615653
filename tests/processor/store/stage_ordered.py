"""One partition of an ordered group on a server and its model side by side; each answer is compared, and what was applied."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from processor.core.events import draft
from processor.core.json import dumps, loads
from processor.core.keys import Keyspace
from processor.store.executing import Output
from processor.store.leases import Leases, Pulled, pull_command, pulled
from processor.store.reacting import Delivery, Lease, ReactUnit, react_command
from processor.store.scripts import Batch
from tests.processor.store.model_ordered import OrderedModel
from tests.processor.store.stage import LAYOUT, LIMITS, Stage
from tests.support.servers import TestServer

__all__ = ["Answered", "OrderedStage", "Settle"]

GROUP = "g"


class Settle(NamedTuple):
    """A call of react under a lease; it may be executed again, and late."""

    token: str
    before: str
    units: tuple[tuple[str, tuple[Delivery, ...]], ...]


class Answered(NamedTuple):
    words: list[str]
    last: str  # entry that the server had settled last when it answered


class _Space(NamedTuple):
    redis: Any
    keys: Keyspace
    scripts: Any


class OrderedStage:
    """Close it."""

    def __init__(self, server: TestServer, namespace: str) -> None:
        self._stage = Stage(server, namespace, (), replace(LIMITS, log=10_000))
        self.keyspace = Keyspace(namespace, LAYOUT)
        [self.keys] = self.keyspace.partitions
        self._stage.bind(GROUP)
        self.model = OrderedModel(self._stage.limits.visibility_ms)
        self._space = _Space(self._stage._redis, self.keyspace, self._stage.scripts)
        self._numbers = itertools.count(1)
        self._appended = 0
        self._added: dict[str, int] = {}

    def close(self) -> None:
        self._stage.close()

    @property
    def now(self) -> int:
        return self._stage.now

    def wait(self, ms: int) -> None:
        self._stage.now += ms

    def _leases(self, member: str) -> Leases:
        return Leases(self._space, GROUP, member, term_ms=self.model.term_ms)

    def append(self, run: str) -> None:
        n = self._added[run] = self._added.get(run, 0) + 1
        number = next(self._numbers)
        event = draft("usage", dumps({"n": n}))
        call = self._stage.scripts.append(self.keys, LAYOUT, [Batch(run, "p:x", self._prev(run), number, [event])])
        word, [[outcome]] = self._stage.run(call)
        assert (word, outcome.split()[0]) == ("ok", "appended")
        self.model.events.append((run, n))

    def _prev(self, run: str) -> int:
        said = self._stage.client.hget(self.keys.run(run), "p:x")
        return int(said.split()[0]) if said else 0

    def take(self, member: str, nonce: str) -> tuple[str, bool] | None:
        """Token, and whether the one before was lost."""
        found = self._stage.run(self._leases(member).take(self.keys, nonce))
        should = self.model.take(member, nonce, self.now)
        if found.word == "taken":
            assert ("taken", found.token, found.is_lost, frozenset(found.stopped)) == should
            return found.token, found.is_lost
        assert ((found.word, found.owner, found.until_ms) if found.word == "held" else (found.word,)) == should
        return None

    def give(self, member: str, token: str) -> None:
        assert self._stage.run(self._leases(member).give(self.keys, token)) == self.model.give(token)

    def note(self, member: str, token: str, entry: Delivery, tries: int) -> bool:
        found = self._stage.run(self._leases(member).note(self.keys, token, entry.entry, tries))
        assert found == self.model.note(token, number_of(entry.entry), tries)
        return found

    def pull(self, member: str, token: str, after: str, limit: int) -> Pulled:
        script = self._stage.scripts.named("pull")
        command = pull_command(script, self.keys, GROUP, member, token, after, limit)
        found = pulled(0, self._stage.run(self._stage.scripts.send(script, command)))
        should = self.model.pull(token, number_of(after), limit)
        if found.is_read:
            entries = [(number_of(one.entry), one.tries) for one in found.deliveries]
            assert (found.word, number_of(found.settled), number_of(found.given), entries) == should
        else:
            assert (found.word,) == should
        return found

    def settle(self, call: Settle) -> Answered:
        script = self._stage.scripts.named("react")
        units = [_unit(verb, deliveries) for verb, deliveries in call.units]
        lease = Lease(call.token, call.before)
        command = react_command(script, self._stage.limits, self.keyspace, 0, GROUP, units, lease)
        reply: list[bytes] = self._stage.run(self._stage.scripts.send(script, command))
        words = [answer.decode() for answer in reply]
        numbered = [(verb, [number_of(one.entry) for one in deliveries]) for verb, deliveries in call.units]
        assert words == self.model.settle(call.token, number_of(call.before), numbered)
        self._compare()
        return Answered(words, (self._stage.client.hget(self.keys.lease(GROUP), "last") or b"").decode())

    def _compare(self) -> None:
        applied = [tuple(loads(_data(fields))["of"]) for _, fields in self._stage.client.xrange(self.keys.feed("out"))]
        assert applied == self.model.applied
        letters = self._stage.client.xrange(self.keys.dead_group(GROUP))
        dead = [(fields[b"r"].decode(), loads(_data(fields))["n"]) for _, fields in letters]
        assert dead == self.model.dead
        lease = self._stage.client.hgetall(self.keys.lease(GROUP))
        tries = {number_of(key[2:].decode()): int(value) for key, value in lease.items() if key.startswith(b"t:")}
        assert tries == self.model.tries
        pending = self._stage.client.xpending_range(self.keys.log, GROUP, "-", "+", 1000)
        assert {number_of(row["message_id"].decode()) for row in pending} == self.model.pending

    # What befalls a server.

    def snapshot(self) -> tuple[OrderedModel, dict[bytes, bytes], dict[str, int]]:
        names = self._stage.client.keys(self.keys.prefix + "*")
        return copy.deepcopy(self.model), {name: self._stage.client.dump(name) for name in names}, dict(self._added)

    def lose(self, kept: tuple[OrderedModel, dict[bytes, bytes], dict[str, int]]) -> None:
        model, dumped, added = kept
        self._stage.client.delete(*self._stage.client.keys(self.keys.prefix + "*"))
        for name, dump in dumped.items():
            self._stage.client.restore(name, 0, dump)
        self.model, self._added = copy.deepcopy(model), dict(added)


def _unit(verb: str, deliveries: Sequence[Delivery]) -> ReactUnit:
    if verb in ("dead", "stop"):
        return ReactUnit(deliveries, "dead", failure=b"{}", stop=verb == "stop")
    if verb == "skip":
        return ReactUnit(deliveries, "done")
    # an increment that nobody bound: it does not enter the log
    events = [draft("message.delta", dumps({"of": [one.run, _n(one)]})) for one in deliveries]
    return ReactUnit(deliveries, "done", [Output("out", events)])


def _n(delivery: Delivery) -> int:
    n: int = loads(_data({b"e": delivery.payload}))["n"]
    return n


def _data(fields: dict[bytes, bytes]) -> bytes:
    return dumps(loads(b"{" + fields[b"e"])["data"])


def number_of(entry: str) -> int:
    """0 for none."""
    return int(entry.partition("-")[2] or 0)
