"""What members of a group send holds at any size, after any silence, and on a server that is out of memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from processor import Tailrace
from processor.core.events import draft
from processor.core.routing import Binding
from processor.core.settings import Settings
from processor.store.connection import execute
from processor.store.executing import Output
from processor.store.groups import FORGET_SECONDS, Declared
from processor.store.groups import bind as bind_group
from processor.store.leases import Leases
from processor.store.reacting import Delivery, ReactUnit, hold_command, react_command, skip_command
from tests.processor.store.logside import LogSide
from tests.support.servers import TestServer

MANY = 9_000  # more than Lua's unpack may put on its stack


@pytest.fixture
async def side(server: TestServer, namespace: str) -> AsyncIterator[LogSide]:
    settings = Settings(redis_url=server.url, namespace=namespace, partitions=1)
    async with Tailrace(settings=settings) as tail:
        side = LogSide(server, await tail.session())
        yield side
        side.close()


@contextmanager
def out_of_memory(side: LogSide) -> Iterator[None]:
    side.client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        side.client.config_set("maxmemory", 0)


async def bindings(side: LogSide, group: str, *patterns: str) -> set[str]:
    """What all members bind, once one has told these."""
    bound = await bind_group(side.session, Declared(group, "shared", [Binding(pattern) for pattern in patterns]))
    return {binding.text for binding in bound.bindings}


async def test_a_member_that_holds_many_entries_renews_all(side: LogSide) -> None:
    """In one call, and none is told as lost."""
    await side.bind("g")
    await side.emit("r", MANY)
    held = side.read("g", "r", MANY)
    keys, script = side.keys.partitions[0], side.session.scripts.named("hold")
    assert await side.session.scripts.send(script, hold_command(script, keys.log, "g", "m", held)) == []
    assert side.client.xpending(keys.log, "g")["pending"] == MANY


async def test_many_entries_that_nobody_handles_are_skipped_at_once(side: LogSide) -> None:
    """However many a member was given."""
    await side.bind("g")
    await side.emit("r", MANY)
    held = side.read("g", "r", MANY)
    keys, script = side.keys.partitions[0], side.session.scripts.named("skip")
    version = side.client.hget(keys.meta, "g:g").decode().split(" ")[1]
    assert await side.session.scripts.send(script, skip_command(script, keys, "g", version, held)) == b"skipped"
    assert side.client.xpending(keys.log, "g")["pending"] == 0


@pytest.mark.parametrize("type", ["seen", "run.finished"])
async def test_units_that_write_to_many_runs_are_settled_in_one_call(side: LogSide, type: str) -> None:
    """Each run has its event, and those that ended left the clocks."""
    units, each = 45, 200
    keys, session = side.keys.partitions[0], side.session
    runs = [f"out~{n}" for n in range(units * each)]
    if type == "run.finished":
        for run in runs:
            await side.emit(run)
    await side.bind("g")
    await side.emit("source", units)
    entries = side.read("g", "source", units)
    made = [
        ReactUnit(
            [Delivery(0, entry, "source", f"{n}-1", b"")],
            "done",
            [Output(run, [draft(type, b"{}")]) for run in runs[n * each : (n + 1) * each]],
        )
        for n, entry in enumerate(entries)
    ]
    script = session.scripts.named("react")
    command = react_command(script, session.limits, side.keys, 0, "g", made)
    assert await session.scripts.send(script, command) == [b"settled"] * units
    assert side.client.zcard(keys.index) == len(runs) + 1
    if type == "run.finished":
        assert side.client.zcard(keys.deadlines) == len(runs) + 1
    seq = side.client.hget(keys.run(runs[-1]), "tail").decode().partition("-")[0]
    assert seq == ("2" if type == "run.finished" else "1")


async def test_bindings_outlive_a_time_in_which_nobody_could_tell_them(side: LogSide) -> None:
    """All members were away, or the clock jumped ahead: the first one that tells its own does not take the others' away."""
    await bindings(side, "g", "order.*")
    assert await bindings(side, "g", "tool.*") == {"order.*", "tool.*"}
    record = side.keys.group("g")
    for field, value in side.client.hgetall(record).items():
        if field.startswith((b"b:", b"told")):
            side.client.hset(record, field, int(value) - int(FORGET_SECONDS * 1000) - 1)
    assert await bindings(side, "g", "order.*") == {"order.*", "tool.*"}


async def test_a_binding_that_nobody_tells_while_others_do_is_dropped(side: LogSide) -> None:
    """An hour later."""
    await bindings(side, "g", "order.*")
    assert await bindings(side, "g", "tool.*") == {"order.*", "tool.*"}
    record = side.keys.group("g")
    told = int(side.client.hget(record, "b:order.*"))
    side.client.hset(record, "b:order.*", told - int(FORGET_SECONDS * 1000) - 1)
    assert await bindings(side, "g", "tool.*") == {"tool.*"}


async def test_members_begin_on_a_server_that_is_out_of_memory(side: LogSide) -> None:
    """Nobody else would handle, and free, what fills it: they bind, live, and take leases."""
    leases = Leases(side.session, "g", "m", term_ms=1000)
    await bindings(side, "g", "order.*")
    with out_of_memory(side):
        assert await bindings(side, "g", "tool.*") == {"order.*", "tool.*"}
        members = await leases.tell(["tool.*"])
        await leases.leave()
    assert [member.name for member in members.all] == ["m"]
    assert await execute(side.session.redis, "HEXISTS", side.keys.partitions[0].meta, "g:g")


def test_the_size_of_a_unit_is_of_all_that_its_call_carries() -> None:
    """By which calls are divided: outputs, the event of a retry, that of a dead letter and what is said of it."""
    delivery = Delivery(0, "1-1", "r", "1-1", b"x" * 1000)
    outputs = [
        Output("a", [draft("seen", b"1" * 300), draft("seen", b"2" * 300)]),
        Output("b", [draft("seen", b"3" * 300)]),
    ]
    assert 900 <= ReactUnit([delivery], "done", outputs).size < 1100
    assert ReactUnit([delivery], "retry", tries=1).size == 1000
    assert ReactUnit([delivery], "dead", failure=b"f" * 50).size == 1050
