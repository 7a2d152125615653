"""Work entries of consumers that are gone, and one's own that a process never heard of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from processor.observe import metrics
from processor.store import claims as claims_module
from processor.store.claims import forget_consumers, own
from processor.store.executing import GROUP, Taken
from tests.processor.store.scene import VISIBILITY_MS, Scene
from tests.support.servers import TestServer
from tests.support.until import wait_until


@pytest.fixture
def scene(every_server: TestServer, namespace: str) -> Iterator[Scene]:
    scene = Scene(every_server, namespace)
    yield scene
    scene.close()


def runs(taken: list[Taken]) -> list[str]:
    return [one.run for one in taken]


def before_the_script(scene: Scene, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Something happens behind the peeks of a call that names entries, before its script runs."""
    call = scene.scripts.call

    async def late(name: str, keys: Any, args: Any) -> Any:
        if len(args) > 4:
            happens()
        return await call(name, keys, args)

    monkeypatch.setattr(scene.scripts, "call", late)


# -- claims


def test_an_idle_entry_is_taken_over(scene: Scene) -> None:
    """With its body, the run's exec and tries at that moment; it is pending for the claimer, and its count stays."""
    [entry] = scene.given("gone", "a")
    scene.begin("a", "1-n", 1)
    scene.let_idle(entry)
    [taken] = scene.settled_look(scene.claims())
    fields = {name: value.decode() for name, value in scene.client.xrange(scene.part.work("build"))[0][1].items()}
    assert taken == Taken("build", entry, "a", fields[b"i"], fields[b"e"].encode(), "1-n", 1)
    owner, idle, deliveries = scene.pending()[entry]
    assert (owner, deliveries) == ("me", 1)
    assert idle < VISIBILITY_MS


def test_an_entry_that_was_never_started_has_seen_nothing(scene: Scene) -> None:
    """Its consumer read it and was gone before start."""
    [entry] = scene.given("gone", "a")
    scene.let_idle(entry)
    [taken] = scene.settled_look(scene.claims())
    assert (taken.seen, taken.tries) == ("", 0)


def test_what_is_renewed_stays(scene: Scene) -> None:
    """Only what was idle for a whole visibility timeout is taken over, and nothing of one's own."""
    entries = scene.given("alive", "a", "b")
    mine = scene.given("me", "c")
    scene.let_idle(entries[0])
    scene.let_idle(entries[1], VISIBILITY_MS - 5_000)
    scene.let_idle(mine[0])
    assert runs(scene.settled_look(scene.claims())) == ["a"]
    assert scene.owners() == {entries[0]: "me", entries[1]: "alive", mine[0]: "me"}


def test_the_script_asks_for_the_idle_time_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that was renewed since the peek stays with its consumer."""
    [entry] = scene.given("alive", "a")
    scene.let_idle(entry)
    before_the_script(scene, monkeypatch, lambda: scene.let_idle(entry, 0))
    assert scene.settled_look(scene.claims()) == []
    assert scene.owners() == {entry: "alive"}


def test_what_was_settled_since_the_peek_is_not_taken(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither given to anybody nor counted as lost."""
    [entry] = scene.given("alive", "a")
    scene.let_idle(entry)
    before = metrics.lost_entries_total._value.get()
    before_the_script(scene, monkeypatch, lambda: scene.settle(entry))
    assert scene.settled_look(scene.claims()) == []
    assert scene.owners() == {}
    assert metrics.lost_entries_total._value.get() == before


def test_two_claimers_share_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second finds it renewed."""
    [entry] = scene.given("gone", "a")
    scene.let_idle(entry)
    work = scene.part.work("build")
    before_the_script(
        scene, monkeypatch, lambda: scene.client.xclaim(work, GROUP, "other", VISIBILITY_MS, [entry], justid=True)
    )
    assert scene.settled_look(scene.claims()) == []
    assert scene.owners() == {entry: "other"}


def test_each_entry_goes_to_one_of_many(scene: Scene) -> None:
    """Eight workers look at the same time, each with room for all."""
    entries = scene.given("gone", *(f"r{i}" for i in range(40)))
    for entry in entries:
        scene.let_idle(entry)
    scene.client.hset(scene.part.meta, mapping={"claimed": scene.now, "claims_quiet": scene.now - VISIBILITY_MS})
    taken: list[Taken] = []
    workers = [scene.claims(f"w{i}") for i in range(8)]

    async def look_all() -> None:
        await asyncio.gather(*(worker.look(["build"], lambda task: 100, taken.extend) for worker in workers))

    scene.run(look_all())
    assert sorted(runs(taken)) == sorted(f"r{i}" for i in range(40))
    assert set(scene.owners().values()) <= {f"w{i}" for i in range(8)}


def test_a_claim_whose_answer_was_lost_is_told_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sends it once more; what the first call took is among the second one's answer."""
    [entry] = scene.given("gone", "a")
    scene.let_idle(entry)
    call = scene.scripts.call

    async def twice(name: str, keys: Any, args: Any) -> Any:
        await call(name, keys, args)
        return await call(name, keys, args)

    monkeypatch.setattr(scene.scripts, "call", twice)
    assert runs(scene.settled_look(scene.claims())) == ["a"]


def test_ended_and_forgotten_runs_are_taken_too(scene: Scene) -> None:
    """start answers `closed` and acknowledges them: nobody else would."""
    entries = scene.given("gone", "a", "b")
    for entry in entries:
        scene.let_idle(entry)
    scene.client.hset(scene.part.run("a"), "status", "failed")
    scene.client.delete(scene.part.run("b"))
    scene.client.expire(scene.part.run("a"), 100)
    scene.client.expire(scene.part.feed("a"), 100)
    assert runs(scene.settled_look(scene.claims())) == ["a", "b"]


def test_an_entry_without_body_is_acknowledged_and_counted(scene: Scene) -> None:
    """Somebody deleted it; nobody can execute it, and it must not stay pending for ever."""
    lost, kept = scene.given("gone", "a", "b")
    young, _ = scene.given("alive", "c", "d")
    for entry in (lost, kept):
        scene.let_idle(entry)
    scene.client.xdel(scene.part.work("build"), lost, young)
    before = metrics.lost_entries_total._value.get()
    with structlog.testing.capture_logs() as logs:
        assert runs(scene.settled_look(scene.claims())) == ["b"]
    assert lost not in scene.owners()
    assert scene.owners()[young] == "alive"  # its consumer has the body in memory and may well execute it
    assert metrics.lost_entries_total._value.get() == before + 1
    assert {"event": "entry_body_lost", "log_level": "warning", "task": "build", "entry": lost} in logs


def test_a_body_deleted_since_the_peek_is_counted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script itself finds that the body is gone."""
    [entry] = scene.given("gone", "a")
    scene.let_idle(entry)
    before = metrics.lost_entries_total._value.get()
    before_the_script(scene, monkeypatch, lambda: scene.client.xdel(scene.part.work("build"), entry))
    assert scene.settled_look(scene.claims()) == []
    assert scene.owners() == {}
    assert metrics.lost_entries_total._value.get() == before + 1


def test_a_foreign_entry_holds_up_nobody(scene: Scene) -> None:
    """Somebody added it by hand: it is no run's, is left where it is, and told."""
    work = scene.group()
    foreign = scene.client.xadd(work, {"hello": "world"}).decode()
    scene.queue("a")
    entries = scene.read("gone")
    for entry in entries:
        scene.let_idle(entry)
    with structlog.testing.capture_logs() as logs:
        assert runs(scene.settled_look(scene.claims())) == ["a"]
    assert scene.owners()[foreign] == "gone"
    assert {"event": "entry_unreadable", "log_level": "warning", "task": "build", "entry": foreign} in logs


# -- silences


def test_after_a_silence_nobody_claims_for_one_visibility_timeout(scene: Scene) -> None:
    """Neither the one who found the silence nor whoever looks a moment later, however often they look."""
    [entry] = scene.given("alive", "a")
    scene.let_idle(entry)
    one, other = scene.claims("one"), scene.claims("other")
    began = scene.now
    while scene.now - began < VISIBILITY_MS:
        assert scene.look(one) == []
        scene.now += 1
        assert scene.look(other) == []
        scene.now += 4_999
    assert runs(scene.look(other)) == ["a"]


@pytest.mark.parametrize(
    ("gap_ms", "claims"), [(VISIBILITY_MS // 2, True), (VISIBILITY_MS // 2 + 1, False), (-1, False)]
)
def test_what_counts_as_a_silence(scene: Scene, gap_ms: int, claims: bool) -> None:
    """No look for more than half a visibility timeout, or one at a time to come."""
    [entry] = scene.given("gone", "a")
    scene.let_idle(entry)
    scene.client.hset(
        scene.part.meta, mapping={"claimed": scene.now - gap_ms, "claims_quiet": scene.now - 2 * VISIBILITY_MS}
    )
    assert bool(scene.look(scene.claims())) == claims


@pytest.mark.parametrize("jump_ms", [3_600_000, -3_600_000])
def test_a_jump_of_the_clock_takes_nothing_from_who_lives(scene: Scene, jump_ms: int) -> None:
    """For one visibility timeout nobody claims; in it those who live renew, and only the others' entries go."""
    dead, alive = [scene.given(name, run)[0] for name, run in (("gone", "a"), ("alive", "b"))]
    claims = scene.claims()
    for _ in range(8):
        scene.look(claims)
        scene.now += 5_000
    scene.now += jump_ms
    for entry in (dead, alive):  # as a jump ahead makes all look
        scene.let_idle(entry)
    for _ in range(6):
        assert scene.look(claims) == []
        scene.let_idle(alive, 0)
        scene.now += 5_000
    assert runs(scene.look(claims)) == ["a"]
    assert scene.owners() == {dead: "me", alive: "alive"}


def test_a_worker_without_room_notes_its_looks(scene: Scene) -> None:
    """A fleet that is full is not silent: the first one with room claims at once."""
    [entry] = scene.given("gone", "a")
    scene.let_idle(entry)
    claims = scene.claims()
    for _ in range(7):
        assert scene.look(claims, room=0) == []
        scene.now += 5_000
    assert runs(scene.look(claims)) == ["a"]


# -- long lists


def test_a_look_takes_what_there_is_room_for(scene: Scene) -> None:
    """The rest waits for the next look, and nothing is passed over."""
    for entry in scene.given("gone", *(f"r{i}" for i in range(25))):
        scene.let_idle(entry)
    claims = scene.claims()
    seen = [runs(scene.settled_look(claims, room=10)) for _ in range(4)]
    assert seen == [[f"r{i}" for i in range(from_, to)] for from_, to in ((0, 10), (10, 20), (20, 25), (0, 0))]


@pytest.mark.parametrize("walk_entries", [10_000, 0])
def test_a_long_list_is_swept_over_several_looks(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, walk_entries: int
) -> None:
    """Whatever stands at its beginning: here entries of one's own that look idle, and then of somebody who lives."""
    monkeypatch.setattr(claims_module, "COUNT", 5)
    monkeypatch.setattr(claims_module, "PAGE", 5)
    monkeypatch.setattr(claims_module, "WALK_ENTRIES", walk_entries)
    mine = scene.given("me", *(f"m{i}" for i in range(12)))
    scene.given("alive", *(f"a{i}" for i in range(7)))
    gone = scene.given("gone", *(f"g{i}" for i in range(8)))
    for entry in (*mine, *gone):
        scene.let_idle(entry)
    claims, found = scene.claims(), []
    for _ in range(8):
        found += runs(scene.settled_look(claims))
    assert sorted(found) == [f"g{i}" for i in range(8)]


def test_all_tasks_and_partitions_are_looked_at(every_server: TestServer, namespace: str) -> None:
    """Streams and groups that are not there yet hold nothing."""
    scene = Scene(every_server, namespace, layout="3 abcdef")
    try:
        for run in ("a", "b", "c", "d", "e", "f"):
            scene.part = scene.keys.of(run)
            scene.queue(run, task="build" if run in "abc" else "check")
            for entry in scene.read("gone", task="build" if run in "abc" else "check"):
                scene.let_idle(entry, task="build" if run in "abc" else "check")
        for part in scene.keys.partitions:
            scene.client.hset(part.meta, mapping={"claimed": scene.now, "claims_quiet": scene.now - VISIBILITY_MS})
        found = scene.look(scene.claims(), ("build", "check", "never"))
        assert sorted(runs(found)) == ["a", "b", "c", "d", "e", "f"]
        assert {one.run: one.task for one in found}["f"] == "check"
    finally:
        scene.close()


# -- own


def take_own(scene: Scene, *known: str, count: int = 100) -> list[Taken]:
    return scene.run(own(scene, scene.part, "build", "me", known=lambda entry: entry in known, count=count))


def test_own_entries_that_nobody_executes_are_found(scene: Scene) -> None:
    """Those of this consumer which the process does not know, with exec and tries; counts stay, and they are renewed."""
    known, unknown = scene.given("me", "a", "b")
    scene.given("other", "c")
    scene.begin("b", "2-n", 1)
    scene.let_idle(unknown)
    [taken] = take_own(scene, known)
    assert (taken.run, taken.entry, taken.seen, taken.tries) == ("b", unknown, "2-n", 1)
    owner, idle, deliveries = scene.pending()[unknown]
    assert (owner, deliveries) == ("me", 1)
    assert idle < VISIBILITY_MS


def test_an_own_entry_that_was_taken_over_is_not_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script asks whose it is: between the look at the list and now somebody claimed it."""
    [entry] = scene.given("me", "a")
    work = scene.part.work("build")
    before_the_script(scene, monkeypatch, lambda: scene.client.xclaim(work, GROUP, "other", 0, [entry], justid=True))
    assert take_own(scene) == []
    assert scene.owners() == {entry: "other"}


def test_an_own_entry_that_began_meanwhile_is_not_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process never begins what it already executes."""
    [entry] = scene.given("me", "a")
    known: list[str] = []
    before_the_script(scene, monkeypatch, lambda: known.append(entry))
    assert scene.run(own(scene, scene.part, "build", "me", known=known.__contains__, count=10)) == []


def test_own_entries_behind_many_known_ones_are_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are asked for, the oldest first."""
    monkeypatch.setattr(claims_module, "PAGE", 4)
    entries = scene.given("me", *(f"r{i}" for i in range(15)))
    assert runs(take_own(scene, *entries[:9], count=3)) == ["r9", "r10", "r11"]
    assert runs(take_own(scene, *entries[:12])) == ["r12", "r13", "r14"]
    assert take_own(scene, *entries) == []


def test_own_entries_of_no_stream(scene: Scene) -> None:
    """Without stream or group there are none."""
    assert take_own(scene) == []
    scene.queue("a")
    assert take_own(scene) == []


def test_an_own_entry_without_body_is_acknowledged(scene: Scene) -> None:
    """As one of somebody else is."""
    lost, kept = scene.given("me", "a", "b")
    scene.client.xdel(scene.part.work("build"), lost)
    assert runs(take_own(scene)) == ["b"]
    assert scene.owners() == {kept: "me"}


def test_own_is_no_look(scene: Scene) -> None:
    """It takes nothing from anybody, so it must not hide a silence from those who claim."""
    scene.given("me", "a")
    take_own(scene)
    assert scene.client.hkeys(scene.part.meta) == [b"layout"]


# -- consumers


def consumers(scene: Scene) -> set[str]:
    return {info["name"].decode() for info in scene.client.xinfo_consumers(scene.part.work("build"), GROUP)}


def forget(scene: Scene, silent_ms: int) -> list[str]:
    scene.client.hset(scene.part.meta, mapping={"claimed": scene.now, "claims_quiet": scene.now - VISIBILITY_MS})
    call = forget_consumers(scene, scene.part, "build", "me", idle_ms=VISIBILITY_MS, silent_ms=silent_ms)
    return sorted(scene.run(call))


def idle_of(scene: Scene) -> int:
    """Of the consumer that was silent for the shortest time."""
    infos = scene.client.xinfo_consumers(scene.part.work("build"), GROUP)
    return min(int(info["idle"]) for info in infos)


def test_silent_consumers_are_deleted(scene: Scene) -> None:
    """Those that have nothing pending, and not the one who looks; what is pending stays so."""
    [kept] = scene.given("holds", "a")
    scene.settle(scene.given("done", "b")[0])
    scene.join("idle")
    scene.join("me")
    assert forget(scene, 3_600_000) == []
    assert consumers(scene) == {"holds", "done", "idle", "me"}
    wait_until(lambda: idle_of(scene) >= 20, "all were silent for 20 ms")
    assert forget(scene, 20) == ["done", "idle"]
    assert consumers(scene) == {"holds", "me"}
    assert scene.owners() == {kept: "holds"}


def test_nothing_is_deleted_while_nobody_claims(scene: Scene) -> None:
    """After a jump of the clock everybody looks silent."""
    scene.join("idle")
    wait_until(lambda: idle_of(scene) >= 20, "it was silent for 20 ms")
    call = forget_consumers(scene, scene.part, "build", "me", idle_ms=VISIBILITY_MS, silent_ms=20)
    assert scene.run(call) == []


def test_no_stream_has_no_consumers(scene: Scene) -> None:
    """A task that nobody ever started, and one that no worker ever read."""
    assert forget(scene, 1) == []
    scene.queue("a")
    assert forget(scene, 1) == []


def test_a_consumer_that_was_deleted_while_it_waits_is_given_entries(scene: Scene) -> None:
    """One that lives after all: a blocked read makes it anew."""
    if scene.server.kind == "fake":
        pytest.skip("fakeredis has no INFO that tells when the read waits")
    scene.join("waits")
    wait_until(lambda: idle_of(scene) >= 20, "it was silent for 20 ms")
    other = scene.server.client()
    try:
        connection: Any = other.connection_pool.get_connection()
        work = scene.part.work("build")
        connection.send_command("XREADGROUP", "GROUP", GROUP, "waits", "BLOCK", 5_000, "STREAMS", work, ">")
        wait_until(lambda: scene.client.info("clients")["blocked_clients"] > 0, "its read waits")
        if scene.server.kind == "redis7":  # newer servers count the attempt
            assert forget(scene, 20) == ["waits"]
        scene.client.xgroup_delconsumer(work, GROUP, "waits")
        scene.queue("a")
        assert connection.read_response()
        other.connection_pool.release(connection)
    finally:
        other.close()
    assert list(scene.owners().values()) == ["waits"]
