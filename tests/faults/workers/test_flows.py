"""Flows whose workers die go on where they were: each child once, each flow to its right end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from processor.core.plan import FLOW, Plan, steps_of
from processor.flows import chain, chord
from tests.faults import recurring
from tests.faults.crew import short_or_long
from tests.faults.workers.oracle import Happened, History
from tests.faults.workers.tasks import merge, poison, work
from tests.faults.workers.world import the_world
from tests.support.until import until

PARTS = chord(
    [
        work.bind(2, 20),
        chain(work.bind(1, 20), chord([work.bind(1, 20), work.bind(1, 10)], merge.bind())),
        work.bind(1),
    ],
    merge.bind(),
)
WHOLE = chain(work.bind(1, 10), work.bind(1, 10), PARTS)
HARMFUL = chord([work.bind(2, 20), poison.bind(50), work.bind(1)], merge.bind(), on_failure="ignore")


def plan_of(flow: Any) -> Plan:
    plan: Plan = flow._planned(follows=False)
    return plan


def tasks_in(plan: Plan) -> Counter[str]:
    return Counter(step.task for _, step in steps_of(plan))


def children_of(history: History, flow: str) -> Mapping[str, Sequence[Happened]]:
    root = flow.partition("~")[0]
    return {run: feed for run, feed in history.feeds.items() if run.startswith(f"{root}~") and run != flow}


@short_or_long(6.0)
async def test_flows_of_killed_workers(seconds: float) -> None:
    """kill -9 while nested flows run: each child's effect is applied once, no child has a twin, each flow has its result."""
    plan = plan_of(WHOLE)
    async with the_world(visibility_seconds=1.0) as world:
        world.has_flows = True
        await world.begin_workers(3)
        await world.begin_producer(task=FLOW, input={"plan": plan.json()}, pause=0.25, burst=3)
        killed = await recurring.kill_workers(world, seconds, functions=60)
        history = await world.verdict(deadline=60)
        attempts = [sum(event.type == "run.started" for event in history.feeds[run]) for run in history.accepted]
        print(f"  {killed} workers killed, {sum(attempts)} attempts of {len(attempts)} flows")
        assert max(attempts) > 1, "no flow lost its worker: the test tested nothing"
        for flow in history.accepted:
            children = children_of(history, flow)
            told = Counter(feed[0].data["task"] for feed in children.values())
            assert told == tasks_in(plan), f"FAULTS_SEED={world.seed}: {flow} has {told}"
            assert {e.data["run"] for e in history.feeds[flow] if e.type == "child.started"} == children.keys()
            last = history.feeds[flow][-1]
            assert (last.type, last.data) == ("run.finished", {"result": {"marks": 0, "parts": 4}})


async def test_flows_that_tasks_call() -> None:
    """kill -9 of tasks that call flows, of the flows and of their children: each has one flow, and its result."""
    async with the_world(visibility_seconds=1.0) as world:
        world.has_flows = True
        await world.begin_workers(3)
        await world.begin_producer(task="manager", pause=0.2, burst=3)
        await recurring.kill_workers(world, 4.0, functions=60)
        history = await world.verdict(deadline=60)
        for parent in history.accepted:
            children = children_of(history, parent)
            told = Counter(feed[0].data["task"] for feed in children.values())
            assert told == {FLOW: 1, "work": 4, "merge": 1}, f"FAULTS_SEED={world.seed}: {parent} has {told}"
            assert history.feeds[parent][-1].data == {"result": {"marks": 0, "parts": 3}}


async def test_a_child_that_kills_its_process() -> None:
    """A child that kills every worker which touches it is given up, and its join goes on without it."""
    async with the_world(visibility_seconds=1.0) as world:
        world.has_flows = True
        await world.begin_worker()
        (flow,) = await world.runs_of(FLOW, 1, plan=plan_of(HARMFUL).json())

        async def ended() -> bool:
            await world.replace_dead()
            return await world.field(flow, "status") in ("succeeded", "failed")

        await until(ended, "the flow has ended", 60)
        history = await world.history()
        end = history.feeds[flow][-1]
        assert (end.type, end.data) == ("run.finished", {"result": {"marks": 0, "parts": 2}})
        (poisoned,) = [feed for feed in children_of(history, flow).values() if feed[0].data["task"] == "poison"]
        assert (poisoned[-1].type, poisoned[-1].data["reason"]) == ("run.failed", "poison")
