"""`tailrace dead`: lists, shows, runs again and deletes; in a pipe and at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from processor import Tailrace
from processor.core.keys import Keyspace
from processor.store.dead import DeadLetter
from tests.processor.cli.conftest import Cli, Terminal
from tests.processor.store.letters import EPOCH, bury
from tests.support.servers import TestServer


class Grave:
    """Letters of namespace `default`."""

    def __init__(self, client: Any, keys: Keyspace) -> None:
        self.client, self.keys = client, keys

    def bury(self, run: str, **more: Any) -> DeadLetter:
        return bury(self.client, self.keys, run, **more)

    @property
    def now(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds * 1000 + micros // 1000)


@pytest.fixture
async def keys(server: TestServer) -> Keyspace:
    async with Tailrace(server.url, namespace="default") as tail:
        return (await tail.session()).keys


@pytest.fixture
def grave(server: TestServer, keys: Keyspace) -> Iterator[Grave]:
    client = server.client()
    yield Grave(client, keys)
    client.close()


async def listed(cli: Cli, *args: str) -> list[str]:
    ended = await cli.here("dead", "list", *args)
    assert ended.code == 0, ended.err
    return [record["run"] for record in ended.records]


async def test_list_in_a_pipe(cli: Cli, grave: Grave) -> None:
    """One record a letter, newest first, as many as wanted."""
    grave.bury("old", died=EPOCH, labels={"user": "ada"})
    grave.bury("young", task="crawl", died=grave.now - 1000)
    ended = await cli("dead", "list")
    assert ended.code == 0
    assert ended.err == ""
    assert [record["run"] for record in ended.records] == ["young", "old"]
    assert ended.records[1] == {
        "run": "old",
        "task": "charge",
        "error": "TimeoutError: the bank said nothing",
        "reason": "error",
        "attempts": 3,
        "labels": {"user": "ada"},
        "queued": "2023-11-14T22:12:20.000Z",
        "dead": "2023-11-14T22:13:20.000Z",
    }
    assert await listed(cli, "charge") == ["old"]
    assert await listed(cli, "--since", "1h") == ["young"]
    assert await listed(cli, "--error", "Value*") == []
    assert await listed(cli, "--limit", "1") == ["young"]


async def test_list_at_a_terminal(cli: Cli, grave: Grave, terminal: Callable[..., Terminal]) -> None:
    """A table with the first line of each error, and a word about those that are not shown."""
    env = {"TAILRACE_REDIS_URL": cli.url}
    empty = terminal("dead", "list", env=env)
    await empty.ended()
    assert "no dead letters" in empty.seen
    for number in range(3):
        grave.bury(f"run-{number}", died=grave.now - 7_200_000, error="ValueError: no\nsecond line")
    table = terminal("dead", "list", "--limit", "2", env=env)
    assert await table.ended() == 0
    lines = [line.split() for line in table.seen.splitlines()]
    assert lines[0] == ["RUN", "TASK", "DEAD", "ATTEMPTS", "ERROR"]
    assert lines[1][1:] == ["charge", "2", "h", "ago", "3", "ValueError:", "no"]
    assert len(lines) == 4
    assert "the newest 2; --all lists every one" in table.seen


async def test_all_are_listed(cli: Cli, grave: Grave) -> None:
    """Fifty by default, every one with --all."""
    for number in range(60):
        grave.bury(f"run-{number}")
    assert len(await listed(cli)) == 50
    assert len(await listed(cli, "--all")) == 60


async def test_show(cli: Cli, grave: Grave) -> None:
    """What the list says of it, and thread, input and traceback; the beginning of the ID suffices."""
    grave.bury(
        "chat~abc", thread=True, input={"order": 1}, traceback="Traceback …\n  boom", died=EPOCH, reason="timeout"
    )
    ended = await cli.here("dead", "show", "chat~a")
    assert ended.code == 0
    assert ended.records == [
        {
            "run": "chat~abc",
            "task": "charge",
            "error": "TimeoutError: the bank said nothing",
            "reason": "timeout",
            "attempts": 3,
            "labels": {},
            "queued": "2023-11-14T22:12:20.000Z",
            "dead": "2023-11-14T22:13:20.000Z",
            "thread": "chat",
            "traceback": "Traceback …\n  boom",
            "input": {"order": 1},
        }
    ]


async def test_show_at_a_terminal(cli: Cli, grave: Grave, terminal: Callable[..., Terminal]) -> None:
    """All of it for eyes, and how to run it again."""
    grave.bury("chat~abc", thread=True, input={"order": 1}, traceback="Traceback …\n  boom\n", labels={"user": "ada"})
    shown = terminal("dead", "show", "abc", env={"TAILRACE_REDIS_URL": cli.url})
    assert await shown.ended() == 0
    head, *lines = shown.seen.splitlines()
    assert head.startswith("chat~abc  dead ")
    assert [line.rstrip() for line in lines if not line.startswith(("  queued", "  dead"))] == [
        "  task      charge",
        "  thread    chat",
        "  labels    user=ada",
        '  input     {"order":1}',
        "  attempts  3",
        "  reason    error",
        "  error     TimeoutError: the bank said nothing",
        "",
        "  Traceback …",
        "    boom",
        "To run it again: tailrace dead requeue --run chat~abc",
    ]
    assert any("(after 1 min)" in line for line in lines)


async def test_unknown_and_ambiguous(cli: Cli, grave: Grave) -> None:
    """No such letter is exit code 3, several are 2; both say what to do."""
    grave.bury("abc")
    grave.bury("abd")
    missing = await cli.here("dead", "show", "x")
    assert missing.code == 3
    assert "there is no dead letter of a run 'x' in namespace default" in missing.err
    several = await cli.here("dead", "requeue", "--run", "ab")
    assert several.code == 2
    assert "abd, abc" in several.err
    assert await listed(cli) == ["abd", "abc"]


@pytest.mark.parametrize("verb", ["requeue", "purge"])
async def test_it_must_be_said_which(cli: Cli, verb: str) -> None:
    """Nothing is requeued or deleted by leaving something out, nor by a contradiction."""
    ended = await cli.here("dead", verb)
    assert ended.code == 2
    assert "which dead letters?" in ended.err
    assert (await cli.here("dead", verb, "--error", "*", "--run", "a")).code == 2
    assert (await cli.here("dead", verb, "--since", "yesterday")).code == 2


async def test_requeue(cli: Cli, grave: Grave) -> None:
    """Those that match are run again, oldest first; the others stay."""
    for number in range(4):
        grave.bury(f"run-{number}", error=("TimeoutError", "ValueError")[number % 2], died=grave.now - 10_000 + number)
    grave.bury("other", task="crawl")
    ended = await cli("dead", "requeue", "charge", "--error", "Timeout*", "--since", "1h")
    assert (ended.code, ended.err) == (0, "2 dead letters requeued\n")
    assert [(record["run"], record["task"]) for record in ended.records] == [("run-0", "charge"), ("run-2", "charge")]
    assert set(await listed(cli)) == {"run-1", "run-3", "other"}
    nothing = await cli.here("dead", "requeue", "nobody")
    assert nothing.err == "0 dead letters requeued: none is so; `tailrace dead list` has those there are\n"
    queued = (await cli.here("runs", "--status", "queued", "--json")).records
    assert {record["run"] for record in queued} == {record["requeued"] for record in ended.records}


async def test_requeue_of_named_runs(cli: Cli, grave: Grave) -> None:
    """Runs may be named, several at once."""
    for name in ("abc", "abd", "x"):
        grave.bury(name)
    ended = await cli.here("dead", "requeue", "--run", "abc", "--run", "x")
    assert [record["run"] for record in ended.records] == ["abc", "x"]
    assert await listed(cli) == ["abd"]


async def test_requeue_of_a_busy_thread(cli: Cli, grave: Grave, terminal: Callable[..., Terminal]) -> None:
    """What cannot be run again now stays, says why, and is exit code 4."""
    for number in range(3):
        grave.bury(f"t~{number}", thread=True)
    ended = await cli.here("dead", "requeue", "charge")
    assert ended.code == 4
    new = ended.records[0]["requeued"]
    assert ended.records[1] == {"run": "t~1", "task": "charge", "requeued": None, "refused": "busy", "by": new}
    assert ended.err == "1 dead letter requeued, 2 could not be and stay\n"
    seen = terminal("dead", "requeue", "--all", env={"TAILRACE_REDIS_URL": cli.url})
    assert await seen.ended() == 4
    assert f"t~1  stays: its thread is busy with {new}" in seen.seen


async def test_requeue_of_a_full_task(cli: Cli, grave: Grave) -> None:
    """Above the task's limit letters stay where they are: exit code 75, try again."""
    for number in range(3):
        grave.bury(f"r~{number}")
    ended = await cli.here("dead", "requeue", "--all", env={"TAILRACE_WORK_LIMIT": "2"})
    assert ended.code == 75
    assert ended.records[2] == {"run": "r~2", "task": "charge", "requeued": None, "refused": "full", "by": "charge"}
    assert await listed(cli) == ["r~2"]


async def test_purge_asks_at_a_terminal(cli: Cli, grave: Grave, terminal: Callable[..., Terminal]) -> None:
    """Once, with the number; no is no."""
    env = {"TAILRACE_REDIS_URL": cli.url}
    grave.bury("a")
    grave.bury("b")
    grave.bury("c", task="crawl")
    asked = terminal("dead", "purge", "charge", env=env)
    await asked.shows("Delete 2 dead letters of charge for good? [y/N]")
    asked.press("n\n")
    assert await asked.ended() == 130
    assert await listed(cli) == ["c", "b", "a"]
    asked = terminal("dead", "purge", "charge", env=env)
    await asked.shows("Delete 2 dead letters of charge for good? [y/N]")
    asked.press("y\n")
    assert await asked.ended() == 0
    assert "2 dead letters deleted" in asked.seen
    assert await listed(cli) == ["c"]


async def test_purge_in_a_pipe_needs_yes(cli: Cli, grave: Grave) -> None:
    """Where nobody can be asked, --yes must be given; what was not meant stays."""
    grave.bury("a", error="ValueError")
    grave.bury("b")
    refused = await cli("dead", "purge", "--all")
    assert refused.code == 2
    assert "Delete 2 dead letters for good? There is no terminal to ask at." in refused.err
    ended = await cli.here("dead", "purge", "--error", "Value*", "--yes")
    assert (ended.code, ended.records) == (0, [{"purged": 1}])
    assert await listed(cli) == ["b"]
    nothing = await cli.here("dead", "purge", "nobody")
    assert nothing.records == [{"purged": 0}]
    assert nothing.err == "no such dead letters; `tailrace dead list` has those there are\n"


async def test_a_full_server_is_told(cli: Cli, grave: Grave) -> None:
    """Nothing is requeued without memory: exit code 5, and the letter stays."""
    grave.bury("a")
    grave.client.config_set("maxmemory", 1)
    try:
        ended = await cli.here("dead", "requeue", "--all")
    finally:
        grave.client.config_set("maxmemory", 0)
    assert ended.code == 5
    assert "error[server-full]" in ended.err
    assert await listed(cli) == ["a"]
