"""Flows in the sandbox: chains, groups, chords, what becomes of failures, and what the next attempt goes on with."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from processor import Retry, RetryLater, Run, SyncRun, Tailrace
from processor.core.errors import BadInput, RunCancelled, RunExists, RunFailed
from processor.core.plan import FLOW
from processor.flows import ChildFailed, chain, chord, group, previous
from processor.testing import Sandbox, sandbox

tail = Tailrace()
begun: list[str] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    begun.clear()


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    async with sandbox(tail) as box:
        yield box


@tail.task
async def number(run: Run, n: int) -> int:
    begun.append(f"number {n}")
    return n


@tail.task
async def double(run: Run, n: int) -> int:
    begun.append(f"double {n}")
    return 2 * n


@tail.task
async def add(run: Run, a: int, b: int = 100) -> int:
    return a + b


@tail.task
async def total(run: Run, numbers: list[int]) -> int:
    return sum(numbers)


@tail.task
async def alone(run: Run) -> str:
    return "alone"


@tail.task(retry=1)
async def fails(run: Run, why: str = "no luck") -> int:
    begun.append(f"fails {why}")
    raise ValueError(why)


async def test_a_chain_passes_results_on(box: Sandbox) -> None:
    """Each step gets the result before it as its first parameter that is free; one that has none gets none."""
    run = await chain(number.bind(3), double.bind(), add.bind(b=1)).start()
    await box.drain()
    assert await run.result() == 7
    without = await chain(number.bind(3), alone.bind()).start()
    await box.drain()
    assert await without.result() == "alone"
    run = await chain(number.bind(3), add.bind(1, previous)).start()
    await box.drain()
    assert await run.result() == 4


async def test_a_group_is_the_list_of_its_results(box: Sandbox) -> None:
    """Results stand in the order of the steps; in a chain each of them gets the result before it."""
    run = await chain(number.bind(1), group(double.bind(), add.bind(b=5), alone.bind())).start()
    await box.drain()
    assert await run.result() == [2, 6, "alone"]


async def test_a_chord_gives_the_list_to_its_body(box: Sandbox) -> None:
    """The body is given the results of a group, or of the steps that would be in one."""
    for header in ([number.bind(n) for n in range(5)], group(*(number.bind(n) for n in range(5)))):
        run = await chord(header, total.bind()).start()
        await box.drain()
        assert await run.result() == 10


async def test_flows_in_flows(box: Sandbox) -> None:
    """Any depth: what is nested is joined as its place says."""
    inner = group(chain(number.bind(1), double.bind()), chord([number.bind(2), number.bind(3)], total.bind()))
    run = await chain(group(inner, number.bind(4)), nested.bind()).start()
    await box.drain()
    assert await run.result() == "[[2, 5], 4]"


@tail.task
async def nested(run: Run, value: list[Any]) -> str:
    return repr(value)


class Order(BaseModel):
    number: int


@tail.task
async def order(run: Run, number: int) -> Order:
    return Order(number=number)


@tail.task
async def numbers_of(run: Run, orders: list[Order | ChildFailed]) -> list[int]:
    return [one.number for one in orders if isinstance(one, Order)]


async def test_results_are_typed(box: Sandbox) -> None:
    """A handle gives what the tasks return, and a body what its parameter says, failures included."""
    run = await group(order.bind(1), order.bind(2)).start()
    await box.drain()
    assert await run.result() == [Order(number=1), Order(number=2)]
    last = await chain(number.bind(3), order.bind()).start()
    await box.drain()
    assert await last.result() == Order(number=3)
    body = await chord([order.bind(1), fails.bind(), order.bind(2)], numbers_of.bind(), on_failure="continue").start()
    await box.drain()
    assert await body.result() == [1, 2]


# Failures.


async def children(run: Run) -> dict[str, str]:
    """run → task, as the feed tells them."""
    told = [event.data async for event in run.follow(live=False) if event.type == "child.started"]
    assert len(told) == len({data["run"] for data in told})
    return {data["run"]: data["task"] for data in told}


async def child(run: Run, task: str) -> Run:
    (found,) = [name for name, of in (await children(run)).items() if of == task]
    return tail.run(found)


async def test_a_failed_step_ends_its_chain(box: Sandbox) -> None:
    """The flow names the child and its error, ends without another try, and starts nothing behind it."""
    run = await chain(number.bind(1), fails.bind(), double.bind()).start()
    await box.drain()
    with pytest.raises(
        RunFailed, match=r"child \S+~\w{16} of task fails failed \(error\): ValueError: no luck"
    ) as failed:
        await run.result()
    assert failed.value.reason == "given_up"
    assert (await child(run, "fails")).id in str(failed.value)
    assert (await run.state()).attempt == 1
    assert begun == ["number 1", "fails no luck"]


@tail.task
async def asks(run: Run) -> int:
    return await run.ask("how many?", int)


async def test_fail_cancels_the_others(box: Sandbox) -> None:
    """on_failure="fail": what goes on beside the child that failed is cancelled, however deep."""
    run = await group(asks.bind(), fails.bind(), group(chain(asks.bind(), number.bind()), on_failure="ignore")).start()
    await box.drain()
    with pytest.raises(RunFailed, match="of task fails failed"):
        await run.result()
    others = [name for name, task in (await children(run)).items() if task == "asks"]
    assert len(others) == 2
    for name in others:
        with pytest.raises(RunCancelled, match=r"another of its group failed: child .* of task fails"):
            await tail.run(name).result()


async def test_continue_says_what_failed_in_its_place(box: Sandbox) -> None:
    """on_failure="continue": a ChildFailed stands in the place of the child, in the flow's result and in a body's list."""
    run = await group(
        number.bind(1), fails.bind(), chain(number.bind(2), fails.bind("x")), on_failure="continue"
    ).start()
    await box.drain()
    one, two, three = await run.result()
    first = [name for name, task in (await children(run)).items() if task == "fails"]
    assert one == 1
    assert isinstance(two, ChildFailed)
    assert isinstance(three, ChildFailed)
    assert (two.reason, two.error) == ("error", "ValueError: no luck")
    assert (three.reason, three.error) == ("error", "ValueError: x")
    assert {two.child, three.child} == set(first)
    raw = await tail.run(run.id).result()
    assert raw[1] == {"child": two.child, "reason": "error", "error": "ValueError: no luck"}


async def test_ignore_leaves_it_out(box: Sandbox) -> None:
    """on_failure="ignore": the list has the results that there are."""
    run = await chord([number.bind(1), fails.bind(), number.bind(3)], total.bind(), on_failure="ignore").start()
    await box.drain()
    assert await run.result() == 4
    every = await group(fails.bind(), on_failure="ignore").start()
    await box.drain()
    assert await every.result() == []


async def test_a_child_may_end_in_any_way(box: Sandbox) -> None:
    """What somebody cancels counts as failed, and what a plain producer finishes or fails as its event says."""
    run = await group(asks.bind(), asks.bind(), asks.bind(), on_failure="continue").start()
    await box.drain()
    one, two, three = [tail.run(name) for name in await children(run)]
    await one.cancel("nobody knows")
    await two.emit("run.finished", {"result": 42})
    await three.emit("run.failed", {"error": "broken", "reason": "error"})
    await box.drain()
    assert await run.result() == [
        ChildFailed(one.id, "cancelled", "nobody knows"),
        42,
        ChildFailed(three.id, "error", "broken"),
    ]


async def test_a_cancel_reaches_every_child(box: Sandbox) -> None:
    """Whoever cancels the flow cancels all children that have not ended, with the same reason."""
    run = await group(asks.bind(), chain(number.bind(1), group(asks.bind(), asks.bind()))).start()
    await box.drain()
    assert await run.cancel("no longer needed")
    await box.drain()
    with pytest.raises(RunCancelled, match="no longer needed"):
        await run.result()
    waiting = [name for name, task in (await children(run)).items() if task == "asks"]
    assert len(waiting) == 3
    for name in waiting:
        with pytest.raises(RunCancelled, match="no longer needed"):
            await tail.run(name).result()


# Attempts.


async def test_the_next_attempt_reuses_children(box: Sandbox) -> None:
    """A flow whose worker was killed goes on where it was: what finished is not done again, and nothing is started twice."""
    run = await chain(group(number.bind(1), asks.bind(), number.bind(3)), total.bind(), double.bind()).start()
    await box.drain()
    before = await children(run)
    await box.crash()
    await box.drain()
    assert (await run.state()).attempt == 2
    await (await child(run, "asks")).answer(2)
    await box.drain()
    assert await run.result() == 12
    assert begun == ["number 1", "number 3", "double 6"]
    after = await children(run)
    assert {name: after[name] for name in before} == before
    assert sorted(after.values()) == ["asks", "double", "number", "number", "total"]


async def test_a_failure_is_not_repeated_by_the_next_attempt(box: Sandbox) -> None:
    """A child that failed before the flow's worker was killed stays failed."""
    run = await group(fails.bind(), asks.bind(), on_failure="continue").start()
    await box.drain()
    await box.crash()
    await box.drain()
    await (await child(run, "asks")).answer(2)
    await box.drain()
    failed, two = await run.result()
    assert isinstance(failed, ChildFailed)
    assert (two, begun) == (2, ["fails no luck"])


@tail.task(retry=Retry(attempts=5, base_seconds=60))
async def later(run: Run) -> str:
    if run.attempt == 1:
        raise RetryLater(3600)
    return "later"


async def test_a_child_that_waits_for_time(box: Sandbox) -> None:
    """drain leaves a flow waiting whose child is due later."""
    run = await chain(group(later.bind(), number.bind(1)), nested.bind()).start()
    await box.drain()
    assert (await run.state()).status == "running"
    await box.advance(3600)
    assert await run.result() == "['later', 1]"


# Deadlines.


async def test_what_is_late_is_cancelled_and_counts_as_failed(box: Sandbox) -> None:
    """A group's deadline cancels what is not done, and its policy says what becomes of the rest."""
    run = await chord(
        group(number.bind(1), asks.bind(), on_failure="continue", deadline_seconds=0.3), nested.bind()
    ).start()
    for _ in range(100):
        await box.drain()
        if (await run.state()).terminal:
            break
        await asyncio.sleep(0.02)
    late = await child(run, "asks")
    assert await run.result() == repr(
        [1, {"child": late.id, "reason": "deadline", "error": "not done within the deadline of its flow"}]
    )
    assert (await late.state()).status == "cancelled"


async def test_the_deadline_counts_from_the_first_attempt(box: Sandbox) -> None:
    """A new attempt does not begin it anew: what was done by then counts, the rest is cancelled, and nothing more begins."""
    flow = chain(group(number.bind(1), asks.bind(), on_failure="continue"), nested.bind(), deadline_seconds=20)
    run = await flow.start()
    await box.drain()
    await box.crash()  # longer than the deadline
    await box.drain()
    with pytest.raises(RunFailed, match=re.escape("a child that was not begun of task nested failed (deadline)")):
        await run.result()
    assert (await (await child(run, "asks")).state()).status == "cancelled"
    assert begun == ["number 1"]


# Results by reference.


@tail.task
async def large(run: Run, size: int) -> str:
    return "x" * size


@tail.task
async def length(run: Run, texts: list[str]) -> int:
    return sum(map(len, texts))


async def test_results_are_not_copied(box: Sandbox) -> None:
    """A child's input names the run whose result it gets; together they may be larger than an event."""
    run = await chord([large.bind(60_000) for _ in range(20)], length.bind()).start()
    await box.drain()
    assert await run.result() == 1_200_000
    first = [event async for event in (await child(run, "length")).follow(live=False)][0]
    names = [name for name, task in (await children(run)).items() if task == "large"]
    root = run.id.partition("~")[0]
    assert sorted(root + name for name in first.data["references"]["texts"]) == sorted(names)
    assert first.data["input"] == {}
    assert len(first.raw) < 1000


async def test_a_flow_may_result_in_more_than_an_event_holds(box: Sandbox) -> None:
    """A list that is too large stays with the children; a handle reads it there, and so does a flow around it."""
    run = await group(*(large.bind(30_000) for _ in range(4))).start()
    await box.drain()
    assert await run.result() == ["x" * 30_000] * 4
    last = [event async for event in run.follow(live=False)][-1]
    assert last.type == "run.finished"
    assert last.data["result"] is None
    assert len(last.data["reference"]) == 4


async def test_an_expired_result_is_said_to_be(box: Sandbox) -> None:
    """A child whose input has expired fails without further tries and says so."""
    run = await chain(group(number.bind(1), asks.bind()), total.bind()).start()
    await box.drain()
    session = await tail.session()
    gone = await child(run, "number")
    await session.redis.delete(session.keys.of(gone.id).feed(gone.id))
    await (await child(run, "asks")).answer(2)
    await box.drain()
    with pytest.raises(RunFailed, match=f"numbers is the result of run {gone.id}, which has expired"):
        await run.result()
    state = await (await child(run, "total")).state()
    assert (state.status, state.attempt) == ("failed", 1)


async def test_only_the_family_can_be_named(box: Sandbox) -> None:
    """A reference in a run.queued from anybody reaches runs of the same root, and nothing else; other shapes are no references."""
    secret = await number.options(id="secret").start(7)
    await box.drain()
    assert await secret.result() == 7
    for forged in ("secret", "~../secret", {"run": "secret"}, ["secret"], 7, "~"):
        run = tail.run()
        await run.emit("run.queued", {"task": "double", "input": {}, "references": {"n": forged}})
        await box.drain()
        with pytest.raises(RunFailed, match="n is missing"):
            await run.result()


# Starting.


async def test_a_flow_is_started_as_tasks_are(box: Sandbox) -> None:
    """options names and labels the flow and puts it into a thread; the same id and flow is the same run."""
    flow = chain(number.bind(1), double.bind())
    run = await flow.options(id="f", labels={"a": "b"}).start()
    again = await flow.options(id="f").start()
    assert (run.id, again.id) == ("f", "f")
    with pytest.raises(RunExists):
        await chain(number.bind(2)).options(id="f").start()
    threaded = await flow.options(thread="t", id="x").start()
    await box.drain()
    assert [await one.result() for one in (run, threaded)] == [2, 2]
    state = await run.state()
    assert (state.task, state.labels) == (FLOW, {"a": "b"})
    assert threaded.id == "t~x"
    assert all(name.startswith("t~") for name in await children(threaded))


async def test_steps_may_have_names_and_labels(box: Sandbox) -> None:
    """options of a task count for its step."""
    run = await chain(number.options(id="first", labels={"kind": "n"}).bind(1), double.bind()).options(id="f").start()
    await box.drain()
    assert await run.result() == 2
    state = await tail.run("f~first").state()
    assert (state.status, state.labels) == ("succeeded", {"kind": "n"})


@tail.task
async def parent(run: Run) -> list[int]:
    return [await chain(number.bind(1), double.bind()).call(), await group(number.bind(5)).call() == [5]]


@tail.task
def plain(run: SyncRun) -> int:
    return chain(number.bind(1), double.bind()).sync.call()


async def test_a_task_calls_a_flow(box: Sandbox) -> None:
    """call makes it a child, in threads by .sync; its failure is told as a child's is."""
    run = await parent.start()
    blocking = await plain.start()
    await box.drain()
    assert (await run.result(), await blocking.result()) == ([2, True], 2)
    assert sorted((await children(run)).values()) == [FLOW, FLOW]


async def test_a_flow_may_be_joined_here(box: Sandbox) -> None:
    """start_here joins in this process what workers execute."""
    run = await chain(number.bind(2), group(double.bind(), fails.bind("x"), on_failure="ignore")).start_here()
    while not (await run.state()).terminal:
        await box.drain()
    assert await run.result() == [4]


async def test_what_cannot_be_is_refused(box: Sandbox) -> None:
    """Nothing is started of a flow that is empty, too wide, or whose arguments do not fit."""
    other = Tailrace()

    @other.task
    async def strange(run: Run) -> None: ...

    loose_chain: Any = chain
    loose_group: Any = group
    loose: Any = number
    loose_add: Any = add
    refused: list[tuple[Any, str]] = [
        (lambda: chain(), "a chain of nothing"),
        (lambda: group(), "a group of nothing"),
        (lambda: chord([], total.bind()), "a group of nothing"),
        (lambda: group(*[alone.bind()] * 1001), "a group of 1,001 steps; at most 1,000"),
        (lambda: chain(number.bind()), "task number: n is missing"),
        (lambda: chain(loose.bind("x")), "n is str, not int"),
        (lambda: loose_chain(number.bind(1), loose_add.bind(b="x")), "b is str, not int"),
        (lambda: chain(loose.bind(1, m=2)), "it has no parameter m"),
        (lambda: chain(number.bind(previous)), "nothing comes before this step"),
        (lambda: chord([number.bind(1)], alone.bind()), "<Step alone> takes none"),
        (lambda: chain(number.bind(1), strange.bind()), "several Tailrace objects"),
        (lambda: loose_chain(number), "made of task.bind"),
        (lambda: loose_group(number.bind(1), on_failure="stop"), "on_failure is 'stop'"),
        (lambda: group(number.bind(1), deadline_seconds=0), "deadline_seconds is 0"),
        (lambda: chain(number.options(thread="t").bind(1)), "not to a thread"),
        (lambda: chain(group(number.bind(1)).options(id="x"), total.bind()), "a flow with options"),
        (lambda: chain(number.options(id="a/b").bind(1)), 'has "/"'),
    ]
    for flow, message in refused:
        with pytest.raises(BadInput, match=re.escape(message)):
            await flow().start()
    tail.tasks.pop("alone")
    try:
        with pytest.raises(BadInput, match="task alone is none of this process's"):
            await chain(alone.bind()).start()
    finally:
        tail.tasks["alone"] = alone
    assert not [state async for state in tail.runs()]


async def test_a_plan_from_elsewhere_is_checked(box: Sandbox) -> None:
    """Programs may start flows by their plan; one that is none fails at once and says where it is wrong."""
    run = await tail.start(
        FLOW, plan={"chain": [{"task": "number", "input": {"n": 4}}, {"task": "double", "previous": ["n"]}]}
    )
    await box.drain()
    assert await run.result() == 8
    for plan, message in [
        ({"chain": [{"group": []}]}, r"a group of nothing"),
        ({"chain": [{"task": "a b"}]}, r"task .a b. has"),
        ({"group": [{"task": "a"}], "on_failure": "x"}, "on_failure is 'x'"),
        ({"group": [7]}, r"input\.plan\.group\[0\] is no object"),
    ]:
        run = await tail.start(FLOW, plan=plan)
        await box.drain()
        with pytest.raises(RunFailed, match=message):
            await run.result()
        assert (await run.state()).attempt == 1
