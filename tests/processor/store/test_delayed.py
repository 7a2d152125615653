"""What waits until it is due: retries, late starts, deferred entries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import redis
import structlog

from processor.observe import metrics
from processor.store.delayed import promote, promote_all
from processor.store.scripts import partition_keys
from tests.processor.store.scene import Scene
from tests.support.servers import TestServer


@pytest.fixture
def scene(every_server: TestServer, namespace: str) -> Iterator[Scene]:
    scene = Scene(every_server, namespace)
    yield scene
    scene.close()


def promoted(scene: Scene, limit: int = 200) -> int:
    return scene.run(promote(scene, scene.part, limit))


def work(scene: Scene, task: str = "build") -> list[str]:
    """Runs whose entries wait for a worker."""
    return [fields[b"r"].decode() for _, fields in scene.client.xrange(scene.part.work(task))]


def waiting(scene: Scene) -> set[str]:
    """Runs in `delayed`, which have a body each."""
    runs = {run.decode() for run in scene.client.zrange(scene.part.delayed, 0, -1)}
    assert {run.decode() for run in scene.client.hkeys(scene.part.delayed_body)} == runs
    return runs


def put_off(scene: Scene, run: str, delay_ms: int, task: str = "build") -> None:
    """A worker read the run's entry and settles it as a retry."""
    [entry] = scene.read("w", task=task)
    fields = scene.client.xrange(scene.part.work(task), entry, entry)[0][1]
    scene.settle(entry, task)
    scene.client.hset(scene.part.run(run), mapping={"status": "queued", "exec": "", "due": scene.now + delay_ms})
    scene.client.hset(scene.part.delayed_body, run, b"\n".join((fields[b"r"], fields[b"i"], fields[b"e"])))
    scene.client.zadd(scene.part.delayed, {run: scene.now + delay_ms})


def test_a_late_start_is_queued_when_it_is_due(scene: Scene) -> None:
    """Not before; then as an entry like any other, and nothing of it waits any more."""
    scene.queue("a", delay_ms=40_000)
    scene.now += 39_999
    assert promoted(scene) == 0
    assert (work(scene), waiting(scene)) == ([], {"a"})
    scene.now += 1
    assert promoted(scene) == 1
    [(_, fields)] = scene.client.xrange(scene.part.work("build"))
    [(id, event)] = scene.client.xrange(scene.part.feed("a"))
    assert list(fields.items()) == [(b"r", b"a"), (b"i", id), (b"e", event[b"e"])]
    assert waiting(scene) == set()
    assert scene.client.hmget(scene.part.run("a"), "due", "status") == [None, b"queued"]
    assert promoted(scene) == 0
    assert work(scene) == ["a"]


def test_a_retry_is_queued_with_its_first_body(scene: Scene) -> None:
    """The payload of its run.queued, newlines and all."""
    scene.queue("a")
    before = scene.client.xrange(scene.part.work("build"))[0][1]
    put_off(scene, "a", 1_000)
    scene.now += 1_000
    assert promoted(scene) == 1
    [(_, after)] = scene.client.xrange(scene.part.work("build"))
    assert after == before


def test_a_payload_may_hold_newlines(scene: Scene) -> None:
    """Only the first two end something."""
    scene.queue("a", delay_ms=1_000)
    scene.client.hset(scene.part.delayed_body, "a", b"a\n1-1\none\n\ntwo\n")
    scene.now += 1_000
    assert promoted(scene) == 1
    assert scene.client.xrange(scene.part.work("build"))[0][1][b"e"] == b"one\n\ntwo\n"


def test_the_longest_overdue_come_first(scene: Scene) -> None:
    """At most as many as asked for; each goes to its own task."""
    for number, run in enumerate("edcba"):
        scene.queue(run, delay_ms=1_000 + number, task="check" if run == "c" else "build")
    scene.now += 5_000
    assert promoted(scene, limit=2) == 2
    assert (work(scene), waiting(scene)) == (["e", "d"], {"a", "b", "c"})
    assert promoted(scene) == 3
    assert (work(scene), work(scene, "check")) == (["e", "d", "b", "a"], ["c"])


def test_all_partitions_are_emptied(every_server: TestServer, namespace: str) -> None:
    """In as many calls as it takes."""
    scene = Scene(every_server, namespace, layout="3 abcdef")
    try:
        names = [f"r{i}" for i in range(30)]
        for run in names:
            scene.queue(run, delay_ms=1_000)
        scene.queue("late", delay_ms=2_000_000_000_000)  # the peek asks by the server's clock, which is ahead of ours
        assert scene.run(promote_all(scene)) == 0
        scene.now += 1_000
        assert scene.run(promote_all(scene, limit=4)) == 30
        found = []
        for part in scene.keys.partitions:
            scene.part = part
            found += work(scene)
        assert sorted(found) == sorted(names)
    finally:
        scene.close()


def test_what_two_workers_promote_is_queued_once(scene: Scene) -> None:
    """Both saw it due; the second one's call finds it gone."""
    for run in "abc":
        scene.queue(run, delay_ms=1_000)
    scene.now += 1_000

    async def both() -> list[int]:
        return await asyncio.gather(*(promote(scene, scene.part) for _ in range(4)))

    assert sum(scene.run(both())) == 3
    assert sorted(work(scene)) == ["a", "b", "c"]


def test_what_was_put_off_again_is_not_due(scene: Scene) -> None:
    """The script compares the due time itself: a call that comes late moves nothing early."""
    scene.queue("a", delay_ms=1_000)
    scene.now += 1_000
    keys = [*partition_keys(scene.part), scene.part.run("a"), scene.part.work("build")]
    args: list[str | bytes | int] = [1, "a", "build"]
    assert scene.run(scene.scripts.call("promote", keys, args)) == [1, 0]
    put_off(scene, "a", 60_000)
    assert scene.run(scene.scripts.call("promote", keys, args)) == [0, 0]
    assert (work(scene), waiting(scene)) == ([], {"a"})


def test_an_entry_of_another_task_is_left_alone(scene: Scene) -> None:
    """Keys come from the caller; where they are another task's, the script does nothing and the caller looks again."""
    scene.queue("a", delay_ms=1_000)
    scene.now += 1_000
    keys = [*partition_keys(scene.part), scene.part.run("a"), scene.part.work("check")]
    assert scene.run(scene.scripts.call("promote", keys, [1, "a", "check"])) == [0, 0]
    assert waiting(scene) == {"a"}
    assert promoted(scene) == 1


def test_a_run_that_has_ended_is_dropped(scene: Scene) -> None:
    """Cancelled ones are gone from `delayed` already; others ended by an event from outside, or were deleted."""
    for run in "abc":
        scene.queue(run, delay_ms=1_000)
    scene.cancel("a")
    assert waiting(scene) == {"b", "c"}
    scene.client.hset(scene.part.run("b"), "status", "failed")
    scene.client.expire(scene.part.run("b"), 100)
    scene.client.expire(scene.part.feed("b"), 100)
    scene.client.delete(scene.part.run("c"))
    scene.now += 1_000
    with structlog.testing.capture_logs() as logs:
        assert promoted(scene) == 0
    assert (work(scene), waiting(scene)) == ([], set())
    assert {"event": "delayed_dropped", "log_level": "info", "partition": scene.part.prefix, "count": 2} in logs


def test_a_lost_body_is_told(scene: Scene) -> None:
    """The run cannot be executed; it does not come up as due for ever, and the others go on."""
    for run in "ab":
        scene.queue(run, delay_ms=1_000)
    scene.client.hdel(scene.part.delayed_body, "a")
    scene.now += 1_000
    before = metrics.lost_entries_total._value.get()
    with structlog.testing.capture_logs() as logs:
        assert promoted(scene) == 1
    assert (work(scene), waiting(scene)) == (["b"], set())
    assert metrics.lost_entries_total._value.get() == before + 1
    assert {"event": "delayed_body_lost", "log_level": "warning", "run": "a"} in logs


def test_a_parked_run_is_not_due(scene: Scene) -> None:
    """It has a body and no due time: only its answer queues it."""
    scene.client.hset(scene.part.delayed_body, "a", b"a\n1-1\n{}")
    scene.now += 10_000_000
    assert promoted(scene) == 0
    assert scene.client.hkeys(scene.part.delayed_body) == [b"a"]


def test_out_of_memory_moves_nothing(scene: Scene) -> None:
    """The call is refused before its first write, and does its work once there is memory."""
    if scene.server.kind == "fake":
        pytest.skip("fakeredis has no memory limit")
    scene.queue("a", delay_ms=1_000)
    assert promoted(scene) == 0
    scene.client.zadd(scene.part.delayed, {"a": scene.now})
    try:
        scene.client.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            promoted(scene)
    finally:
        scene.client.config_set("maxmemory", 0)
    assert (work(scene), waiting(scene)) == ([], {"a"})
    assert promoted(scene) == 1
