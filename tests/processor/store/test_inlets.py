"""An inlet's two ends on real servers: what partitions take and refuse, what is noted, what is read and missed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from processor import Tailrace
from processor.client.session import Session
from processor.core.errors import ServerError
from processor.core.events import Draft, draft
from processor.core.inlet import NOTHING, Item, Letter, Parcel
from processor.core.settings import Settings
from processor.store.connection import execute
from processor.store.inlet_reader import ENTRIES, InletReader
from processor.store.inlets import Source, State, Stream, Target
from processor.store.line import Line
from processor.store.scripts import Batch
from tests.support.servers import TestServer

A, WAITS = draft("a", b"1"), draft("run.waiting", b"{}", ask="a")


@dataclass
class Scene:
    session: Session
    target: Target
    source: Source

    async def ask(self, *command: bytes | str | int) -> Any:
        return await execute(self.session.redis, *command)

    async def send(self, *parcels: Parcel) -> list[str]:
        number = self.session.keys.number(parcels[0].run)
        return await self.target.send(number, parcels)

    async def payloads(self, run: str) -> list[bytes]:
        entries = await self.ask("XRANGE", self.session.keys.of(run).feed(run), "-", "+")
        return [fields[b"e"] for _, fields in entries]

    async def add(self, *ids: str) -> None:
        for id in ids:
            await self.ask("XADD", "orders", id, "n", "1")


@pytest.fixture
async def scene(every_server: TestServer, namespace: str) -> AsyncIterator[Scene]:
    settings = Settings(
        redis_url=every_server.url, namespace=namespace, partitions=1, log_limit=100, work_limit=2, dead_limit=100
    )
    async with Tailrace(settings=settings) as tail:
        session = await tail.session()
        calls, reads = Line(session.server.address, "t-append"), Line(session.server.address, "t-read")

        async def relaid(partition: int, layout: str) -> None:
            assert session.appender.settle_topology is not None
            await session.appender.settle_topology(partition, layout)

        yield Scene(session, Target(session, calls, "orders", relaid=relaid), Source(reads, "orders"))
        calls.close()
        reads.close()
        await execute(session.redis, "DEL", "orders")


def parcel(before: int, id: int, *events: Draft, run: str = "r") -> Parcel:
    return Parcel(f"{before}-0", f"{id}-0", [Item(f"{id}-0", run, events or (draft("order.paid", b"%d" % id),))])


# Partitions.


async def test_each_entry_once_behind_the_one_before(scene: Scene) -> None:
    """Sent again it is a duplicate; out of turn it meets a hole, and nothing behind it is looked at."""
    assert await scene.send(parcel(0, 1), parcel(1, 2)) == ["taken", "taken"]
    assert await scene.send(parcel(0, 1), parcel(1, 2), parcel(2, 5)) == ["duplicate", "duplicate", "taken"]
    assert await scene.send(parcel(6, 7), parcel(7, 8)) == ["hole 5-0"]
    assert await scene.send(parcel(4, 5), parcel(5, 7)) == ["duplicate", "taken"]
    assert [payload[-2:] for payload in await scene.payloads("r")] == [b"1}", b"2}", b"5}", b"7}"]
    assert await scene.target.marks() == ["7-0"]


async def test_an_entry_is_applied_whole_or_not_at_all(scene: Scene) -> None:
    """Of several events the last may be what the run does not take: then the first is not there either."""
    end = draft("run.finished", b"{}")
    answers = await scene.send(parcel(0, 1), parcel(1, 2, draft("a", b"1"), end, draft("b", b"2")))
    assert answers[0] == "taken"
    assert answers[1].startswith("refused closed 1 succeeded 1-")
    assert len(await scene.payloads("r")) == 1
    assert await scene.target.marks() == ["1-0"]
    assert await scene.send(parcel(1, 2, draft("a", b"1"), end)) == ["taken"]
    (answer,) = await scene.send(parcel(2, 3))
    assert answer.startswith("refused closed 1 succeeded 3-")


@pytest.mark.parametrize(
    ("events", "answer"),
    [
        ([draft("run.resumed", b"{}")], "refused illegal 1 new run.resumed"),
        ([WAITS], "refused illegal 1 new run.waiting"),
        ([A, WAITS, draft("run.resumed", b"{}", ask="b")], "refused illegal 1 waiting run.resumed"),
        ([A, WAITS, draft("run.resumed", b"{}", ask="a")], "taken"),
        ([draft("run.queued", b"{}", task="t", start="s")] * 2, "taken"),
        ([draft("run.queued", b"{}", task="t", start=start) for start in "st"], "refused exists 1"),
        ([draft("run.queued", b"{}", task="t", start="s"), draft("run.started", b"{}"), draft("run.finished", b"{}")], "taken"),
        ([draft("run.started", b"{}"), draft("run.queued", b"{}", task="t", start="s")], "refused exists 1"),
    ],
)  # fmt: skip
async def test_what_a_run_would_say_is_foreseen(scene: Scene, events: list[Draft], answer: str) -> None:
    """Each event is judged as if those before it had been applied; refused, nothing is written."""
    assert await scene.send(parcel(0, 1, *events)) == [answer]
    if answer != "taken":
        assert await scene.payloads("r") == []
        assert await scene.target.marks() == [NOTHING]
        assert not await scene.ask("EXISTS", scene.session.keys.of("r").run("r"))


async def test_a_full_log_is_told(scene: Scene) -> None:
    """Inlets are from outside: they wait for a group that refuses to fall behind, and then the same is taken."""
    keys = scene.session.keys.partitions[0]
    await scene.session.scripts.bind(keys, "slow", start="now", when_behind="refuse")
    chain = [parcel(n, n + 1) for n in range(102)]
    assert await scene.send(*chain) == ["taken"] * 100 + ["full 1 slow"]
    assert await scene.send(chain[100], chain[101]) == ["full 1 slow"]
    assert await scene.send(parcel(100, 101, draft("message.delta", b'{"text":"a"}'))) == [
        "taken"
    ]  # nobody has bound it
    await scene.ask("XREADGROUP", "GROUP", "slow", "me", "STREAMS", keys.log, ">")
    ids = [id for id, _ in await scene.ask("XRANGE", keys.log, "-", "+")]
    await scene.ask("XACK", keys.log, "slow", *ids)
    assert await scene.send(parcel(101, 102)) == ["taken"]


async def test_a_full_task_is_told(scene: Scene) -> None:
    """run.queued waits while the task's stream is full; ends of runs are never refused for it."""
    queued = [parcel(n, n + 1, draft("run.queued", b"{}", task="t", start="s"), run=f"r{n}") for n in range(3)]
    assert await scene.send(*queued) == ["taken", "taken", "full 1 t"]
    assert await scene.send(parcel(2, 3, draft("run.cancelled", b"{}"), run="r0")) == ["taken"]


async def test_events_of_relays_are_never_refused_for_backlog(scene: Scene) -> None:
    """Only a source that begins with in: comes from outside."""
    keys = scene.session.keys.partitions[0]
    await scene.session.scripts.bind(keys, "slow", start="now", when_behind="refuse")
    relay = Target(scene.session, scene.target._line, "x", relaid=scene.target._relaid)
    relay._source = "1"
    assert await relay.send(0, [parcel(n, n + 1) for n in range(102)]) == ["taken"] * 102


async def test_letters_stand_in_the_chain(scene: Scene) -> None:
    """A letter has the entry's fields, cut where they are too much, and moves the mark as a taken entry does."""
    raw = [b"run", b"\xff", b"big", b"x" * 70_000, b"more", b"1"]
    letter = Letter("no run", raw, "r", traceback="Traceback …")
    aside = Parcel("1-0", "2-0", [Item("2-0", "r", letter=letter)])
    assert await scene.target.send(0, [aside]) == ["hole 0-0"]
    assert await scene.send(parcel(0, 1)) == ["taken"]
    assert [await scene.target.send(0, [aside]) for _ in range(2)] == [["taken"], ["duplicate"]]
    assert await scene.send(parcel(2, 3)) == ["taken"]
    [(_, fields)] = await scene.ask("XRANGE", scene.session.keys.partitions[0].dead_group("orders"), "-", "+")
    assert fields == {
        b"r": b"r",
        b"x": b"2-0",
        b"f": '{"error":"no run","reason":"error","attempts":1,"traceback":"Traceback …"}'.encode(),
        b"f:run": b"\xff",
        b"cut": b"2",
    }


async def test_a_partition_of_another_layout_takes_nothing(scene: Scene) -> None:
    """One that has none yet gets it on the way; after that it is compared."""
    assert await scene.send(parcel(0, 1)) == ["taken"]
    meta = scene.session.keys.partitions[0].meta
    layout = await scene.ask("HGET", meta, "layout")
    await scene.ask("HSET", meta, "layout", "4 other")
    with pytest.raises(ServerError, match="Two namespaces were mixed"):
        await scene.send(parcel(1, 2))
    await scene.ask("HSET", meta, "layout", layout)
    assert await scene.target.marks() == ["1-0"]


async def test_a_broken_run_stops_the_script_behind_what_was_marked(scene: Scene) -> None:
    """What was taken in the same call is not taken again."""
    await scene.ask("SET", scene.session.keys.of("b").run("b"), "no hash")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        await scene.send(parcel(0, 1), parcel(1, 2, run="b"))
    assert await scene.target.marks() == ["1-0"]
    assert await scene.send(parcel(0, 1), parcel(1, 3)) == ["duplicate", "taken"]
    await scene.ask("DEL", scene.session.keys.of("b").run("b"))


# Notes.


async def test_notes_never_go_back(scene: Scene) -> None:
    """Of two owners the one that is further counts; another stream under the same name is told."""
    assert await scene.target.state() is None
    first = State("orders", "5-3", 7, {0: "5-1"})
    assert await scene.target.note(first) == "noted"
    assert await scene.target.state() == first
    assert await scene.target.note(State("orders", "5-2", 6, {0: "5-1"})) == "behind"
    assert await scene.target.state() == first
    assert await scene.target.note(State("orders", "12-0", None, {0: "9-0", 3: "12-0"})) == "noted"
    assert await scene.target.state() == State("orders", "12-0", None, {0: "9-0", 3: "12-0"})
    assert await scene.target.note(State("invoices", "99-0")) == "other orders"


# Reading.


def reader(scene: Scene) -> InletReader:
    return InletReader(
        scene.source,
        "orders",
        structlog.get_logger("tailrace.inlet"),
        clock=functools.partial(next, itertools.count(0, 3)),
    )


async def test_pages_follow_each_other(scene: Scene) -> None:
    """Each entry once, in order; an empty page where nothing comes, also of a stream that is not there yet."""
    reading = reader(scene)
    reading.begin(NOTHING, None)
    assert (await reading.read()).entries == []
    await scene.add(*(f"{n}-0" for n in range(1, ENTRIES + 50)))
    found: list[str] = []
    while page := (await reading.read()).entries:
        found += [id for id, _ in page]
    assert found == [f"{n}-0" for n in range(1, ENTRIES + 50)]


async def test_pages_of_large_entries_are_short(scene: Scene) -> None:
    """About 1 MiB at most, once their size is known."""
    for _ in range(100):
        await scene.ask("XADD", "orders", "*", "n", b"x" * 50_000)
    reading = reader(scene)
    sizes = [len((await reading.read()).entries) for _ in range(3)]
    assert sizes[1] <= 21
    assert sizes[2] <= 21


async def test_a_look_at_a_stream(scene: Scene) -> None:
    """Nothing where there is none."""
    assert await scene.source.look() == Stream()
    await scene.add("1-0", "2-0", "3-0")
    await scene.ask("XTRIM", "orders", "MAXLEN", 2)
    found = await scene.source.look()
    assert (found.length, found.first, found.end, found.last) == (2, "2-0", "3-0", "3-0")
    assert found.added in (3, -1)


@pytest.mark.parametrize("trimmed", ["some", "all", "in the midst"])
async def test_what_went_before_it_was_read_is_counted(scene: Scene, trimmed: str) -> None:
    """Trimmed or deleted: told once, with how many."""
    if not scene.session.server.shebang:
        pytest.skip("fakeredis does not count what a stream ever had")
    await scene.add("1-0", "2-0")
    reading = reader(scene)
    reading.begin(NOTHING, 0)
    with structlog.testing.capture_logs() as logs:
        assert len((await reading.read()).entries) == 2
        await reading.read()
        await scene.add(*(f"{n}-0" for n in range(3, 9)))
        if trimmed == "in the midst":
            await scene.ask("XDEL", "orders", "4-0", "5-0", "8-0")
        else:
            await scene.ask("XTRIM", "orders", "MAXLEN", 3 if trimmed == "some" else 0)
        read = []
        for _ in range(4):
            read += [id for id, _ in (await reading.read()).entries]
    assert read == {"some": ["6-0", "7-0", "8-0"], "all": [], "in the midst": ["3-0", "6-0", "7-0"]}[trimmed]
    told = [line["entries"] for line in logs if line["event"] == "inlet_missed"]
    assert sum(told) == {"some": 3, "all": 6, "in the midst": 3}[trimmed]


async def test_a_stream_that_was_made_anew_is_told(scene: Scene) -> None:
    """Its entries stand before what was taken: they would not be seen."""
    await scene.add("5-0")
    reading = reader(scene)
    await reading.read()
    await scene.ask("DEL", "orders")
    await scene.add("2-0")
    with structlog.testing.capture_logs() as logs:
        await reading.read()
        await reading.read()
    assert [(line["event"], line["last"]) for line in logs] == [("inlet_stream_went_back", "2-0")]


async def test_a_key_that_is_no_stream(scene: Scene) -> None:
    """The server's words come out as an error of its own."""
    await scene.ask("SET", "orders", "1")
    with pytest.raises(ServerError, match=r"WRONGTYPE|no attribute"):  # fakeredis stumbles
        await reader(scene).read()


async def test_batches_still_work(scene: Scene) -> None:
    """An ordinary producer and an inlet share a run."""
    assert await scene.send(parcel(0, 1)) == ["taken"]
    word, outcomes = await scene.session.scripts.append(
        scene.session.keys.of("r"), scene.session.keys.layout, [Batch("r", "p:x", 0, 1, [draft("a", b"1")])]
    )
    assert word == "ok"
    assert outcomes[0][0].startswith("appended 1 2-")
