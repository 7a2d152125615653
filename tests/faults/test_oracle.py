"""The oracle test: whatever crashes, every subscriber's concatenation equals the feed, byte for byte.

ORACLE_SEED=… repeats a run's plan. SOAK_SECONDS=… pytest -m soak plays round after round for as long, with the server
away for a minute in each.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from tests.faults.chaos import DOOMED, FAULTS, TRIMMED_RUN, settled
from tests.faults.oracle import Truth, judge_accepted, judge_record, judge_truth, seq_of
from tests.faults.producers import accepted_in
from tests.faults.subscribers import LibrarySubscriber, SseSubscriber, Subscriber
from tests.faults.world import NAMESPACE, World, the_world
from tests.support.servers import Kind, binary_of
from tests.support.until import until

SHORT_SECONDS = 12.0  # of faults; starting and settling take the rest of the 20
SETTLE_SECONDS = 45.0
OPEN_RUN = "source"  # not ended by its producer: a log source goes on for ever


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float
    away: float  # of the server
    owner_seconds: float
    subscribers: int  # of each run


SHORT = Plan(SHORT_SECONDS, away=3.0, owner_seconds=2.5, subscribers=5)
LONG = Plan(150.0, away=60.0, owner_seconds=30.0, subscribers=8)  # a round; longer ones would reach the feed limit
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))


class Oracle:
    """One run of the test."""

    def __init__(self, world: World, tail: Tailrace, plan: Plan, seed: str) -> None:
        self.world, self.tail, self.plan, self.seed = world, tail, plan, seed
        self.rng = random.Random(seed)
        self.subscribers: list[Subscriber] = []
        self.following: list[asyncio.Task[None]] = []
        self.faults: Counter[str] = Counter()
        self.late: list[str] = []

    def produce(self) -> list[str]:
        """Starts all producers; the runs they write."""
        orders: list[tuple[str, str, str, dict[str, Any]]] = [
            ("numbered", "numbered", "numbered", {}),
            ("numbered", "fat", "fat", {"padding": 3000, "pause": 0.2}),
            ("numbered", "trimmed", TRIMMED_RUN, {"pause": 0.15}),
            ("anonymous", "anon-a", "anonymous", {"ends": False}),
            ("anonymous", "anon-b", "anonymous", {"ends": False}),
            ("task", "task", "task", {}),
            ("block", "block", "block", {}),
            ("source", "source", OPEN_RUN, {"ends": False}),
            ("task", f"{DOOMED}-task", f"{DOOMED}-task", {}),
            ("block", f"{DOOMED}-block", f"{DOOMED}-block", {}),
        ]
        for kind, name, run, options in orders:
            seed = f"{self.seed}/{name}"
            owner_seconds = self.plan.owner_seconds
            self.world.produce(self.world.order(kind, name, run, seed, owner_seconds=owner_seconds, **options))
        return list(dict.fromkeys(run for _, _, run, _ in orders))

    def subscribe(self, run: str, number: int) -> None:
        name = f"{run}-{number}"
        rng = random.Random(f"{self.seed}/{name}")
        subscriber: Subscriber
        if number == 0:
            subscriber = LibrarySubscriber(name, run, rng, self.tail)
        else:
            subscriber = SseSubscriber(
                name, run, rng, self.world.ports, namespace=NAMESPACE, after=self._begin(run, rng)
            )
        subscriber.calm = number == 1  # one that never cuts: nothing but the faults happens to it
        self.subscribers.append(subscriber)
        self.following.append(asyncio.create_task(subscriber.follow(), name=name))

    def _begin(self, run: str, rng: random.Random) -> str:
        """From the beginning, or from an event that another one has seen."""
        seen = [id for s in self.subscribers if s.record.run == run for id, _ in s.record.events]
        return rng.choice(seen) if seen and rng.random() < 0.3 else "0"

    async def disturb(self) -> None:
        """Every fault once, then more of them while there is time; subscribers arrive all the while."""
        end = time.monotonic() + self.plan.seconds
        queue: list[str] = []
        while time.monotonic() < end or sum(self.faults.values()) < len(FAULTS):
            if not queue:
                queue = self.rng.sample(list(FAULTS), len(FAULTS))
            name = queue.pop()
            print(f"  {end - time.monotonic():6.1f} s left: {name}")
            await FAULTS[name](self.world, self.rng, self.plan.away)
            self.faults[name] += 1
            await asyncio.sleep(self.rng.uniform(0, 0.6))
        await settled(self.world)

    async def arrive(self, runs: list[str]) -> None:
        for number in range(self.plan.subscribers):
            for run in runs:
                self.subscribe(run, number)
            await asyncio.sleep(self.plan.seconds / 2 / self.plan.subscribers)

    async def settle(self, runs: list[str]) -> list[Truth]:
        """Ends the producers, and waits until every subscriber has all of its run."""
        for run in runs:  # one that comes when all is over
            self.subscribe(run, self.plan.subscribers)
        for subscriber in self.subscribers:
            subscriber.calm = True

        async def lost() -> bool:
            return all([await self.world.status(run) == "failed" for run in runs if run.startswith(DOOMED)])

        try:
            await until(lost, "runs of killed owners have failed", self.plan.owner_seconds * 3 + 10)
        except AssertionError as late:
            self.late.append(f"{late}: {[await self.world.ownership(run) for run in runs if run.startswith(DOOMED)]}")
        truths = {run: await self.world.truth(run) for run in runs}

        def caught_up() -> bool:
            return all(s.ended or s.record.cursor == truths[s.record.run].tail for s in self.subscribers)

        try:
            await until(caught_up, "every subscriber has the tail of its run", SETTLE_SECONDS)
            ended = [
                t
                for s, t in zip(self.subscribers, self.following, strict=True)
                if s.record.run not in (OPEN_RUN, "anonymous")
            ]
            await asyncio.wait_for(asyncio.gather(*ended), SETTLE_SECONDS)
        except (AssertionError, TimeoutError) as late:
            self.late.append(f"late: {late!r}")  # the comparison says whose and what
        for task in self.following:
            task.cancel()
        await asyncio.gather(*self.following, return_exceptions=True)
        return list(truths.values())

    async def read_at_once(self, truth: Truth) -> list[str]:
        """The other two forms of a feed, against it."""
        url = f"http://127.0.0.1:{self.rng.choice(self.world.ports)}/api/{NAMESPACE}/runs/{truth.run}/events"
        there = [envelope for id, envelope in truth.events if seq_of(id) > truth.trimmed]
        async with httpx.AsyncClient(trust_env=False) as client:
            lines = (await client.get(url, headers={"accept": "application/x-ndjson"})).content.splitlines()
            page = (await client.get(url, params={"limit": 1000}, headers={"accept": "application/json"})).content
        if truth.trimmed and lines:
            gap = json.loads(lines.pop(0))
            if (gap["type"], gap["data"]["to"]) != ("tailrace.gap", truth.trimmed):
                return [f"run {truth.run}: the first line of a trimmed feed is {gap}"]
        complaints = []
        if lines != there:
            complaints.append(
                f"run {truth.run}: as NDJSON it has {len(lines)} lines that are not its {len(there)} events"
            )
        if b'"events":[%b]' % b",".join(there[:1000]) not in page:
            complaints.append(f"run {truth.run}: its first page as JSON is not its first events: {page[:300]!r}")
        return complaints

    def judge(self, truths: list[Truth]) -> list[str]:
        complaints = [*self.late]
        by_run = {truth.run: truth for truth in truths}
        for truth in truths:
            complaints += judge_truth(truth)
            orders = [order for order, _ in self.world.producers.values() if order.run == truth.run]
            loose = {order.name for order in orders if order.kind == "anonymous"}
            told = [accepted for order in orders for accepted in accepted_in(order)]
            complaints += judge_accepted(truth, told, loose=loose)
            last = truth.events[-1][1] if truth.events else b""
            if truth.run.startswith(DOOMED):
                if b'"reason":"owner_lost"' not in last:
                    complaints.append(f"run {truth.run}, whose owner was killed, ends with {last!r}")
            elif truth.run not in (OPEN_RUN, "anonymous") and b'"type":"run.finished"' not in last:
                complaints.append(f"run {truth.run} ends with {last!r}")
        for subscriber, task in zip(self.subscribers, self.following, strict=True):
            complaints += judge_record(by_run[subscriber.record.run], subscriber.record)
            complaints += subscriber.complaints
            if task.done() and not task.cancelled() and task.exception() is not None:
                complaints.append(f"subscriber {subscriber.record.name} failed: {task.exception()!r}")
        return complaints

    async def play(self) -> list[str]:
        runs = self.produce()
        orders = [order for order, _ in self.world.producers.values()]
        await until(lambda: all(accepted_in(order) for order in orders), "every producer has begun", 20)
        arriving = asyncio.create_task(self.arrive(runs))
        try:
            await self.disturb()
            await arriving
        finally:
            arriving.cancel()
        for name, (_, program) in self.world.producers.items():
            if name.startswith(DOOMED):
                program.kill()
        complaints = await self.world.finish_producers(SETTLE_SECONDS)
        truths = await self.settle(runs)
        for truth in truths:
            complaints += await self.read_at_once(truth)
        complaints += self.judge(truths) + self.world.bugs()
        self._report(truths)
        return complaints

    def _report(self, truths: list[Truth]) -> None:
        tally = sum((s.tally for s in self.subscribers), Counter[str]())
        told = sum(s.record.restarts for s in self.subscribers)
        print(f"  runs: { {truth.run: len(truth.events) for truth in truths} }")
        print(f"  subscribers: {len(self.subscribers)}, restarts told: {told}, {dict(tally)}")
        print(f"  faults: {dict(self.faults)}")


async def _play(plan: Plan, seed: str, kind: Kind = "valkey") -> Oracle:
    print(f"ORACLE_SEED={seed} on {kind}")
    settings = {"owner_seconds": str(plan.owner_seconds), "heartbeat_seconds": "1", "subscriber_kib": "32"}
    async with (
        the_world(kind=kind, gateways=2, **settings) as world,
        Tailrace(settings=Settings(redis_url=world.url, owner_seconds=plan.owner_seconds)) as tail,
    ):
        oracle = Oracle(world, tail, plan, seed)
        complaints = await oracle.play()
    assert not complaints, f"ORACLE_SEED={seed}: {len(complaints)} complaints\n" + "\n".join(complaints[:60])
    return oracle


async def test_every_subscriber_has_the_feed() -> None:
    """Gateways, PubSub connections, owners and the server die, and nobody loses, doubles or disorders an event."""
    oracle = await _play(SHORT, os.environ.get("ORACLE_SEED") or secrets.token_hex(4))
    assert set(oracle.faults) == set(FAULTS)
    assert len(oracle.subscribers) >= 36
    assert sum(s.tally["cut"] for s in oracle.subscribers) >= 20


@pytest.mark.soak
@pytest.mark.timeout(0)
async def test_soak() -> None:
    """The same for SOAK_SECONDS, ten minutes by default, with the server away for a minute again and again."""
    first = os.environ.get("ORACLE_SEED") or secrets.token_hex(4)
    end = time.monotonic() + SOAK_SECONDS
    kinds: list[Kind] = [kind for kind in ("valkey", "redis7") if binary_of(kind)]
    seed, rounds = first, 0
    while time.monotonic() < end or not rounds:
        await _play(LONG, seed, kinds[rounds % len(kinds)])
        rounds += 1
        seed = f"{first}.{rounds}"
