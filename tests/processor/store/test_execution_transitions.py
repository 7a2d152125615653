"""What random sequences of executions reach too rarely, step by step; each call is compared with the model as there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from processor.core.events import draft
from processor.store.executing import Settled, Taken, Verb
from processor.store.scripts import Batch, Held
from tests.processor.store.scene_execution import Scene, effect, unit
from tests.support.servers import TestServer


@pytest.fixture
def scene(every_server: TestServer, namespace: str) -> Iterator[Scene]:
    scene = Scene(every_server, namespace)
    yield scene
    scene.close()


def status(scene: Scene, run: str) -> str | None:
    return scene.here.model.runs[run].status


# -- parked runs, and others that wait without an execution


@pytest.mark.parametrize("end", ["run.finished", "run.failed", "run.cancelled"])
def test_a_parked_run_that_somebody_ends_leaves_nothing(scene: Scene, end: str) -> None:
    """Its body waits for an answer that nobody can give any more."""
    scene.park(*scene.begin("a"))
    scene.tell("a", draft(end, b"{}"))
    assert not scene.here.client.exists(scene.here.keys.delayed_body)


@pytest.mark.parametrize("verb", ["release", "retry"])
def test_a_run_that_waits_otherwise_is_not_parked(scene: Scene, verb: Verb) -> None:
    """Somebody outside says that a queued run started and waits: its answer moves no entry, and the next attempt comes."""
    taken, exec = scene.begin("a")
    scene.settle(unit(taken, exec, verb))
    scene.tell("a", draft("run.started", b"{}"), draft("run.waiting", b"{}", ask="q"))
    [outcome] = scene.tell("a", draft("run.resumed", b"{}", ask="q", task="build"))
    assert (outcome.word, status(scene, "a")) == ("appended", "running")
    if verb == "retry":
        scene.here.now += 41_000
        scene.here.promote([("a", "build")])
    [taken] = scene.take()
    assert scene.start(taken, "m") == "2-m"


def test_two_answers_in_one_body(scene: Scene) -> None:
    """What begins with the answer to a parked run may go on with whatever is legal from outside."""
    scene.park(*scene.begin("a"))
    answer = draft("run.resumed", b"{}", ask="q", task="build")
    again = draft("run.waiting", b"{}", ask="q")
    outcomes = scene.tell("a", answer, draft("run.started", b"{}"), again, answer)
    assert [outcome.word for outcome in outcomes] == ["appended"] * 4
    assert len(scene.take()) == 1


def test_an_answer_wakes_into_the_tasks_own_stream(scene: Scene) -> None:
    """One that names another task or none is refused, and the run goes on waiting."""
    scene.park(*scene.begin("a"))
    for task in ("", "check"):
        [outcome] = scene.tell("a", draft("run.resumed", b"{}", ask="q", task=task))
        assert outcome.word == "illegal"
        scene._numbers["a"] -= 1
    [outcome] = scene.tell("a", draft("run.resumed", b"{}", ask="q", value=b'["yes"]', task="build"))
    [taken] = scene.take()
    assert (outcome.word, taken.run, scene.start(taken, "m")) == ("appended", "a", "2-m")
    assert scene.here.model.runs["a"].fields["a:q"] == '["yes"]'


# -- an execution that is over


def test_a_late_finish_of_a_failed_execution_has_no_effect(scene: Scene) -> None:
    """Its output was refused, so it settled as failed; a copy of the first call that is executed later applies nothing."""
    taken, exec = scene.begin("a")
    late = unit(taken, exec, "finish", outputs=[effect("c")])
    assert scene.settle(unit(taken, exec, "fail")).word == "settled"
    for _ in range(2):
        assert scene.settle(late).word == "stale"
        assert scene.settle(unit(taken, exec, "fail")).word == "done"
    assert "c" not in scene.here.model.runs


def test_a_late_finish_of_a_run_that_somebody_ended_counts_once(scene: Scene) -> None:
    """Its output for other runs is kept, whatever else the execution settles and however often."""
    taken, exec = scene.begin("a")
    scene.tell("a", draft("run.cancelled", b"{}"))
    finish = unit(taken, exec, "finish", outputs=[effect("c"), effect("b")])
    assert scene.settle(finish) == Settled("closed", "cancelled")
    assert scene.settle(finish).word == "done"
    assert scene.settle(unit(taken, exec, "stop")).word == "stale"
    assert scene.settle(finish).word == "done"
    assert len(scene.here.model.runs["c"].events) == len(scene.here.model.outbox) == 1


@pytest.mark.parametrize("verb", ["back", "defer"])
def test_who_held_a_returned_entry_can_settle_nothing(scene: Scene, verb: Verb) -> None:
    """Another worker took it over and gave it back unstarted; a cancel that was asked ends the run."""
    taken, exec = scene.begin("a")
    scene.settle(unit(taken, exec, "release"))
    [taken] = scene.take()
    exec = scene.start(taken, "m")
    scene.here.cancel("a")
    again = scene.here.claim("v", "build", taken.entry)
    assert again is not None
    assert scene.settle(unit(again, exec, verb)) == Settled("settled", "cancelled")
    assert scene.settle(unit(taken, exec, "finish", outputs=[effect("c")])).word == "stale"
    assert scene.settle(unit(taken, "1-n", "release")).word == "done"


@pytest.mark.parametrize("verb", ["back", "defer"])
def test_a_returned_entry_of_a_corrupt_run_is_set_aside(scene: Scene, verb: Verb) -> None:
    """A cancel cannot end it; the entry is not lost, but becomes a dead letter when it is started."""
    taken, exec = scene.begin("a")
    scene.here.cancel("a")
    scene.here.break_run("a")
    again = scene.here.claim("v", "build", taken.entry)
    assert again is not None
    assert scene.settle(unit(again, exec, verb)).word == "corrupt"
    assert scene.start(again, "m", consumer="v") == "corrupt"
    assert len(scene.here.model.dead["build"]) == 1


@pytest.mark.parametrize("verb", ["back", "defer"])
def test_an_entry_of_an_ended_run_does_not_go_back(scene: Scene, verb: Verb) -> None:
    """It is acknowledged: nobody needs it any more."""
    scene.queue("a")
    [taken] = scene.take()
    scene.tell("a", draft("run.finished", b"{}"))
    assert scene.settle(unit(taken, "", verb)) == Settled("closed", "succeeded")
    assert (scene.here.model.work["build"], scene.here.model.delayed) == ([], {})


@pytest.mark.parametrize("verb", ["back", "defer"])
def test_an_entry_of_a_run_that_is_gone_does_not_go_back(scene: Scene, verb: Verb) -> None:
    """Nobody could execute it, and no hash appears."""
    scene.queue("a")
    [taken] = scene.take()
    scene.tell("a", draft("run.finished", b"{}"))
    scene.forget("a")
    assert scene.settle(unit(taken, "", verb)) == Settled("closed", "unknown")
    assert scene.settle(unit(taken, "1-n", "finish", outputs=[effect("c")])).word == "stale"
    assert (scene.here.model.work["build"], scene.here.model.delayed) == ([], {})


# -- starts


def test_an_entry_of_a_run_that_is_gone_is_acknowledged(scene: Scene) -> None:
    """Its tombstone has expired; there is nothing to execute."""
    scene.queue("a")
    [taken] = scene.take()
    scene.tell("a", draft("run.finished", b"{}"))
    scene.forget("a")
    assert scene.start(taken) == "closed"
    assert scene.here.model.work["build"] == []


@pytest.mark.parametrize("held", [0, 1, 100])
def test_entries_are_found_among_all_that_the_consumer_has(scene: Scene, held: int) -> None:
    """Whether one look shows enough or not; those of others and those in between stay as they are."""
    scene.queue("a", "c", "e", "T~1", "T~2")
    taken = [*scene.take(3), *scene.take(1, "v"), *scene.take()]
    batch = [(taken[at], f"n{at}") for at in (0, 3, 4)]
    answers = scene.here.start("w", {"build": (3, batch)}, held)
    assert [answer.word for answer in answers] == ["go", "gone", "go"]


def test_tries_count_failures_and_lost_owners(scene: Scene) -> None:
    """Not what was parked, released, put off or given back; at the task's limit the entry is a poison."""
    taken, exec = scene.begin("a")
    scene.park(taken, exec)
    scene.tell("a", draft("run.resumed", b"{}", ask="q", task="build"))
    for number, verb in enumerate(("release", "later", "retry"), 2):
        [taken] = scene.take()
        exec = scene.start(taken, f"n{number}")
        assert scene.here.model.runs["a"].tries == 1
        assert scene.settle(unit(taken, exec, verb)) == Settled("settled", "queued")  # type: ignore[arg-type]
        if verb != "release":
            scene.here.now += 41_000
            scene.here.promote([("a", "build")])
    [taken] = scene.take()
    assert scene.start(taken, "lost") == "5-lost"
    again = scene.here.claim("v", "build", taken.entry)
    assert again is not None
    assert (again.seen, again.tries) == ("5-lost", 2)
    assert scene.start(again, "m", limit=2, consumer="v") == "spent"
    assert scene.start(again, "m", limit=2, consumer="v") == "gone"
    letter = scene.here.model.dead["build"][0]
    assert (letter.queued, letter.payload) == (taken.queued, taken.payload)


def test_dead_letters_are_bounded(every_server: TestServer, namespace: str) -> None:
    """The oldest go, a node at a time."""
    scene = Scene(every_server, namespace)
    scene.here.limits = replace(scene.here.limits, dead=5)
    try:
        for number in range(60):
            taken, exec = scene.begin("a", f"n{number}")
            scene.settle(unit(taken, exec, "fail"))
            scene.forget("a")
    finally:
        scene.close()


# -- others' clocks and numbers


def test_without_a_worker_the_grace_of_a_released_run_ends_it(scene: Scene) -> None:
    """Somebody outside said that it runs, and then asked it to stop."""
    taken, exec = scene.begin("a")
    scene.settle(unit(taken, exec, "release"))
    scene.tell("a", draft("run.started", b"{}"))
    scene.here.cancel("a")
    scene.here.now += 21_000
    scene.here.expire(("a",))
    assert status(scene, "a") == "cancelled"


def test_a_start_without_a_nonce_has_no_attempt(scene: Scene) -> None:
    """Sent again it is a duplicate like any other event."""
    taken, exec = scene.begin("a")
    scene.settle(unit(taken, exec, "release"))
    scene.tell("a", draft("run.started", b"{}"))
    again = scene.here.append([Batch("a", "p:one", 1, 2, [draft("run.started", b"{}")])])[0]
    assert [(one.word, one.attempt) for one in again] == [("duplicate", 0)]


def test_nobody_writes_live_without_an_exec(scene: Scene) -> None:
    """A run that nobody executes has an empty exec, and an empty one is none."""
    taken, exec = scene.begin("a")
    scene.settle(unit(taken, exec, "release"))
    assert scene.live("a", "", draft("usage", b"{}"))[0].word == "stale"


def test_renewing_takes_an_entry_back_until_another_execution_began(scene: Scene) -> None:
    """Whoever claimed it and has not begun loses it; once it has begun, the old execution is told."""
    taken, exec = scene.begin("a")
    scene.here.claim("v", "build", taken.entry)
    held = {"build": [Held("a", taken.entry, exec)]}
    assert scene.here.renew_held("w", held) == ["renewed"]
    assert scene.here.model.work["build"][0].consumer == "w"
    again = scene.here.claim("v", "build", taken.entry)
    assert again is not None
    assert scene.start(again, "m", consumer="v") == "2-m"
    assert scene.here.renew_held("w", held) == ["stale"]
    assert scene.here.model.work["build"][0].consumer == "v"


def test_an_execution_that_is_to_stop_keeps_its_entry(scene: Scene) -> None:
    """It may clean up, and settles that; nobody else begins meanwhile."""
    taken, exec = scene.begin("a")
    scene.here.cancel("a")
    scene.here.claim("v", "build", taken.entry)
    assert scene.here.renew_held("w", {"build": [Held("a", taken.entry, exec)]}) == ["cancelling"]
    assert scene.here.model.work["build"][0].consumer == "w"


def test_an_execution_whose_run_has_ended_is_told_how(scene: Scene) -> None:
    """Its function can stop; what holds another exec is stale."""
    taken, exec = scene.begin("a")
    scene.tell("a", draft("run.failed", b"{}", error=b'"no"'))
    held = [Held("a", taken.entry, exec), Held("a", taken.entry, ""), Held("gone", "1-1", "")]
    assert scene.here.renew_held("w", {"build": held}) == ["closed failed", "stale", "unknown"]


@pytest.mark.parametrize("verb", ["finish", "fail", "stop"])
def test_an_execution_without_a_worker_settles_too(scene: Scene, verb: Verb) -> None:
    """There is no entry: nothing is acknowledged and nothing becomes a dead letter; its owner is not waited for any more."""
    scene.tell("a", draft("run.started", b"{}", nonce="n", owner="me", task="build"))
    outputs = [effect("c"), effect("b")] if verb == "finish" else []
    alone = unit(Taken("build", "", "a", "", b""), "1-n", verb, outputs=outputs)
    assert scene.settle(alone).word == "settled"
    assert not scene.here.model.owners
    assert scene.settle(alone).word == "done"
