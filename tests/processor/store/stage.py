"""A partition on a server and its model side by side: each operation is done to both and everything is compared.

The scripts' include `clock` is replaced by one that reads a key, so that time is ours on every server.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, cast

from redis.asyncio import Redis

from processor.core.cursor import FeedId
from processor.core.keys import PartitionKeys
from processor.core.partition import root_of
from processor.store.scripts import Batch, Limits, Script, Scripts, load_script
from tests.processor.store.model import Model
from tests.processor.store.state import TERMINAL, Made, ModelRun, Outcome, expand, made, same_outcomes
from tests.support.program import ROOT
from tests.support.servers import TestServer

__all__ = ["LAYOUT", "LIMITS", "Clocked", "Snapshot", "Stage", "Time", "expand", "made"]

LAYOUT = "1 abcdef"
LIMITS = Limits(
    feed=200,
    log=5,
    work=2,
    retain_ms=3_600_000,
    tombstone_ms=7_200_000,
    silent_ms=60_000,
    term_ms=30_000,
    grace_ms=20_000,
    visibility_ms=30_000,
    dead=1000,
)
CLOCK = "tailrace-test:clock"
T = TypeVar("T")
_PLAIN_CLOCK = (ROOT / "scripts/lua/include/clock.lua").read_text()
_TEST_CLOCK = f"local function clock()\n  return tonumber(redis.call('GET', '{CLOCK}'))\nend\n"


class Clocked(Scripts):
    """The scripts with a clock that tests set."""

    def named(self, name: str) -> Script:
        text = load_script(name, shebang=self.shebang).text.replace(_PLAIN_CLOCK.encode(), _TEST_CLOCK.encode())
        return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


class Snapshot(NamedTuple):
    model: Model
    keys: dict[bytes, tuple[int, bytes]]  # name → TTL in ms (0: none), DUMP
    entries: list[bytes]


@dataclass
class Time:
    """In ms. Stages of one server share it."""

    now: int = 1_700_000_000_000
    told: int = 0  # what the server takes for it


class Stage:
    """Close it. `now` is the server's time in ms and may be set."""

    def __init__(
        self,
        server: TestServer,
        namespace: str,
        channels: Sequence[str],
        limits: Limits = LIMITS,
        *,
        layout: str = LAYOUT,
        partition: int = 0,
        time: Time | None = None,
    ) -> None:
        self.server = server
        self.keys = PartitionKeys(namespace, partition)
        self.limits = limits
        self.layout = layout
        self.model = Model(layout, limits)
        self.client = cast("Any", server.client())  # redis-py's own types are unions that nobody wants to narrow
        self._time = time or Time()
        self._entries: list[bytes] = []  # entry IDs of model.log
        self._bound: dict[str, tuple[int, object]] = {}  # group → version of what it bound last, and that
        self._runner = asyncio.Runner()
        self._redis = Redis.from_url(server.url, protocol=2)
        self.scripts = Clocked(self._redis, limits, shebang=server.kind != "fake")
        self.client.hset(self.keys.meta, "layout", layout)
        self._names = {self.keys.channel(run).encode(): run for run in channels} | {self.keys.ctl.encode(): "ctl"}
        self._pubsub: Any = self.client.pubsub()
        self._sentinel = self.keys.prefix + "sentinel"  # its message is the last one of an operation
        self._pubsub.ssubscribe(self._sentinel, *(name.decode() for name in self._names))
        for _ in range(1 + len(self._names)):
            confirmed = self._pubsub.get_sharded_message(timeout=5)
            assert confirmed is not None
            assert confirmed["type"] == "ssubscribe"

    def close(self) -> None:
        self._pubsub.close()
        keys = self.client.keys(self.keys.prefix + "*")
        if keys:
            self.client.delete(*keys)
        self.client.delete(CLOCK)
        self.client.close()
        self._runner.run(self._redis.aclose())
        self._runner.close()

    @property
    def now(self) -> int:
        return self._time.now

    @now.setter
    def now(self, ms: int) -> None:
        self._time.now = ms

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        self.tell_the_time()
        return self._runner.run(call)

    def tell_the_time(self) -> None:
        if self._time.told != self.now:
            self.client.set(CLOCK, self.now)
            self._time.told = self.now

    # -- operations on both

    def append(self, batches: Sequence[Batch], layout: str | None = None) -> list[list[Outcome]]:
        layout = layout or self.layout
        word, found = self.run(self.scripts.append(self.keys, layout, batches))
        expected_word, expected = self.model.append(layout, batches, self.now)
        assert word == expected_word
        if word != "ok":
            self.compare()
            return []
        outcomes = [expand(batch) for batch in found]
        for batch, is_, should in zip(batches, outcomes, expected, strict=True):
            assert same_outcomes(is_, should), f"{batch}: {is_}, not {should}"
        self.compare()
        return outcomes

    def cancel(self, name: str, reason: str = "enough") -> None:
        found = self.run(self.scripts.cancel(self.keys, name, json.dumps(reason).encode()))
        assert found == self.model.cancel(name, reason, self.now)
        self.compare()

    def renew(self, owned: Sequence[tuple[str, str]]) -> None:
        assert self.run(self.scripts.renew(self.keys, owned)) == self.model.renew(owned, self.now)
        self.compare()

    def expire(self, names: Sequence[str] = ()) -> list[str]:
        done, due = self.run(self.scripts.expire(self.keys, names))
        assert (done, sorted(due)) == self.model.expire(names, self.now)
        self.compare()
        return due

    def bind(
        self,
        name: str,
        types: Sequence[str] = (),
        start: Literal["first", "now"] = "first",
        when_behind: Literal["detach", "refuse"] = "detach",
    ) -> None:
        told, wanted = self._bound.get(name, (0, None)), (when_behind, tuple(sorted(types)))
        version = told[0] + (told[1] != wanted)  # as group.lua counts
        self._bound[name] = (version, wanted)
        call = self.scripts.bind(
            self.keys, name, increments=types, start=start, when_behind=when_behind, version=version
        )
        assert self.run(call) == self.model.bind(name, types, start, when_behind)
        self.compare()

    def trim(self) -> None:
        assert self.run(self.scripts.trim(self.keys)) == self.model.trim()
        self.compare()

    def read_group(self, name: str, count: int) -> None:
        """A member of the group is given entries."""
        reply: Any = self.client.execute_command(
            "XREADGROUP", "GROUP", name, "c", "COUNT", count, "STREAMS", self.keys.log, ">"
        )
        group = self.model.groups[name]
        first = max(group.delivered + 1, self.model.log_first)
        given = list(range(first, min(first + count, len(self.model.log))))
        entries: list[Any] = (
            next(iter(reply.values() if isinstance(reply, dict) else [reply[0][1]]), []) if reply else []
        )
        assert len(entries) == len(given)
        group.pending |= set(given)
        group.delivered = max(given, default=group.delivered)

    def ack_group(self, name: str, count: int) -> None:
        """A member acknowledges the oldest that it was given."""
        group = self.model.groups[name]
        done = sorted(group.pending)[:count]
        if done:
            self.client.xack(self.keys.log, name, *(self._entries[i] for i in done))
        group.pending -= set(done)

    # -- what befalls a server

    def snapshot(self) -> Snapshot:
        names: list[bytes] = self.client.keys(self.keys.prefix + "*")
        dumps: dict[bytes, tuple[int, bytes]] = {}
        for name in names:
            dump: Any = self.client.dump(name)
            dumps[name] = (max(self.client.pttl(name), 0), dump)
        return Snapshot(copy.deepcopy(self.model), dumps, list(self._entries))

    def lose(self, snapshot: Snapshot) -> None:
        """The server comes back as it was then: all partitions lose a suffix of what was written."""
        self.client.delete(*self.client.keys(self.keys.prefix + "*"))
        for name, (ttl, dump) in snapshot.keys.items():
            self.client.restore(name, ttl, dump)
        self.model = copy.deepcopy(snapshot.model)
        self._entries = list(snapshot.entries)
        self.model.published = []
        self.compare()

    def expire_feed(self, name: str) -> None:
        """RETAIN_HOURS have passed: of a run that ended only the tombstone is left."""
        run = self.model.runs[name]
        assert run.status in TERMINAL
        self.client.delete(self.keys.feed(name))
        run.feed_gone = True

    def expire_tombstone(self, name: str) -> None:
        run = self.model.runs.pop(name)
        assert run.status in TERMINAL
        self.client.delete(self.keys.run(name), self.keys.feed(name))
        if self.model.threads.get(root_of(name), {}).get("latest") == name:
            self.client.delete(self.keys.thread(name))
            del self.model.threads[root_of(name)]

    def break_run(self, name: str) -> None:
        """Somebody deletes the feed of a run in progress."""
        self.client.delete(self.keys.feed(name))
        self.model.runs[name].broken = True

    # -- comparison

    def compare(self) -> None:
        self._compare_messages()
        self._compare_feeds()
        self._compare_log()
        self._compare_hashes()
        self._compare_rest()

    def _messages(self) -> list[tuple[str, bytes]]:
        """What was published since the last look."""
        self.client.execute_command("SPUBLISH", self._sentinel, "here")
        found: list[tuple[str, bytes]] = []
        while True:
            message = self._pubsub.get_sharded_message(timeout=5)
            assert message is not None
            if message["type"] != "smessage":
                continue
            if message["channel"] == self._sentinel.encode():
                return found
            found.append((self._names[message["channel"]], message["data"]))

    def _compare_messages(self) -> None:
        # In the order of each run; which run comes first is nobody's business.
        found = sorted(self._messages(), key=lambda told: told[0])
        should = sorted(self.model.published, key=lambda told: told[0])
        assert [name for name, _ in found] == [name for name, _, _ in should]
        for (_, body), (name, first, payloads) in zip(found, should, strict=True):
            head, *lines = body.split(b"\n")
            assert head.decode() == str(first)
            assert len(lines) == len(payloads)
            if name != "ctl":
                self._learn(name, FeedId.parse(str(first)), lines)

    def _learn(self, name: str, first: FeedId, lines: Sequence[bytes]) -> None:
        """Compares payloads; those that scripts made take the place of what the model says of them."""
        run = self.model.runs[name]
        for seq, line in enumerate(lines, first.seq):
            id, payload = run.events[seq - 1]
            if isinstance(payload, Made):
                assert made(line) == payload
                run.events[seq - 1] = (id, line)
                self.model.log = [(n, i, line if (n, i, p) == (name, id, payload) else p) for n, i, p in self.model.log]
            else:
                assert line == payload

    def _compare_feeds(self) -> None:
        for name, run in self.model.runs.items():
            if run.broken:
                continue
            entries = [(FeedId.parse(id), fields) for id, fields in self.client.xrange(self.keys.feed(name))]
            if run.feed_gone:
                assert not entries
                continue
            assert all(list(fields) == [b"e"] for _, fields in entries)
            kept = [(id, fields[b"e"]) for id, fields in entries]
            assert kept == run.events[len(run.events) - len(kept) :], name
            assert len(kept) >= min(len(run.events), self.limits.feed)
            assert len(kept) <= self.limits.feed + 64 + 256  # nodes are dropped whole, a call may be long
            run.first = kept[0][0].seq
            assert [id.seq for id, _ in run.events] == list(range(1, len(run.events) + 1))
            assert [id.ms for id, _ in run.events] == sorted(id.ms for id, _ in run.events)

    def _compare_log(self) -> None:
        model = self.model
        found: list[tuple[bytes, dict[bytes, bytes]]] = self.client.xrange(self.keys.log)
        new = len(model.log) - len(self._entries)
        if new > 0:
            # What came and went within one call has no ID that anybody could name.
            self._entries += [b"?"] * max(0, new - len(found)) + [id for id, _ in found[-new:]]
        should = model.log[model.log_first :]
        assert [(fields[b"r"].decode(), FeedId.parse(fields[b"i"]), fields[b"e"]) for _, fields in found] == should
        assert [id for id, _ in found] == self._entries[model.log_first :]
        assert bool(self.client.exists(self.keys.log)) == bool(model.groups)

    def _compare_hashes(self) -> None:
        names = set(self.client.keys(self.keys.prefix + "run:*"))
        assert names == {self.keys.run(name).encode() for name in self.model.runs}
        for name, run in self.model.runs.items():
            self._compare_hash(name, run)

    def _compare_hash(self, name: str, run: ModelRun) -> None:
        found = {key.decode(): value.decode() for key, value in self.client.hgetall(self.keys.run(name)).items()}
        found.pop("asks", None)  # whether there are answers to take away at the end
        positions = {key: found.pop(key) for key in list(found) if key.startswith("p:")}
        exec_position = found.pop("exec_pos", "0")
        should = {**run.fields, "status": str(run.status), "tail": str(run.tail)}
        if run.status != "waiting":  # there is no open question, whatever the field still says
            for fields in (found, should):
                fields.pop("ask", None)
        assert {k: v for k, v in found.items() if v} == {k: v for k, v in should.items() if v}, name
        assert int(exec_position.split(" ")[0]) == run.exec_position.number
        assert positions.keys() == run.positions.keys()
        for key, text in positions.items():
            number, *_, time = text.split(" ")
            assert (int(number), int(time)) == (run.positions[key].number, run.positions[key].time)
        ended = run.status in TERMINAL
        self._compare_ttl(self.keys.run(name), self.limits.retain_ms + self.limits.tombstone_ms if ended else None)
        if not run.broken and not run.feed_gone:
            self._compare_ttl(self.keys.feed(name), self.limits.retain_ms if ended else None)

    def _compare_ttl(self, key: str, should: int | None) -> None:
        found = self.client.pttl(key)
        if should is None:
            assert found == -1, key
        else:
            assert should - 120_000 < found <= should, key

    def _compare_rest(self) -> None:
        model, keys, client = self.model, self.keys, self.client

        def zset(key: str) -> dict[str, int]:
            return {name.decode(): int(score) for name, score in client.zrange(key, 0, -1, withscores=True)}

        assert zset(keys.index) == model.index
        assert zset(keys.owners) == model.owners
        assert zset(keys.deadlines) == model.deadlines
        assert zset(keys.delayed) == model.delayed
        bodies = {run: f"{run}\n{id}\n".encode() + payload for run, (id, payload) in model.bodies.items()}
        assert {run.decode(): body for run, body in client.hgetall(keys.delayed_body).items()} == bodies
        for task in ("build", "check"):
            entries = [(f[b"r"].decode(), FeedId.parse(f[b"i"]), f[b"e"]) for _, f in client.xrange(keys.work(task))]
            assert entries == [(entry.run, entry.queued, entry.payload) for entry in model.work.get(task, [])]
        for root in {root_of(run) for run in model.runs}:
            found = {k.decode(): v.decode() for k, v in client.hgetall(keys.thread(root)).items()}
            thread = model.threads.get(root, {})
            assert found == thread
            latest = model.runs.get(thread.get("latest", ""))
            if latest is not None:
                keep = self.limits.retain_ms + self.limits.tombstone_ms
                self._compare_ttl(keys.thread(root), keep if latest.status in TERMINAL else None)
        self._compare_meta()

    def _compare_meta(self) -> None:
        found = {k.decode(): v.decode() for k, v in self.client.hgetall(self.keys.meta).items()}
        model = self.model
        assert found.get("layout") == self.layout
        assert int(found.get("groups", 0)) == len(model.groups)
        bindings: dict[str, int] = {}
        for group in model.groups.values():
            for type in group.types:
                bindings[type] = bindings.get(type, 0) + 1
        assert {k[2:]: int(v) for k, v in found.items() if k.startswith("b:")} == bindings
        assert (found.get("seen"), found.get("quiet")) == (
            None if model.seen is None else str(model.seen),
            None if model.quiet is None else str(model.quiet),
        )
