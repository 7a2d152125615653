"""What random sequences reach too rarely: many producers, long feeds, large numbers, lost keys, no memory, owners in real order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from processor.core.cursor import FeedId
from processor.core.events import draft
from processor.store.scripts import Batch
from tests.processor.store.stage import Stage, expand
from tests.processor.store.state import Outcome
from tests.support.servers import TestServer, binary_of, running


@pytest.fixture
def stage(every_server: TestServer, namespace: str) -> Iterator[Stage]:
    stage = Stage(every_server, namespace, ("a", "b", "a~0", "a~1"))
    yield stage
    stage.close()


def send(stage: Stage, run: str, writer: str, number: int, count: int = 1, *, prev: int | None = None) -> list[Outcome]:
    drafts = [draft("usage", b"%d" % at) for at in range(number, number + count)]
    return stage.append([Batch(run, writer, number - 1 if prev is None else prev, number, drafts)])[0]


def test_two_equal_bodies_have_equal_ids(stage: Stage) -> None:
    """A body sent twice is appended once, and both answers bring the same IDs; an older one's are not told."""
    first = send(stage, "a", "p:x", 1, 3)
    again = send(stage, "a", "p:x", 1, 3)
    assert [outcome.word for outcome in again] == ["duplicate"] * 3
    assert [outcome.id for outcome in again] == [outcome.id for outcome in first]
    send(stage, "a", "p:x", 4)
    assert [outcome.id for outcome in send(stage, "a", "p:x", 1, 3)] == [None] * 3


def test_a_body_may_begin_with_duplicates(stage: Stage) -> None:
    """What a body repeats is duplicate, the rest is appended; the body as a whole, sent again, has all its IDs."""
    send(stage, "a", "p:x", 1, 2)
    stage.now += 7
    mixed = send(stage, "a", "p:x", 2, 3)
    assert [outcome.word for outcome in mixed] == ["duplicate", "appended", "appended"]
    again = send(stage, "a", "p:x", 2, 3)
    assert [outcome.word for outcome in again] == ["duplicate"] * 3
    assert [outcome.id for outcome in again] == [outcome.id for outcome in mixed]


def test_numbers_are_exact(stage: Stage) -> None:
    """Numbers up to 2^53-1 are compared exactly, and may skip."""
    top = 2**53 - 1
    assert send(stage, "a", "p:x", 1)[0].word == "appended"
    assert send(stage, "a", "p:x", top - 2, prev=1)[0].word == "appended"
    assert send(stage, "a", "p:x", top, prev=top - 1) == [Outcome("hole", detail=str(top - 2))]
    assert send(stage, "a", "p:x", top - 1)[0].word == "appended"
    assert send(stage, "a", "p:x", top - 1)[0].word == "duplicate"
    assert send(stage, "a", "p:x", top)[0].word == "appended"
    assert stage.append([Batch("a", "p:x", 0, 0, ())]) == [[Outcome("stored", detail=str(top))]]


def test_one_call_takes_256_events(stage: Stage) -> None:
    """As many as a call may hold get consecutive IDs of one time."""
    outcomes = send(stage, "a", "p:x", 1, 256)
    assert [outcome.id for outcome in outcomes] == [FeedId(seq, stage.now) for seq in range(1, 257)]


def test_a_long_feed_is_bounded(stage: Stage) -> None:
    """Behind the feed limit the oldest events go, a node at a time; numbers go on and nothing else is lost."""
    for first in range(1, 1500, 100):
        send(stage, "a", "p:x", first, 100)  # the comparison holds both bounds
    assert stage.model.runs["a"].first > 500


def _producers(stage: Stage, count: int, time: int) -> None:
    """So many producers have written to run `a`."""
    send(stage, "a", "p:x", 1)
    values = {f"p:{number}": f"1 1 1 {time}" for number in range(count)}
    stage.client.hset(stage.keys.run("a"), mapping=values)


def _append(stage: Stage, run: str, writer: str) -> list[Outcome]:
    """Without the comparison with the model, which does not know what was written beside it."""
    batch = Batch(run, writer, 0, 1, [draft("usage", b"1")])
    word, found = stage.run(stage.scripts.append(stage.keys, "1 abcdef", [batch]))
    assert word == "ok"
    return expand(found[0])


def _names(stage: Stage) -> set[str]:
    return {name.decode() for name in stage.client.hkeys(stage.keys.run("a")) if name.startswith(b"p:")}


def test_thousands_of_producers(stage: Stage) -> None:
    """A run that thousands of producers wrote to within ten minutes takes the next one, and forgets none of them."""
    count = 500 if stage.server.kind == "fake" else 9000
    _producers(stage, count, stage.now - 1000)
    assert _append(stage, "a", "p:new")[0].word == "appended"
    assert len(_names(stage)) == count + 2


def test_silent_producers_are_forgotten(stage: Stage) -> None:
    """Above 64, those that were silent for ten minutes go when a new one comes; others stay."""
    _producers(stage, 63, stage.now - 600_001)
    stage.client.hset(stage.keys.run("a"), "p:young", f"1 1 1 {stage.now - 599_000}")
    assert _append(stage, "a", "p:new")[0].word == "appended"
    assert _names(stage) == {"p:x", "p:young", "p:new"}


def test_checkpoints_are_never_forgotten(stage: Stage) -> None:
    """A producer that is a checkpoint keeps its position however long it was silent, and is told it; its numbers skip."""
    _producers(stage, 63, stage.now - 600_001)
    stage.client.hset(stage.keys.run("a"), "c:file", f"5000 5000 7 {stage.now - 86_400_000}")
    assert _append(stage, "a", "p:new")[0].word == "appended"
    assert _names(stage) == {"p:x", "p:new"}

    def ask(prev: int, number: int, events: int = 1) -> list[Outcome]:
        batch = Batch("a", "c:file", prev, number, [draft("log", b"1")] * events)
        return expand(stage.run(stage.scripts.append(stage.keys, "1 abcdef", [batch]))[1][0])

    assert ask(0, 0, 0) == [Outcome("stored", detail="5000")]
    assert ask(4000, 6000) == [Outcome("hole", detail="5000")]
    assert ask(5000, 6000)[0].word == "appended"
    assert ask(5000, 6000)[0].word == "duplicate"
    assert ask(6000, 6001)[0].word == "appended"
    assert ask(0, 0, 0) == [Outcome("stored", detail="6001")]


def test_few_producers_are_kept(stage: Stage) -> None:
    """Up to 64 none is forgotten, however long it was silent."""
    _producers(stage, 40, stage.now - 86_400_000)
    assert _append(stage, "a", "p:new")[0].word == "appended"
    assert len(_names(stage)) == 42


@pytest.mark.parametrize("events", [1, 3])
def test_a_feed_without_hash_is_corrupt(stage: Stage, events: int) -> None:
    """Where the hash is gone and the feed is not, nothing is written: numbers would be given twice."""
    send(stage, "a", "p:x", 1, events)
    stage.client.delete(stage.keys.run("a"))
    stage.now += 1000
    assert [outcome.word for outcome in _append(stage, "a", "p:y")] == ["corrupt"]
    assert stage.client.xlen(stage.keys.feed("a")) == events
    assert not stage.client.exists(stage.keys.run("a"))


def test_a_hash_without_feed_is_corrupt(stage: Stage) -> None:
    """Where the feed of a run in progress is gone, producers, cancel and expire write nothing."""
    send(stage, "a", "p:x", 1, 2)
    before = stage.client.hgetall(stage.keys.run("a"))
    stage.break_run("a")
    assert send(stage, "a", "p:x", 3)[0].word == "corrupt"
    stage.cancel("a")
    stage.now += 61_000
    stage.expire(("a",))
    assert stage.client.hgetall(stage.keys.run("a")) == before
    assert not stage.client.exists(stage.keys.feed("a"))


def test_a_tombstone_raises_no_ghost(stage: Stage) -> None:
    """After a run's feed has expired, late resends are duplicates, anything new is refused, and no feed appears."""
    send(stage, "a", "p:x", 1, 2)
    stage.append([Batch("a", "p:x", 2, 3, [draft("run.finished", b"{}")])])
    stage.expire_feed("a")
    assert [outcome.word for outcome in send(stage, "a", "p:x", 1, 2)] == ["duplicate"] * 2
    closed = Outcome("closed", detail=f"succeeded {stage.model.runs['a'].tail}")
    assert send(stage, "a", "p:x", 4) == [closed]
    assert send(stage, "a", "p:y", 1) == [closed]
    assert not stage.client.exists(stage.keys.feed("a"))


def _begin(stage: Stage, run: str, owner: str, nonce: str) -> list[Outcome]:
    event = draft("run.started", b"{}", nonce=nonce, owner=owner)
    number = stage.model.runs[run].positions.get(f"p:{owner}") if run in stage.model.runs else None
    last = number.number if number else 0
    return stage.append([Batch(run, f"p:{owner}", last, last + 1, [event])])[0]


def test_a_killed_owner_is_told_within_35_seconds(stage: Stage) -> None:
    """With a pass each 5 s, a run whose owner stopped renewing has failed 35 s after the last renewal, and not at 30."""
    stage.expire()
    for _ in range(6):
        stage.now += 5_000
        stage.expire()
    _begin(stage, "a", "me", "n")
    for seconds in range(5, 36, 5):
        stage.now += 5_000
        stage.expire(stage.expire())
        assert stage.model.runs["a"].status == ("running" if seconds <= 30 else "failed"), seconds
    stage.renew([("a", "me")])
    late = stage.append([Batch("a", "x:1-n", 0, 1, [draft("log", b"{}")])])[0]
    assert late == [Outcome("closed", detail=f"failed {stage.model.runs['a'].tail}")]


def test_an_outage_ends_no_healthy_run(stage: Stage) -> None:
    """The server was away for a minute: the first passes only note it, and owners that renew go on."""
    _begin(stage, "a", "me", "n")
    _begin(stage, "b", "dead", "n")
    stage.renew([("a", "me")])
    stage.now += 60_000
    for _ in range(6):
        stage.expire(("a", "b"))
        stage.renew([("a", "me")])
        assert stage.model.runs["b"].status == "running"
        stage.now += 5_000
    stage.expire(("a", "b"))
    assert (stage.model.runs["a"].status, stage.model.runs["b"].status) == ("running", "failed")


def test_a_clock_that_jumps_back_keeps_nobody_for_an_hour(stage: Stage) -> None:
    """After the server's clock went back by an hour a dead owner is lost a term later, and the feed's times do not fall."""
    _begin(stage, "a", "dead", "n")
    send(stage, "b", "p:x", 1)
    stage.now -= 3_600_000
    send(stage, "b", "p:x", 2)
    for _ in range(8):
        stage.expire(("a",))
        stage.now += 5_000
    assert stage.model.runs["a"].status == "failed"


@pytest.mark.parametrize("kind", ["valkey", "redis7"])
def test_out_of_memory_heals(kind: str, namespace: str) -> None:
    """Without memory an append is refused before its first write, while cancel, renew, expire and trim still work."""
    if kind == "redis7" and binary_of("redis7") is None:
        pytest.skip("no redis-server of version 7 or newer is installed")
    with running("valkey" if kind == "valkey" else "redis7") as server:
        stage = Stage(server, namespace, ("a", "b"))
        try:
            stage.bind("g")
            send(stage, "a", "p:x", 1)
            _begin(stage, "b", "me", "n")
            stage.read_group("g", 5)
            stage.ack_group("g", 5)
            stage.client.config_set("maxmemory", 1)
            with pytest.raises(redis.exceptions.ResponseError, match="command not allowed"):
                _append(stage, "a", "p:y")
            assert stage.client.xlen(stage.keys.feed("a")) == 1
            stage.renew([("b", "me")])
            stage.trim()
            stage.cancel("b")
            stage.client.config_set("maxmemory", 0)
            stage.now += 61_000
            stage.tell_the_time()
            stage.client.config_set("maxmemory", 1)
            stage.expire(("a", "b"))
            assert stage.model.runs["b"].status == "cancelled"
            stage.client.config_set("maxmemory", 0)
            assert send(stage, "a", "p:x", 2)[0].word == "closed"  # it was silent
        finally:
            stage.close()


def test_delayed_starts_are_bounded(stage: Stage) -> None:
    """Runs that are queued for later fill memory too: at the limit a start is refused, naming its task."""
    for number in range(stage.limits.work):
        event = draft("run.queued", b"{}", task="build", start="s", delay_ms=60_000)
        stage.append([Batch(f"a~{number}", "p:x", 0, 1, [event])])
    late = draft("run.queued", b"{}", task="check", start="s", delay_ms=60_000)
    assert stage.append([Batch("b", "p:x", 0, 1, [late])]) == [[Outcome("full", detail="check")]]
    now = draft("run.queued", b"{}", task="check", start="s")
    assert stage.append([Batch("b", "p:x", 0, 2, [now])])[0][0].word == "appended"


def test_payloads_pass_unread(stage: Stage) -> None:
    """Bytes that a JSON parser would change or refuse come back as they were."""
    strange = [b'{"a":1e400}', b'"\\ud800"', b"[]", b"{}", b'{"a":1,"a":2}', b"9007199254740993", b'"\\u0000"']
    strange.append('"\u2028 \u0085 é"'.encode())
    stage.append([Batch("a", "p:x", 0, 1, [draft("note", data) for data in strange])])
    entries = stage.client.xrange(stage.keys.feed("a"))
    assert [fields[b"e"] for _, fields in entries] == [b'"type":"note","data":%b}' % data for data in strange]
