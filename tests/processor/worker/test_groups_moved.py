"""Groups that are reset or deleted while their members run: what was in hands has no effect, and members go on by themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from processor import Tailrace
from processor.client.run import Run
from processor.core.backoff import Retry
from processor.core.errors import RunNotFound
from processor.core.events import Event
from processor.core.routing import Binding
from processor.store.dead import Wanted, letters, requeue
from processor.store.groups import Declared, bind
from processor.store.resets import Place, delete_group, reset_group
from processor.store.standings import Standing, read_groups
from tests.processor.worker.conftest import working
from tests.support.until import until

START, END = Place("start"), Place("end")
every_mode = pytest.mark.parametrize("ordered", [False, True], ids=["shared", "ordered"])


class Handler:
    """A reaction of group `g` to order.paid: each event adds one to what it was handled, and settles one event into run `out`."""

    def __init__(self, tail: Tailrace, *, ordered: bool, retry: Retry | int = 1) -> None:
        self.tail = tail
        self.begun = Counter[int]()
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.broken = False
        self.failing: dict[int, int] = {}  # event → how often it still fails

        @tail.on("order.paid", group="g", ordered=ordered, retry=retry)
        async def handle(event: Event[Any], run: Run[Any]) -> None:
            n = event.data["n"]
            self.begun[n] += 1
            await self.may_go.wait()
            if self.broken or self.failing.get(n, 0) > 0:
                self.failing[n] = self.failing.get(n, 0) - 1
                raise ValueError("no")
            tail.run("out").emit("order.seen", {"n": n})

    async def emit(self, *numbers: int) -> None:
        for n in numbers:
            await self.tail.run("r").emit("order.paid", {"n": n})

    async def settled(self) -> Counter[int]:
        """How often each event had its effect."""
        try:
            return Counter([event.data["n"] async for event in self.tail.run("out").follow(live=False)])
        except RunNotFound:
            return Counter()

    async def standing(self) -> Standing:
        [found] = (await read_groups(await self.tail.session(), ["g"])).all
        return found

    async def idle(self) -> None:
        async def nothing_waits() -> bool:
            return (await self.standing()).backlog == 0

        await until(nothing_waits, "all is handled", 10)

    async def move(self, place: Place) -> None:
        session = await self.tail.session()
        await reset_group(session, "g", place, range(len(session.keys.partitions)))


@every_mode
async def test_what_is_in_hands_has_no_effect(tail: Tailrace, ordered: bool) -> None:
    """A handler that began before a reset to the end settles nothing, and what comes afterwards is handled once."""
    handler = Handler(tail, ordered=ordered)
    async with working(tail):
        handler.may_go.clear()
        await handler.emit(1, 2, 3)
        await until(lambda: handler.begun[1] > 0, "the first is in hands")
        await handler.move(END)
        assert (await handler.standing()).backlog == 0
        handler.may_go.set()
        await handler.emit(4, 5)

        async def are_settled() -> bool:
            return set(await handler.settled()) >= {4, 5}

        await until(are_settled, "what came later is handled", 10)
        await handler.idle()
    assert await handler.settled() == {4: 1, 5: 1}


@every_mode
async def test_from_the_start_again(tail: Tailrace, ordered: bool) -> None:
    """Every event still in the log is handled once more while the worker runs on."""
    handler = Handler(tail, ordered=ordered)
    await bind(
        await tail.session(), Declared("keeper", "shared", [Binding("#")])
    )  # nothing is trimmed before it read it
    async with working(tail):
        await handler.emit(1, 2, 3)
        await handler.idle()
        assert await handler.settled() == {1: 1, 2: 1, 3: 1}
        await handler.move(START)

        async def are_settled() -> bool:
            return sum((await handler.settled()).values()) == 6

        await until(are_settled, "they are handled again", 10)
        await handler.idle()
    assert await handler.settled() == {1: 2, 2: 2, 3: 2}


@every_mode
async def test_an_event_that_was_retried_comes_once(tail: Tailrace, ordered: bool) -> None:
    """What stood in the log twice for the group, as it was tried again or given back, is handled once behind a reset."""
    handler = Handler(tail, ordered=ordered, retry=Retry(attempts=2, base_seconds=0.01))
    session = await tail.session()
    await bind(session, Declared("keeper", "shared", [Binding("#")]))
    async with working(tail):
        handler.failing = {1: 1, 2: 2}
        await handler.emit(1, 2, 3)
        await handler.idle()
        found = [letter async for letter in letters(session, Wanted(group="g"))]
        assert [answer.word for answer in await requeue(session, found)] == ["requeued"]

        async def settled_times(times: int) -> bool:
            return sum((await handler.settled()).values()) >= times

        await until(lambda: settled_times(3), "all three are handled", 10)
        await handler.idle()
        await handler.move(START)
        await until(lambda: settled_times(6), "they are handled again", 10)
        await handler.emit(4)
        await until(lambda: settled_times(7), "and what comes then", 10)
        await handler.idle()
    assert await handler.settled() == {1: 2, 2: 2, 3: 2, 4: 1}


@every_mode
async def test_from_the_start_while_one_is_in_hands(tail: Tailrace, ordered: bool) -> None:
    """The event comes again to whoever reads it; its effect happens once."""
    handler = Handler(tail, ordered=ordered)
    async with working(tail):
        handler.may_go.clear()
        await handler.emit(1)
        await until(lambda: handler.begun[1] > 0, "it is in hands")
        await handler.move(START)
        handler.may_go.set()

        async def is_settled() -> bool:
            return (await handler.settled())[1] > 0

        await until(is_settled, "its effect is there", 10)
        await handler.idle()
    assert await handler.settled() == {1: 1}


@every_mode
async def test_deleted_while_members_run(tail: Tailrace, ordered: bool) -> None:
    """What was in hands has no effect; members make the group anew and handle what comes from then on."""
    handler = Handler(tail, ordered=ordered)
    async with working(tail):
        handler.may_go.clear()
        await handler.emit(1)
        await until(lambda: handler.begun[1] > 0, "it is in hands")
        session = await tail.session()
        await delete_group(session, "g")

        async def is_bound() -> bool:
            found = (await read_groups(session, ["g"])).all
            return bool(found) and all(position.bound for position in found[0].positions)

        handler.may_go.set()
        await until(is_bound, "the group is there anew", 10)
        await handler.emit(2)

        async def is_settled() -> bool:
            return (await handler.settled())[2] > 0

        await until(is_settled, "what came later is handled", 10)
        await handler.idle()
    assert await handler.settled() == {2: 1}


@every_mode
async def test_a_letter_is_given_back(tail: Tailrace, ordered: bool) -> None:
    """An event that was given up goes to its group once more, and its effect happens."""
    handler = Handler(tail, ordered=ordered)
    session = await tail.session()
    async with working(tail):
        handler.broken = True
        await handler.emit(1, 2)
        await handler.idle()
        found = [letter async for letter in letters(session, Wanted(group="g"))]
        assert [(letter.type, letter.reason, letter.attempts, letter.run) for letter in found] == [
            ("order.paid", "error", 1, "r")
        ] * 2
        handler.broken = False
        assert [answer.word for answer in await requeue(session, found[::-1])] == ["requeued"] * 2

        async def are_settled() -> bool:
            return len(await handler.settled()) == 2

        await until(are_settled, "their effects are there", 10)
        await handler.idle()
    assert await handler.settled() == {1: 1, 2: 1}
    assert (await handler.standing()).dead == 0
