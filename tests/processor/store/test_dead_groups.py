"""Dead letters of reactions: beside those of tasks, and given back to their own group alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from processor import Tailrace
from processor.core.events import Event
from processor.core.settings import Settings
from processor.store.dead import DeadLetter, Wanted, find, kinds_of, letters, purge, requeue
from processor.store.resets import delete_group
from processor.testing import sandbox
from tests.processor.store.letters import EPOCH, bury
from tests.processor.store.logside import LogSide, letter
from tests.support.servers import TestServer


@pytest.fixture
async def side(every_server: TestServer, namespace: str) -> AsyncIterator[LogSide]:
    settings = Settings(redis_url=every_server.url, namespace=namespace, partitions=2)
    async with Tailrace(settings=settings) as tail:
        side = LogSide(every_server, await tail.session())
        yield side
        side.close()


async def all_of(side: LogSide, **wanted: Any) -> list[DeadLetter]:
    return [found async for found in letters(side.session, Wanted(**wanted))]


async def again(side: LogSide, *found: DeadLetter) -> list[str]:
    return [answer.word for answer in await requeue(side.session, found)]


async def test_beside_those_of_tasks(side: LogSide) -> None:
    """Letters of both come in the order of time; a name may mean a task, a group or both."""
    bury(side.client, side.keys, "a", task="audit", died=EPOCH)
    letter(side, "audit", "b", died=EPOCH + 1)
    letter(side, "stock", "a", died=EPOCH + 2)
    assert [found.run for found in await all_of(side)] == ["a", "b", "a"]
    assert [found.run for found in await all_of(side, task="audit")] == ["a"]
    assert [found.run for found in await all_of(side, group="audit")] == ["b"]
    assert [found.run for found in await all_of(side, task="audit", group="audit")] == ["b", "a"]
    assert await kinds_of(side.session, "audit") == {"task", "group"}
    assert await kinds_of(side.session, "stock") == {"group"}
    assert await kinds_of(side.session, "nobody") == set()


async def test_what_a_letter_tells(side: LogSide) -> None:
    """The event with its run, type, data, labels and time; what failed, how often it was tried, and when it was given up."""
    letter(side, "audit", "a", 42, died=EPOCH, traceback="Traceback …", labels={"user": "ada"})
    [found] = await all_of(side)
    listed = {
        "run": "a",
        "group": "audit",
        "event": f"42-{EPOCH - 60_000}",
        "type": "order.paid",
        "happened": "2023-11-14T22:12:20.000Z",
        "error": "KeyError: 'price'",
        "reason": "error",
        "attempts": 3,
        "labels": {"user": "ada"},
        "dead": "2023-11-14T22:13:20.000Z",
    }
    assert found.json() == listed
    assert found.whole_json(None) == {**listed, "traceback": "Traceback …", "data": {"cents": 500}}
    assert (found.task, found.group, found.seq) == ("", "audit", 42)


async def test_found_by_run_and_event(side: LogSide) -> None:
    """A run has as many letters as events that failed; the number behind an @ says which event's are meant."""
    for number, (group, run, seq) in enumerate(
        (("audit", "abc", 1), ("stock", "abc", 1), ("audit", "abc", 2), ("audit", "abd", 1))
    ):
        letter(side, group, run, seq, died=EPOCH + number)

    async def found(text: str, **wanted: Any) -> list[tuple[str, str, int]]:
        return [(one.group, one.run, one.seq) for one in await find(side.session, text, Wanted(**wanted))]

    assert await found("abc") == [("audit", "abc", 2), ("stock", "abc", 1), ("audit", "abc", 1)]
    assert await found("abc@1") == [("stock", "abc", 1), ("audit", "abc", 1)]
    assert await found("abc@1", group="audit") == [("audit", "abc", 1)]
    assert await found("bd@1") == [("audit", "abd", 1)]
    assert await found("abc@7") == await found("abc@x") == []


async def test_given_back_to_its_group_alone(side: LogSide) -> None:
    """The event enters the log once more, for that group, as one that was never tried; feed and other groups see nothing of it."""
    await side.bind("audit")
    await side.emit("a", 2)
    letter(side, "audit", "a", 1, died=EPOCH, labels={"user": "ada"})
    letter(side, "audit", "a", 2, died=EPOCH + 1)
    found = await all_of(side)
    feed = side.client.xrange(side.keys.of("a").feed("a"))
    assert await again(side, *found[::-1]) == ["requeued"] * 2
    *_, first, second = side.client.xrange(side.part("a").log)
    assert first[1] == {
        b"r": b"a", b"i": found[1].queued.encode(), b"e": found[1].payload, b"g": b"audit", b"t": b"0"
    }  # fmt: skip
    assert second[1][b"i"] == found[0].queued.encode()
    assert await side.figures("audit", "a") == (4, 0, 0)
    assert side.client.xrange(side.keys.of("a").feed("a")) == feed
    assert await all_of(side) == []
    assert await again(side, *found) == ["gone"] * 2
    assert len(side.entries("a")) == 4


async def test_whoever_asks_at_the_same_time(side: LogSide) -> None:
    """Each letter is given back once, however many ask for it."""
    await side.bind("audit")
    for number in range(60):
        letter(side, "audit", "a", number + 1, died=EPOCH + number)
    found = await all_of(side)
    answers = await asyncio.gather(*(requeue(side.session, found) for _ in range(4)))
    words = [answer.word for answered in answers for answer in answered]
    assert (words.count("requeued"), words.count("gone")) == (60, 180)
    assert len(side.entries("a")) == 60


async def test_a_group_that_is_gone(side: LogSide) -> None:
    """Nobody would be given the event: the letter stays until the group is there again, or it is purged."""
    await side.bind("audit")
    await side.bind("other")
    letter(side, "audit", "a", died=EPOCH)
    await delete_group(side.session, "audit")
    found = await all_of(side)
    assert await again(side, *found) == ["unbound"]
    assert side.entries("a") == []
    await side.bind("audit")
    assert await again(side, *found) == ["requeued"]
    letter(side, "audit", "a", died=EPOCH)
    assert await purge(side.session, [one.place for one in await all_of(side)]) == 1


async def test_a_run_that_was_stopped_goes_on(side: LogSide) -> None:
    """An ordered group takes the run's events again once one of its letters was given back; other runs stay stopped."""
    await side.bind("audit", mode="ordered")
    side.lease("audit", "a", **{"x:a": "1", "x:a~2": "1"})
    letter(side, "audit", "a", died=EPOCH, reason="error")
    assert await again(side, *await all_of(side)) == ["requeued"]
    found = side.client.hkeys(side.part("a").lease("audit"))
    assert b"x:a~2" in found
    assert b"x:a" not in found


async def test_a_shared_group_has_no_lease(side: LogSide) -> None:
    """Giving a letter back makes no key that was not there."""
    await side.bind("audit")
    letter(side, "audit", "a", died=EPOCH)
    assert await again(side, *await all_of(side)) == ["requeued"]
    assert not side.client.exists(side.part("a").lease("audit"))


async def test_both_kinds_at_once(side: LogSide) -> None:
    """Letters of tasks and of groups are given back in one call, each as its kind is."""
    await side.bind("audit")
    task = bury(side.client, side.keys, "a", died=EPOCH)
    letter(side, "audit", "a", died=EPOCH + 1)
    answers = await requeue(side.session, (await all_of(side))[::-1])
    assert [answer.word for answer in answers] == ["requeued", "requeued"]
    assert answers[0].letter == task
    assert answers[0].run.startswith("a~")
    assert answers[1].run == "a"


async def test_in_a_sandbox() -> None:
    """A test asks for the letters of a group by its name."""
    tail = Tailrace()

    @tail.on("order.paid", group="audit", retry=1)
    async def book(event: Event[Any]) -> None:
        raise KeyError("price")

    async with sandbox(tail) as box:
        await tail.run("order-1").emit("order.paid", {"cents": 500})
        await box.drain()
        [found] = await box.dead("audit")
    assert (found.group, found.run, found.error, found.data) == (
        "audit",
        "order-1",
        "KeyError: 'price'",
        {"cents": 500},
    )
