"""What the faults happen to: a server with an AOF, workers and producers as processes, and the evidence of what they did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tests.faults.crew import LONG_SECONDS, LOOK_SECONDS, SHORT_OR_LONG, Crew, a_crew, seed_of_day
from tests.faults.served import NAMESPACE, Fsync
from tests.faults.workers.oracle import FLOW, Happened, History, judge
from tests.faults.workers.program import Produce, Work, accepted_in, produce, work
from tests.faults.workers.tasks import JOURNAL, SINKS, begun_in, gate_of
from tests.support.servers import Daemon
from tests.support.until import until

__all__ = ["LONG_SECONDS", "NAMESPACE", "SHORT_OR_LONG", "Fsync", "World", "seed_of_day", "the_world"]

TERMINAL: Final = (b"succeeded", b"failed", b"cancelled")
WORK_LIMIT: Final = 40  # producers wait while so much work is queued in a partition: machines differ
JOURNAL_LINE: Final = 50  # bytes, about


class World(Crew):
    """Use it by `the_world`."""

    has_flows = False  # whose own runs leave no effects
    program = staticmethod(work)
    defaults = MappingProxyType({"work_limit": WORK_LIMIT})

    def order(self, **options: Any) -> Work:
        return Work(**options)

    # Producers.

    async def begin_producer(self, name: str = "", **options: Any) -> Produce:
        name = name or f"p{len(self.producers) + 1}"
        order = Produce(name=name, seed=f"{self.seed}/{name}", journal=str(self.folder / f"{name}.journal"), **options)
        await self.send_producer(produce, order)
        return order

    async def runs_of(self, task: str, count: int, **input: Any) -> list[str]:
        """Starts so many runs and waits until all are accepted; their IDs."""
        order = await self.begin_producer(task=task, count=count, input=input, burst=count, pause=0.0)
        _, forked = self.producers[-1]
        assert await forked.ended() == 0, f"producer {order.name}: {forked.said[-3000:]}"
        return accepted_in(order)

    @property
    def accepted(self) -> list[str]:
        return [run for order, _ in self.producers for run in accepted_in(order)]

    def begun(self, *runs: str) -> int:
        """How often functions of these runs were begun."""
        return sum(begun.run in runs for begun in begun_in(self.folder))

    async def all_there(self) -> bool:
        accepted = self.accepted
        async with self.client() as client:
            return set(accepted) <= set(await self.runs(client))

    @property
    def progress(self) -> int:
        journal = self.folder / JOURNAL
        return journal.stat().st_size // JOURNAL_LINE if journal.exists() else 0

    def open_gate(self, name: str) -> None:
        gate_of(self.folder, name).touch()

    # Evidence.

    async def runs(self, client: Any) -> list[str]:
        """Runs of tasks, whoever started them."""
        found = [key.decode().partition(":run:")[2] async for key in client.scan_iter("tr:{*}:run:*", count=1000)]
        return [run for run in found if run not in SINKS]

    async def statuses(self, client: Any) -> dict[str, bytes]:
        keys, runs = await self.keys(client), await self.runs(client)
        pipeline = client.pipeline(transaction=False)
        for run in runs:
            pipeline.hget(keys.of(run).run(run), "status")
        return dict(zip(runs, await pipeline.execute(), strict=True))

    async def field(self, run: str, name: str) -> str:
        """Of the run's hash, "" where absent."""
        async with self.client() as client:
            value: bytes | None = await client.hget((await self.keys(client)).of(run).run(run), name)
        return value.decode() if value else ""

    async def claims_again(self, since_ms: int, deadline: float = 20) -> None:
        """Waits until every partition noticed a silence after since_ms (a jump of the clock), its quiet time is over, and
        others had half as long again to claim what they can."""
        visibility_ms = self.visibility_seconds * 1000

        async def again() -> bool:
            await asyncio.sleep(LOOK_SECONDS)
            async with self.client() as client:
                keys = await self.keys(client)
                known = [await client.hmget(p.meta, "claims_quiet", "claimed") for p in keys.partitions]
            quiet = [int(value or 0) for value, _ in known]
            return all(
                since_ms <= q and q + 1.5 * visibility_ms < int(last) for q, (_, last) in zip(quiet, known, strict=True)
            )

        await until(again, "entries were claimed again for a while", deadline)

    async def left(self, client: Any) -> dict[str, int]:
        """What must be empty in the end, by key, with how much is in it."""
        found: dict[str, int] = {}
        async for key in client.scan_iter("tr:{*}:work:*", count=1000):
            name = key.decode()
            found[name] = await client.xlen(key)
            if any(group["name"] == b"workers" for group in await client.xinfo_groups(key)):
                found[f"{name} pending"] = (await client.xpending(key, "workers"))["pending"]
        for partition in (await self.keys(client)).partitions:
            found[partition.delayed] = await client.zcard(partition.delayed)
            found[partition.delayed_body] = await client.hlen(partition.delayed_body)
        return found

    async def effects(self, client: Any) -> int:
        keys = await self.keys(client)
        return sum([await client.xlen(keys.of(sink).feed(sink)) for sink in SINKS])

    async def _with_effects(self, client: Any, statuses: Mapping[str, bytes]) -> int:
        """How many runs should have left an effect by now."""
        runs = [run for run, status in statuses.items() if status == b"succeeded"]
        if not self.has_flows:
            return len(runs)
        keys, pipeline = await self.keys(client), client.pipeline(transaction=False)
        for run in runs:
            pipeline.hget(keys.of(run).run(run), "task")
        return sum(task != FLOW.encode() for task in await pipeline.execute())

    async def succeeded(self) -> int:
        async with self.client() as client:
            return sum(status == b"succeeded" for status in (await self.statuses(client)).values())

    async def at_rest(self, deadline: float = 30) -> None:
        """Waits until every run has ended, its effects are where they belong, and nothing is left. A busy machine may take
        its time: the deadline counts from the last run that ended."""
        words, ended, end = "", -1, 0.0

        async def rests() -> bool:
            nonlocal words, ended, end
            await asyncio.sleep(LOOK_SECONDS)
            async with self.client() as client:
                statuses, left, effects = (
                    await self.statuses(client),
                    await self.left(client),
                    await self.effects(client),
                )
                finished = await self._with_effects(client, statuses)
            going = [run for run, status in statuses.items() if status not in TERMINAL]
            full = {key: count for key, count in left.items() if count}
            words = f"{len(going)} go on ({going[:5]}), {effects} effects of {finished}, left: {full}"
            if len(statuses) - len(going) + effects > ended:
                ended, end = len(statuses) - len(going) + effects, time.monotonic() + deadline
            return (not going and not full and effects >= finished) or time.monotonic() > end

        await until(rests, "all is at rest", 3600)
        if time.monotonic() > end:
            print(f"  not at rest: {words}")  # the oracle says whose and what

    async def history(self, *, ends: Mapping[str, str] | None = None) -> History:
        async with self.client() as client:
            keys = await self.keys(client)

            async def feeds(runs: Collection[str]) -> dict[str, Sequence[Happened]]:
                pipeline = client.pipeline(transaction=False)
                for run in runs:
                    pipeline.xrange(keys.of(run).feed(run))
                return await self.blocking(_parsed, runs, await pipeline.execute())

            return History(
                accepted=self.accepted,
                feeds=await feeds(await self.runs(client)),
                sinks=await feeds(SINKS),
                begun=await self.blocking(begun_in, self.folder),
                left=await self.left(client),
                ends=ends or {},
                forgets=self.forgets,
            )

    async def verdict(self, *, ends: Mapping[str, str] | None = None, deadline: float = 30) -> History:
        """Ends the producers, waits for rest, and asserts that all was done as promised. The history, for more."""
        begin = time.monotonic()
        await self.stop_producers()
        await self.at_rest(deadline)
        print(f"  at rest {time.monotonic() - begin:.1f} s after the last order")
        history = await self.history(ends=ends)
        starts = sum(event.type == "run.started" for feed in history.feeds.values() for event in feed)
        print(f"  {len(history.accepted)} accepted, {starts} executions, {len(history.begun)} functions begun")
        complaints = await self.blocking(judge, history) + await self.blocking(self.bugs)
        assert not complaints, f"FAULTS_SEED={self.seed}: {len(complaints)} complaints\n" + "\n".join(complaints[:60])
        return history


def _parsed(runs: Collection[str], feeds: Sequence[Any]) -> dict[str, Sequence[Happened]]:
    """run → its feed, from what XRANGE gives for each."""
    return {
        run: [Happened.of(id, fields[b"e"]) for id, fields in entries] for run, entries in zip(runs, feeds, strict=True)
    }


def the_world(
    *, server: Callable[[Path], Daemon] | None = None, fsync: Fsync = "everysec", **settings: object
) -> AbstractAsyncContextManager[World]:
    """As `a_crew` says."""
    return a_crew(World, server=server, fsync=fsync, **settings)
