"""Dead letters: found, shown, run again as new runs, deleted; each at most once, whoever else does the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from processor import Tailrace
from processor.client.session import Session
from processor.core.partition import root_of
from processor.core.settings import Settings
from processor.store.dead import (
    DeadLetter,
    Requeued,
    Wanted,
    counts,
    find,
    letters,
    purge,
    read,
    requeue,
    threads,
)
from processor.store.runs import read_state
from tests.processor.store.letters import EPOCH, bury
from tests.support.servers import Kind, TestServer, binary_of, running


@pytest.fixture
def client(every_server: TestServer) -> Iterator[Any]:
    client = every_server.client()
    yield client
    client.close()


@pytest.fixture
async def session(every_server: TestServer, namespace: str) -> AsyncIterator[Session]:
    settings = Settings(redis_url=every_server.url, namespace=namespace, partitions=4, work_limit=3)
    async with Tailrace(settings=settings) as tail:
        yield await tail.session()


async def runs_of(session: Session, **wanted: Any) -> list[str]:
    return [letter.run async for letter in letters(session, Wanted(**wanted))]


# -- reading


async def test_newest_first_over_all_partitions(session: Session, client: Any) -> None:
    """Letters of all tasks and partitions come in the order of time, newest first, over any number of pages."""
    names = [f"run-{number}" for number in range(230)]
    for number, name in enumerate(names):
        bury(client, session.keys, name, task=("charge", "crawl")[number % 2])
    assert len({session.keys.number(name) for name in names}) == 4
    assert await runs_of(session) == names[::-1]
    assert await runs_of(session, task="crawl") == names[1::2][::-1]
    assert await counts(session) == {"charge": 115, "crawl": 115}


async def test_none_at_all(session: Session) -> None:
    """Without letters there is nothing, whatever is asked."""
    assert await runs_of(session) == await runs_of(session, task="charge") == []
    assert await counts(session) == {}
    assert await find(session, "x") == []
    assert await requeue(session, []) == []
    assert await read(session, []) == []
    assert await purge(session, []) == 0


async def test_filters(session: Session, client: Any) -> None:
    """By task, by a pattern of the error as in a shell, and by when they died."""
    bury(client, session.keys, "a", error="TimeoutError: 1", died=EPOCH)
    bury(client, session.keys, "b", error="ValueError: no\nTimeout", died=EPOCH + 5)
    bury(client, session.keys, "c", task="crawl", error="TimeoutError: 2\nand more", died=EPOCH + 10)
    assert await runs_of(session, error="Timeout*") == ["c", "a"]
    assert await runs_of(session, error="*Timeout*") == ["c", "b", "a"]
    assert await runs_of(session, error="timeout*") == []
    assert await runs_of(session, error="TimeoutError: [12]") == ["a"]
    assert await runs_of(session, since_ms=EPOCH + 5) == ["c", "b"]
    assert await runs_of(session, task="charge", error="Timeout*", since_ms=EPOCH + 1) == []


async def test_another_namespaces_letters_are_not_ours(session: Session, every_server: TestServer, client: Any) -> None:
    """A namespace whose name begins alike has letters of its own."""
    bury(client, session.keys, "a")
    other = Settings(redis_url=every_server.url, namespace=f"{session.settings.namespace}-b", partitions=8)
    async with Tailrace(settings=other) as tail:
        theirs = await tail.session()
        bury(client, theirs.keys, "b")
        assert await runs_of(theirs) == ["b"]
    assert await runs_of(session) == ["a"]


async def test_what_a_letter_tells(session: Session, client: Any) -> None:
    """Error, reason, traceback, attempts; task, input, labels; when it was queued and when it died."""
    bury(
        client,
        session.keys,
        "a",
        error="TimeoutError: bank",
        reason="timeout",
        attempts=5,
        traceback="Traceback …",
        input={"order": 9_007_199_254_740_993},
        labels={"user": "ada"},
        died=EPOCH,
    )
    (letter,) = [letter async for letter in letters(session, Wanted())]
    listed = {
        "run": "a",
        "task": "charge",
        "error": "TimeoutError: bank",
        "reason": "timeout",
        "attempts": 5,
        "labels": {"user": "ada"},
        "queued": "2023-11-14T22:12:20.000Z",
        "dead": "2023-11-14T22:13:20.000Z",
    }
    assert letter.json() == listed
    more = {"thread": "t", "traceback": "Traceback …", "input": {"order": 9_007_199_254_740_993}}
    assert letter.whole_json("t") == {**listed, **more}


async def test_a_letter_without_origin(session: Session, client: Any) -> None:
    """Where the server had lost the run, what is left is told."""
    bury(client, session.keys, "a", lost=True, attempts=0, reason="corrupt")
    (letter,) = [letter async for letter in letters(session, Wanted())]
    told = letter.whole_json(None)
    assert {name: told.get(name) for name in ("run", "reason", "attempts", "labels", "queued", "input")} == {
        "run": "a",
        "reason": "corrupt",
        "attempts": 0,
        "labels": {},
        "queued": None,
        "input": None,
    }


async def test_found_by_run(session: Session, client: Any) -> None:
    """By the whole ID, although others begin with it, else by the beginnings and ends that fit."""
    for name in ("abc", "abcd", "xabc", "abd"):
        bury(client, session.keys, name)
    assert [letter.run for letter in await find(session, "abc")] == ["abc"]
    assert {letter.run for letter in await find(session, "ab")} == {"abc", "abcd", "abd"}
    assert {letter.run for letter in await find(session, "bc")} == {"abc", "xabc"}
    assert await find(session, "no") == []
    assert len(await find(session, "ab", limit=2)) == 2


async def test_read_again_by_place(session: Session, client: Any) -> None:
    """A letter is found at its place until it is taken out."""
    one, other = bury(client, session.keys, "a"), bury(client, session.keys, "b", task="crawl")
    assert await read(session, [other.place, one.place]) == [other, one]
    await purge(session, [one.place])
    assert await read(session, [other.place, one.place]) == [other, None]


async def test_threads_of_runs(session: Session, client: Any) -> None:
    """A run's thread is known while its hash is."""
    for name, thread in (("t~1", True), ("t~1~2", False), ("u~1", True)):
        bury(client, session.keys, name, thread=thread)
    client.delete(session.keys.of("u~1").run("u~1"))
    assert await threads(session, ["t~1", "t~1~2", "u~1", "nobody"]) == ["t", None, None, None]


# -- deleting


async def test_purging_deletes_what_was_named(session: Session, client: Any) -> None:
    """Exactly those letters go, each counted once, over tasks and partitions."""
    buried = [bury(client, session.keys, f"run-{n}", task=("charge", "crawl")[n % 2]) for n in range(20)]
    places = [letter.place for letter in buried[:11]]
    assert await purge(session, places) == 11
    assert await purge(session, places) == 0
    assert await runs_of(session) == [letter.run for letter in reversed(buried[11:])]


# -- running again


async def outcomes(session: Session, *found: DeadLetter) -> list[tuple[str, str]]:
    return [(answer.word, answer.detail) for answer in await requeue(session, found)]


async def test_a_letter_becomes_a_new_run(session: Session, client: Any) -> None:
    """A queued run of the same task, input and labels, whose feed begins with the same run.queued, waits for a worker; the letter
    is gone and the failed run is as it was."""
    letter = bury(client, session.keys, "a", input={"order": 1, "x": 1.0}, labels={"user": "ada"})
    before = client.hgetall(session.keys.of("a").run("a"))
    (answer,) = await requeue(session, [letter])
    assert answer == Requeued(letter, answer.run, "requeued")
    assert root_of(answer.run) == "a" != answer.run
    state = await read_state(session, answer.run)
    assert state is not None
    assert (state.status, state.task, state.labels, state.attempt) == ("queued", "charge", {"user": "ada"}, 0)
    keys = session.keys.of("a")
    ((_, entry),) = client.xrange(keys.work("charge"))
    assert entry == {b"r": answer.run.encode(), b"i": str(state.tail).encode(), b"e": letter.payload}
    assert client.xrange(keys.feed(answer.run)) == [(str(state.tail).encode(), {b"e": letter.payload})]
    assert client.zscore(keys.index, answer.run) is not None
    assert client.hgetall(session.keys.of("a").run("a")) == before
    assert await runs_of(session) == []


async def test_it_is_the_start_that_it_was(every_server: TestServer, client: Any, namespace: str) -> None:
    """The new run's start is what a client would compute for this task and input: the same start by its ID is that run."""
    async with Tailrace(every_server.url, namespace=namespace) as tail:
        session = await tail.session()
        letter = bury(client, session.keys, "a", input={"b": 1.0, "a": [2**70, "ü"]})
        (answer,) = await requeue(session, [letter])

        @tail.task(name="charge")
        async def charge(run: Any, b: float, a: list[Any]) -> None: ...

        again = await charge.options(id=answer.run).start(b=1.0, a=[2**70, "ü"])
        assert again.id == answer.run


async def test_groups_and_followers_are_told(session: Session, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition with a group has the event in its log, and whoever follows the new run hears of it."""
    letter = bury(client, session.keys, "a")
    keys = session.keys.of("a")
    await session.scripts.bind(keys, "audit")
    monkeypatch.setattr("processor.store.dead.ulid", lambda: "new")
    pubsub = client.pubsub()
    pubsub.ssubscribe(keys.channel("a~new"))
    assert pubsub.get_sharded_message(timeout=5)["type"] == "ssubscribe"
    assert await outcomes(session, letter) == [("requeued", "")]
    id = client.hget(keys.run("a~new"), "tail")
    assert [entry for _, entry in client.xrange(keys.log)] == [{b"r": b"a~new", b"i": id, b"e": letter.payload}]
    assert pubsub.get_sharded_message(timeout=5)["data"] == id + b"\n" + letter.payload
    pubsub.close()


async def test_who_comes_second_gets_nothing(session: Session, client: Any) -> None:
    """However many requeue the same letters at the same time, each becomes one run."""
    buried = [bury(client, session.keys, f"run-{n}") for n in range(12)]
    results = await asyncio.gather(*(requeue(session, buried) for _ in range(4)))
    for number, letter in enumerate(buried):
        words = sorted(result[number].word for result in results)
        assert words in (["gone"] * 3 + ["requeued"], ["full"] * 4), letter
    await purge(session, [buried[0].place])
    assert (await outcomes(session, buried[0]))[0][0] == "gone"


async def test_a_call_sent_twice_is_one_run(session: Session, client: Any) -> None:
    """Whose answer was lost is told `requeued` for the run that it made."""
    letter = bury(client, session.keys, "a")
    commands: list[Any] = []
    send = session.scripts.send

    async def sent_twice(script: Any, command: Any) -> Any:
        commands.append(command)
        await send(script, command)
        return await send(script, command)

    session.scripts.send = sent_twice  # type: ignore[method-assign]
    assert await outcomes(session, letter) == [("requeued", "")]
    assert client.xlen(session.keys.of("a").work("charge")) == 1


async def test_a_busy_thread_keeps_the_letter(session: Session, client: Any) -> None:
    """A thread has one active run: the letter stays, and becomes the thread's next run once it is free."""
    first, second = (bury(client, session.keys, f"t~{n}", thread=True) for n in (1, 2))
    (one, other) = await requeue(session, [first, second])
    assert (one.word, other.word, other.detail) == ("requeued", "busy", one.run)
    keys = session.keys.of("t")
    assert client.hgetall(keys.thread("t")) == {b"active": one.run.encode(), b"latest": one.run.encode()}
    assert await runs_of(session) == ["t~2"]
    await session.scripts.cancel(keys, one.run, b'"enough"')
    (other,) = await requeue(session, [second])
    state = await read_state(session, other.run)
    assert state is not None
    assert (other.word, state.thread, state.prev) == ("requeued", "t", one.run)


async def test_a_full_task_keeps_the_letter(session: Session, client: Any) -> None:
    """Above the task's limit (3 here) letters stay where they are."""
    buried = [bury(client, session.keys, f"r~{n}") for n in range(5)]
    assert await outcomes(session, *buried) == [("requeued", "")] * 3 + [("full", "charge")] * 2
    assert await runs_of(session) == ["r~4", "r~3"]


async def test_a_letter_without_origin_stays(session: Session, client: Any) -> None:
    """Nobody knows what it was, so it cannot be run again."""
    lost, known = bury(client, session.keys, "a", lost=True), bury(client, session.keys, "b")
    assert await outcomes(session, lost, known) == [("lost", ""), ("requeued", "")]
    assert await runs_of(session) == ["a"]


@pytest.mark.parametrize("kind", ["valkey", "redis7"])
async def test_without_memory_the_letter_stays(kind: Kind, namespace: str) -> None:
    """A full server refuses before anything is written; purging works, which is one way to make room."""
    if binary_of(kind) is None:
        pytest.skip(f"{kind} is not installed")
    with running(kind) as server:
        async with Tailrace(server.url, namespace=namespace) as tail:
            session = await tail.session()
            client: Any = server.client()
            letter = bury(client, session.keys, "a")
            client.config_set("maxmemory", 1)
            with pytest.raises(redis.ResponseError, match="command not allowed"):
                await requeue(session, [letter])
            assert await runs_of(session) == ["a"]
            assert client.xlen(session.keys.of("a").work("charge")) == 0
            assert await purge(session, [letter.place]) == 1
            client.config_set("maxmemory", 0)
            client.close()
