"""`tailrace groups`: lists, shows, lets a group go on elsewhere, deletes; in a pipe and at a terminal."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable

import pytest

from processor import Tailrace
from processor.core.worker import WorkerState
from processor.store.workers import announce, tell_stopped, worker_here
from tests.processor.cli.conftest import Cli, Terminal
from tests.processor.store.logside import LogSide, letter
from tests.support.servers import TestServer


@pytest.fixture
async def side(server: TestServer) -> AsyncIterator[LogSide]:
    """Namespace `default`."""
    async with Tailrace(server.url, namespace="default") as tail:
        side = LogSide(server, await tail.session())
        yield side
        side.close()


async def joined(side: LogSide, *groups: str) -> WorkerState:
    return await announce(side.session, worker_here("web-1-aaaaaa", [], groups=groups, places=9))


async def test_list_in_a_pipe(cli: Cli, side: LogSide) -> None:
    """One record a group, by name, with the figures that the gateway tells."""
    await side.bind("stock", mode="ordered", when_behind="refuse")
    await side.bind("audit", "usage")
    await joined(side, "stock")
    await side.emit("a", 5)
    given = side.read("audit", "a", 3)
    side.fail("audit", "a", given[0], due=10**15)
    letter(side, "audit", "b", died=1000)
    side.client.hset(side.part("a").meta, "cut:audit", given[0])
    ended = await cli("groups", "list")
    assert (ended.code, ended.err) == (0, "")
    audit, stock = ended.records
    assert 0 <= audit.pop("oldest_seconds") < 20
    assert audit == {
        "group": "audit",
        "mode": "shared",
        "when_behind": "detach",
        "backlog": 5,
        "lag": 2,
        "pending": 2,
        "delayed": 1,
        "members": 0,
        "dead": 1,
        "cut": [side.keys.number("a")],
    }
    assert (stock["group"], stock["mode"], stock["members"], stock["when_behind"]) == ("stock", "ordered", 1, "refuse")
    assert (stock["lag"], stock["cut"], stock["dead"]) == (5, [], 0)


async def test_list_at_a_terminal(cli: Cli, side: LogSide, terminal: Callable[..., Terminal]) -> None:
    """A table that says where events wait and nobody is there for them."""
    env = {"TAILRACE_REDIS_URL": cli.url}
    empty = terminal("groups", "list", env=env)
    await empty.ended()
    assert "no groups" in empty.seen
    await side.bind("audit")
    await side.bind("stock", mode="ordered")
    await joined(side, "stock")
    await side.emit("a", 5)
    table = terminal("groups", "list", env=env)
    assert await table.ended() == 0
    head, audit, stock = (line.split() for line in table.seen.splitlines())
    assert head == ["GROUP", "MODE", "BACKLOG", "LAG", "PENDING", "RETRIES", "OLDEST", "DEAD", "MEMBERS", "STATE"]
    assert audit[:6] == ["audit", "shared", "5", "5", "0", "0"]
    assert " ".join(audit[-12:]).endswith("waits for a worker: none that has it is alive")
    assert stock[-1] == "1"


async def test_show_in_a_pipe(cli: Cli, side: LogSide) -> None:
    """What the list says, with bindings, workers and each partition."""
    await side.bind("audit", "run.failed", "tool.*", mode="ordered")
    worker = await joined(side, "audit")
    await side.emit("a", 4)
    given = side.read("audit", "a", 1)
    side.lease("audit", "a", until="1795506276265")
    [record] = (await cli.here("groups", "show", "audit")).records
    assert [binding["pattern"] for binding in record["bindings"]] == ["run.failed", "tool.*"]
    assert all(binding["told"].endswith("Z") for binding in record["bindings"])
    assert record["workers"] == [worker.name]
    assert (record["start"], record["backlog"]) == ("first", 4)
    assert record["created"].endswith("Z")
    place = record["partitions"][side.keys.number("a")]
    assert 0 <= place.pop("oldest_seconds") < 20
    assert place == {
        "partition": side.keys.number("a"),
        "lag": 3,
        "pending": 1,
        "delayed": 0,
        "dead": 0,
        "delivered": given[0],
        "owner": "m",
        "owner_until": "2026-11-24T07:44:36.265Z",
    }
    assert len(record["partitions"]) == 8


async def test_show_at_a_terminal(cli: Cli, side: LogSide, terminal: Callable[..., Terminal]) -> None:
    """All of it for eyes, and what to do where nobody has it."""
    await side.bind("audit", "run.failed")
    await tell_stopped(side.session, await joined(side, "audit"))
    await side.emit("a", 1)
    shown = terminal("groups", "show", "audit", env={"TAILRACE_REDIS_URL": cli.url})
    assert await shown.ended() == 0
    assert "audit  shared" in shown.seen
    assert "1 event waits for a worker: none that has group audit is alive (last: " in shown.seen
    assert "1: 1 to be given, 0 in members' hands, 0 to be tried again" in shown.seen
    assert re.search(r"run\.failed  \(told \d+ s ago\)", shown.seen)
    rows = [line.split() for line in shown.seen.splitlines() if line[:1].isdigit()]
    assert len(rows) == 8
    assert rows[side.keys.number("a")][:4] == [str(side.keys.number("a")), "1", "0", "0"]


@pytest.mark.parametrize(
    "words", [("show", "audit"), ("reset", "audit", "--to", "end", "--yes"), ("delete", "audit", "--yes")]
)
async def test_a_group_that_is_not_there(cli: Cli, side: LogSide, words: tuple[str, ...]) -> None:
    """Its name is told, and where names are listed; exit code 3."""
    ended = await cli.here("groups", *words)
    assert ended.code == 3
    assert "error[unknown-group]: there is no group 'audit'" in ended.err


async def test_reset(cli: Cli, side: LogSide) -> None:
    """The group goes on at the place named; what members had and the retries are told."""
    await side.bind("audit")
    await side.emit("a", 6)
    entries = side.entries("a")
    given = side.read("audit", "a", 4)
    side.fail("audit", "a", given[0], due=10**15)
    ended = await cli.here("groups", "reset", "audit", "--to", "end", "--yes")
    assert ended.code == 0, ended.err
    every = list(range(8))
    assert ended.records == [
        {"group": "audit", "lag": 0, "acknowledged": 3, "dropped": 1, "partitions": every, "lacking": []}
    ]
    for to, lag in (("start", 6), (entries[4], 2), ("1h", 6), ("2999-01-01", 0)):
        [record] = (await cli.here("groups", "reset", "audit", "--to", to, "--yes")).records
        assert (record["lag"], record["lacking"]) == (lag, []), to
    other = (side.keys.number("a") + 1) % 8
    [record] = (await cli.here("groups", "reset", "audit", "--to", "start", "--partition", str(other), "--yes")).records
    assert (record["lag"], record["partitions"]) == (0, [other])


async def test_reset_to_what_is_gone(cli: Cli, side: LogSide) -> None:
    """It is told that the log begins later than wanted, and that increments nobody had bound were never in it."""
    await side.bind("audit")
    await side.emit("a", 6)
    side.ack("audit", "a", side.read("audit", "a", 4))
    await side.session.scripts.trim(side.part("a"))
    ended = await cli.here("groups", "reset", "audit", "--to", "1h", "--yes")
    assert ended.records[0]["lacking"] == [side.keys.number("a")]
    assert ended.records[0]["lag"] == 2
    assert f"In partition {side.keys.number('a')} the log begins later than that" in ended.err
    assert "were never in the log" in ended.err


async def test_reset_is_asked_for(cli: Cli, side: LogSide, terminal: Callable[..., Terminal]) -> None:
    """At a terminal it asks once, with what waits; a no changes nothing, and elsewhere --yes is needed."""
    await side.bind("audit")
    await side.emit("a", 3)
    side.read("audit", "a", 1)
    asked = terminal("groups", "reset", "audit", "--to", "end", env={"TAILRACE_REDIS_URL": cli.url})
    await asked.shows("Let group audit go on at 'end'? 3 events wait for it, 1 of them in members' hands.")
    asked.press("n\n")
    assert await asked.ended() == 130
    refused = await cli.here("groups", "reset", "audit", "--to", "end")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert await side.figures("audit", "a") == (2, 1, 0)
    asked = terminal("groups", "reset", "audit", "--to", "end", env={"TAILRACE_REDIS_URL": cli.url})
    await asked.shows("Let group audit")
    asked.press("y\n")
    assert await asked.ended() == 0
    assert "audit: 0 events to come; 1 in members' hands and 0 retries dropped" in asked.seen


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "yesterday"), "--to is 'yesterday', which is no place."),
        (("--to", "end", "--partition", "8"), "--partition is 8; there are 0 to 7."),
        ((), "to"),
    ],
)
async def test_reset_to_nowhere(cli: Cli, side: LogSide, words: tuple[str, ...], said: str) -> None:
    """What is no place is said, and nothing changes."""
    await side.bind("audit")
    ended = await cli.here("groups", "reset", "audit", *words, "--yes")
    assert ended.code == 2
    assert said in ended.err


async def test_delete(cli: Cli, side: LogSide) -> None:
    """The group goes with what waited for it; its dead letters stay, and that is told."""
    await side.bind("audit")
    await side.emit("a", 3)
    given = side.read("audit", "a", 2)
    side.fail("audit", "a", given[0], due=10**15)
    letter(side, "audit", "a", died=1000)
    refused = await cli.here("groups", "delete", "audit")
    assert refused.code == 2
    ended = await cli.here("groups", "delete", "audit", "--yes")
    assert ended.code == 0, ended.err
    assert ended.records == [{"group": "audit", "deleted": True, "lag": 1, "pending": 1, "delayed": 1, "dead": 1}]
    assert "1 dead letter kept: `tailrace dead list audit --group`" in ended.err
    assert re.search(r"told its bindings \d+ s ago\. One that still has its reactions makes it anew\.", ended.err)
    assert (await cli.here("groups", "list")).records == []


async def test_delete_while_it_is_run(cli: Cli, side: LogSide) -> None:
    """Live workers would make it anew: it is refused whatever is said, with their names; exit code 4."""
    await side.bind("audit")
    worker = await joined(side, "audit")
    ended = await cli.here("groups", "delete", "audit", "--yes")
    assert ended.code == 4
    assert f"error[group-in-use]: group audit is run by 1 live worker ({worker.name})" in ended.err
    assert len((await cli.here("groups", "list")).records) == 1
    await tell_stopped(side.session, worker)
    assert (await cli.here("groups", "delete", "audit", "--yes")).code == 0


async def test_dead_letters(cli: Cli, side: LogSide, terminal: Callable[..., Terminal]) -> None:
    """`dead` takes groups as well as tasks: lists, shows by event, gives back to the group."""
    await side.bind("audit")
    letter(side, "audit", "abc", 42, died=1000, traceback="Traceback …\n  boom", labels={"user": "ada"})
    letter(side, "audit", "abc", 43, died=2000)
    [second, first] = (await cli.here("dead", "list", "audit")).records
    assert [record["event"].split("-")[0] for record in (first, second)] == ["42", "43"]
    shown = (await cli.here("dead", "show", "abc@42")).records
    assert [(record["group"], record["traceback"], record["data"]) for record in shown] == [
        ("audit", "Traceback …\n  boom", {"cents": 500})
    ]
    assert len((await cli.here("dead", "show", "abc")).records) == 2
    table = terminal("dead", "list", env={"TAILRACE_REDIS_URL": cli.url})
    assert await table.ended() == 0
    lines = [line.split() for line in table.seen.splitlines()]
    assert lines[0] == ["RUN", "TASK", "OR", "GROUP", "DEAD", "ATTEMPTS", "ERROR"]
    assert lines[1][:2] == ["abc@43", "audit"]
    eyes = terminal("dead", "show", "abc@42", env={"TAILRACE_REDIS_URL": cli.url})
    assert await eyes.ended() == 0
    for part in ("group     audit", "event     order.paid (42-", "happened", '{"cents":500}', "requeue --run abc@42"):
        assert part in eyes.seen
    ended = await cli.here("dead", "requeue", "--run", "abc@42")
    assert ended.records == [{"run": "abc", "group": "audit", "event": first["event"], "requeued": "abc"}]
    assert (await cli.here("dead", "requeue", "audit")).code == 0
    assert len(side.entries("abc")) == 2


async def test_a_name_that_means_both(cli: Cli, side: LogSide) -> None:
    """Where a task and a group of one name have letters, it must be said whose are given back or deleted."""
    from tests.processor.store.letters import bury

    await side.bind("audit")
    letter(side, "audit", "a", died=1000)
    bury(side.client, side.keys, "b", task="audit")
    assert len((await cli.here("dead", "list", "audit")).records) == 2
    assert [record["run"] for record in (await cli.here("dead", "list", "audit", "--task")).records] == ["b"]
    for verb in ("requeue", "purge"):
        ended = await cli.here("dead", verb, "audit", "--yes")
        assert ended.code == 2
        assert "of a task 'audit' and of a group 'audit'" in ended.err
    ended = await cli.here("dead", "purge", "audit", "--group", "--yes")
    assert ended.records == [{"purged": 1}]
    assert [record["run"] for record in (await cli.here("dead", "list")).records] == ["b"]
    assert (await cli.here("dead", "list", "--group")).code == 2
    assert (await cli.here("dead", "list", "audit", "--group", "--task")).code == 2


async def test_a_letter_of_an_inlet(cli: Cli, side: LogSide, terminal: Callable[..., Terminal]) -> None:
    """It tells which entry could be no event; it cannot be given back, and what to do instead is told."""
    fields = {"r": "a", "x": "17-0", "f": '{"error":"KeyError: 3","reason":"error","attempts":1}', "f:order": "5"}
    side.client.xadd(side.part("a").dead_group("orders"), fields, id="1000-1")
    [record] = (await cli.here("dead", "list", "orders")).records
    assert (record["run"], record["entry"], record["error"]) == ("a", "17-0", "KeyError: 3")
    assert "event" not in record
    env = {"TAILRACE_REDIS_URL": cli.url}
    shown = terminal("dead", "show", "a", env=env)
    assert await shown.ended() == 0
    assert "entry     17-0" in shown.seen
    assert "add the entry to its stream again" in shown.seen
    assert "fields    order=5" in shown.seen
    [whole] = (await cli.here("dead", "show", "orders@17-0")).records
    assert (whole["entry"], whole["fields"]) == ("17-0", {"order": "5"})
    refused = terminal("dead", "requeue", "orders", env=env)
    assert await refused.ended() == 4
    assert "a  stays: mend inlet orders, then add entry 17-0 to its stream again" in refused.seen


async def test_a_letter_of_an_inlet_without_a_run(cli: Cli, side: LogSide, terminal: Callable[..., Terminal]) -> None:
    """Its function raised before any run was named: it goes by inlet and entry."""
    fields = {"r": "", "x": "17-0", "f": '{"error":"KeyError: 3","reason":"error","attempts":1}', "f:order": "5"}
    side.client.xadd(side.part("a").dead_group("orders"), fields, id="1000-1")
    listed = terminal("dead", "list", "orders", env={"TAILRACE_REDIS_URL": cli.url})
    assert await listed.ended() == 0
    assert "orders@17-0" in listed.seen
    [whole] = (await cli.here("dead", "show", "orders@17-0")).records
    assert whole["fields"] == {"order": "5"}
    assert (await cli.here("dead", "show", "orders@18-0")).code == 3


async def test_a_letter_of_a_group_that_is_gone(cli: Cli, side: LogSide) -> None:
    """It stays, and why is told; exit code 4."""
    letter(side, "audit", "a", died=1000)
    ended = await cli.here("dead", "requeue", "audit")
    assert ended.code == 4
    assert ended.records[0]["refused"] == "unbound"
    assert "1 could not be and stay" in ended.err
