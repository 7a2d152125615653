"""What the faults happen to: a server with an AOF, workers of groups and producers as processes, and what they left behind."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from processor.core.keys import Keyspace, topology_key
from tests.faults.crew import LONG_SECONDS, LOOK_SECONDS, SHORT_OR_LONG, Crew, a_crew
from tests.faults.forked import Forked
from tests.faults.reactions.handlers import JOURNAL, POLICIES, SINKS, gate_of, journaled_in
from tests.faults.reactions.oracle import Effect, Fact, Group, History, Journaled, facts_of, judge
from tests.faults.reactions.program import React, Swarm, Tell, accepted_in, react, swarm, tell
from tests.faults.served import NAMESPACE, Fsync
from tests.support.servers import Daemon
from tests.support.until import until

__all__ = ["ALL", "LONG_SECONDS", "SHORT_OR_LONG", "Fsync", "World", "the_world"]

ALL: Final = ("first", "second", "batched", "ordered")  # two for fan-out, one of each other kind
JOURNAL_LINE: Final = 42  # bytes, about; two for each call
Entries = Sequence[tuple[bytes, Mapping[bytes, bytes]]]
Facts = Mapping[str, Collection[Fact]]


class World(Crew):
    """Use it by `the_world`."""

    program = staticmethod(react)
    defaults = MappingProxyType({"partitions": 4})
    groups: tuple[str, ...] = ALL
    _swarm: Forked | None = None

    def order(self, *, groups: Sequence[str] | None = None, **options: Any) -> React:
        return React(groups=tuple(self.groups if groups is None else groups), **options)

    async def begin_swarm(self, workers: int) -> None:
        """Light workers in one process, which join and leave by themselves until the verdict."""
        order = Swarm(seed=self.seed, groups=self.groups, workers=workers)
        self._swarm = Forked("swarm", swarm, order, folder=self.folder, env={**self.env, "FAULTS_NAME": "swarm"})
        self.gone.append(self._swarm)  # what it logs counts
        await self.blocking(self._swarm.start)
        await self._swarm.says("swarm_begins")

    async def stop_swarm(self) -> None:
        if self._swarm is not None:
            self._swarm.send(signal.SIGTERM)
            code = await self._swarm.ended(30)
            assert code == 0, f"the swarm ended with {code}: {self._swarm.said[-3000:]}"

    def kill_all(self) -> None:
        if self._swarm is not None:
            self._swarm.kill()
        super().kill_all()

    # Producers.

    async def begin_producer(self, name: str = "", **options: Any) -> Tell:
        name = name or f"p{len(self.producers) + 1}"
        order = Tell(name=name, seed=f"{self.seed}/{name}", journal=str(self.folder / f"{name}.journal"), **options)
        await self.send_producer(tell, order)
        return order

    async def told(self, count: int, *, runs: int = 8, **options: Any) -> list[Fact]:
        """Tells so many facts into each of so many runs, and waits until all are accepted."""
        order = await self.begin_producer(count=count, runs=runs, pause=0.0, **options)
        _, forked = self.producers[-1]
        assert await forked.ended() == 0, f"producer {order.name}: {forked.said[-3000:]}"
        return accepted_in(order)

    @property
    def accepted(self) -> list[Fact]:
        return [fact for order, _ in self.producers if order.counts for fact in accepted_in(order)]

    async def all_there(self) -> bool:
        accepted = set(self.accepted)
        history = await self.history()
        return all(fact.n in history.feeds[fact.run] for fact in accepted)

    # What handlers did.

    @property
    def journal(self) -> list[Journaled]:
        return journaled_in(self.folder)

    def begun(self, facts: Collection[Fact], group: str = "") -> int:
        """How often handlers of these began, of one group or of all."""
        known = set(facts)
        return sum(line.fact in known for line in self.journal if line.what == "begins" and group in ("", line.group))

    async def all_begin(self, facts: Collection[Fact], who: str) -> None:
        """Waits until this worker handles all of these in every group; of an ordered one, where what was lost with another
        worker runs alone, one in each partition at least."""
        async with self.client() as client:
            keys = await self.keys(client)
        partitions = {keys.number(fact.run) for fact in facts}

        def begun(group: str) -> bool:
            theirs = {line.fact for line in self.journal if (line.group, line.what, line.who) == (group, "begins", who)}
            if POLICIES[group].get("ordered"):
                return {keys.number(fact.run) for fact in theirs & {*facts}} == partitions
            return theirs >= {*facts}

        await until(lambda: all(begun(group) for group in self.groups), f"{who} handles all of them", 20)

    @property
    def progress(self) -> int:
        journal = self.folder / JOURNAL
        return journal.stat().st_size // (2 * JOURNAL_LINE) if journal.exists() else 0

    def open_gate(self, name: str) -> None:
        gate_of(self.folder, name).touch()

    # Evidence.

    def _runs(self) -> list[str]:
        """Of all producers."""
        return [order.run(number) for order, _ in self.producers for number in range(order.runs)]

    async def is_bound(self) -> bool:
        """Whether every partition has every group."""
        async with self.client() as client:
            if not await client.exists(topology_key(NAMESPACE)):
                return False
            names = [
                {group["name"].decode() for group in await client.xinfo_groups(partition.log)}
                if await client.exists(partition.log)
                else set()
                for partition in (await self.keys(client)).partitions
            ]
        return all(set(self.groups) <= found for found in names)

    async def left(self, client: Any) -> dict[str, int]:
        """What must be empty in the end, by name, with how much is in it."""
        keys = await self.keys(client)
        found: dict[str, int] = {}
        for partition in keys.partitions:
            found[partition.delayed] = await client.zcard(partition.delayed)
            found[partition.delayed_body] = await client.hlen(partition.delayed_body)
            meta = await client.hgetall(partition.meta)
            found |= {f"{partition.meta} {name.decode()}": int(n) for name, n in meta.items() if name[:2] == b"w:"}
            found |= await _unread(client, partition.log)
            found[f"{partition.log} entries"] = await client.xlen(partition.log)
        return found | await self._unrelayed(client, keys)

    async def _unrelayed(self, client: Any, keys: Keyspace) -> dict[str, int]:
        """Pairs of partitions between which an outbox entry is on its way."""
        marks = [await client.hgetall(partition.marks) for partition in keys.partitions]
        found = {}
        for source, partition in enumerate(keys.partitions):
            for name, last in (await client.hgetall(partition.meta)).items():
                word, _, target = name.decode().partition(":")
                if word == "out":
                    found[f"outbox {source} for {target}"] = int(marks[int(target)].get(b"%d" % source) != last)
        return found

    async def at_rest(self, deadline: float = 30) -> None:
        """Waits until nothing is left to do. A busy machine may take its time: the deadline counts from the last change."""
        before: dict[str, int] = {}
        end = time.monotonic() + deadline

        async def rests() -> bool:
            nonlocal before, end
            await asyncio.sleep(LOOK_SECONDS)
            async with self.client() as client:
                left = {name: count for name, count in (await self.left(client)).items() if count}
            if left != before:
                before, end = left, time.monotonic() + deadline
            return not left or time.monotonic() > end

        await until(rests, "all is at rest", 3600)
        if before:
            print(f"  not at rest: {before}")  # the oracle says whose and what

    async def history(self, *, dead: Facts | None = None, unhandled: Facts | None = None) -> History:
        """dead: facts that a group shall give up. unhandled: facts that it need not have got."""
        async with self.client() as client:
            keys = await self.keys(client)
            feeds: dict[str, Entries] = {run: await client.xrange(keys.of(run).feed(run)) for run in self._runs()}
            numbers = {run: [data["n"] for data in facts_of(entries, "shop.")] for run, entries in feeds.items()}
            groups = {name: await self._group(client, keys, name) for name in self.groups}
            return History(
                accepted=self.accepted,
                feeds=numbers,
                groups=groups,
                journal=self.journal,
                left=await self.left(client),
                broken=[run for run, entries in feeds.items() if not _is_whole(entries)],
                dead=dead or {},
                unhandled={name: [*self._doubtful(numbers), *(unhandled or {}).get(name, ())] for name in self.groups},
            )

    def _doubtful(self, numbers: Mapping[str, Sequence[int]]) -> list[Fact]:
        """Facts of producers that do not count."""
        runs = [order.run(number) for order, _ in self.producers if not order.counts for number in range(order.runs)]
        return [Fact(run, n) for run in runs for n in numbers[run]]

    async def _group(self, client: Any, keys: Keyspace, name: str) -> Group:
        async def effects(runs: Sequence[str]) -> dict[str, list[Effect]]:
            pipeline = client.pipeline(transaction=False)
            for run in runs:
                pipeline.xrange(keys.of(run).feed(run))
            return {
                run: [Effect(data["run"], data["n"]) for data in facts_of(entries, "shop.seen")]
                for run, entries in zip(runs, await pipeline.execute(), strict=True)
            }

        letters = [entry for p in keys.partitions for entry in await client.xrange(p.dead_group(name))]
        return Group(
            near=await effects([f"{run}~{name}" for run in self._runs()]),
            far=await effects([f"sink-{name}-{number}" for number in range(SINKS)]),
            dead=[
                Fact(fields[b"r"].decode(), data["n"])
                for (_, fields), data in zip(letters, facts_of(letters, "shop."), strict=True)
            ],
            is_ordered=bool(POLICIES[name].get("ordered")),
        )

    async def effects(self, group: str) -> int:
        """Near ones of all facts by now."""
        async with self.client() as client:
            keys = await self.keys(client)
            runs = [f"{run}~{group}" for run in self._runs()]
            return sum([await client.xlen(keys.of(run).feed(run)) for run in runs])

    async def handles(self, group: str, count: int, deadline: float = 20) -> None:
        """Waits until so many facts were handled for good by this group."""

        async def handled() -> bool:
            return await self.effects(group) >= count

        await until(handled, f"{count} effects of {group} are there", deadline)

    async def verdict(
        self, *, dead: Facts | None = None, unhandled: Facts | None = None, deadline: float = 30
    ) -> History:
        """Ends the producers, waits for rest, and asserts that all was done as promised. The history, for more."""
        begin = time.monotonic()
        await self.stop_producers()
        await self.stop_swarm()
        await self.at_rest(deadline)
        print(f"  at rest {time.monotonic() - begin:.1f} s after the last order")
        history = await self.history(dead=dead, unhandled=unhandled)
        begun = sum(line.what == "begins" for line in history.journal)
        print(f"  {len(history.accepted)} accepted, {begun} handled in {len(self.groups)} groups")
        complaints = await self.blocking(judge, history) + await self.blocking(self.bugs)
        assert not complaints, f"FAULTS_SEED={self.seed}: {len(complaints)} complaints\n" + "\n".join(complaints[:60])
        return history


async def _unread(client: Any, log: str) -> dict[str, int]:
    """Per group, entries that are pending; and whether there are some that were never delivered."""
    if not await client.exists(log):
        return {}
    last = (await client.xinfo_stream(log))["last-generated-id"]
    found: dict[str, int] = {}
    for group in await client.xinfo_groups(log):
        name = f"{log} of {group['name'].decode()}"
        found[f"{name} pending"] = group["pending"]
        found[f"{name} unread"] = int(group["last-delivered-id"] != last)
    return found


def _is_whole(entries: Entries) -> bool:
    """Numbered from 1 without holes, times that never go back."""
    ids = [tuple(map(int, id.split(b"-"))) for id, _ in entries]
    return [seq for seq, _ in ids] == list(range(1, len(ids) + 1)) and all(a[1] <= b[1] for a, b in pairwise(ids))


def the_world(
    *, server: Callable[[Path], Daemon] | None = None, fsync: Fsync = "everysec", **settings: object
) -> AbstractAsyncContextManager[World]:
    """As `a_crew` says."""
    return a_crew(World, server=server, fsync=fsync, **settings)
