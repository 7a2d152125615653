"""What random sequences of executions reach too rarely, step by step; each call is compared with the model as there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from processor.core.events import Draft, compose, draft
from processor.store.executing import Output, Settled, Taken, Unit, Verb
from processor.store.scripts import Batch, Held
from tests.processor.store.stage import Time
from tests.processor.store.stage_execution import ExecutionStage
from tests.processor.store.state import Outcome
from tests.support.servers import TestServer


class Scene:
    """Partition 1 and its worker `w`; partition 0 is `other`. Runs a, c, e and T~1 to T~3 are here, b, d and f there."""

    def __init__(self, server: TestServer, namespace: str) -> None:
        time = Time()
        self.here, self.other = (ExecutionStage(server, namespace, number, time) for number in (1, 0))
        self._numbers: dict[str, int] = {}

    def close(self) -> None:
        self.here.close()
        self.other.close()

    def tell(self, run: str, *events: Draft) -> list[Outcome]:
        """From outside."""
        number = self._numbers.get(run, 0)
        self._numbers[run] = number + len(events)
        return self.here.append([Batch(run, "p:one", number, number + 1, events)])[0]

    def queue(self, *runs: str, thread: str = "") -> None:
        for run in runs:
            [outcome] = self.tell(run, draft("run.queued", b'{"input":{}}', task="build", start="s", thread=thread))
            assert outcome.word == "appended"

    def take(self, count: int = 100, consumer: str = "w") -> list[Taken]:
        return self.here.read(consumer, "build", count)

    def start(self, taken: Taken, nonce: str = "n", *, limit: int = 3, consumer: str = "w", held: int = 100) -> str:
        """The exec, or the word."""
        [begun] = self.here.start(consumer, {"build": (limit, [(taken, nonce)])}, held)
        return f"{begun.attempt}-{nonce}" if begun.word == "go" else begun.word

    def begin(self, run: str, nonce: str = "n") -> tuple[Taken, str]:
        self.queue(run)
        [taken] = self.take()
        return taken, self.start(taken, nonce)

    def live(self, run: str, exec: str, *events: Draft, number: int = 1) -> list[Outcome]:
        return self.here.append([Batch(run, f"x:{exec}", number - 1, number, events)])[0]

    def park(self, taken: Taken, exec: str) -> Settled:
        self.live(taken.run, exec, draft("run.waiting", b"{}", ask="q"))
        return self.settle(unit(taken, exec, "park", a="q"))

    def forget(self, run: str) -> None:
        """Its tombstone expires."""
        self.here.expire_feed(run)
        self.here.expire_tombstone(run)
        self._numbers.pop(run)

    def settle(self, *units: Unit) -> Settled:
        return self.here.settle(units)[-1]


def unit(taken: Taken, exec: str, verb: Verb, *, a: str | int = "", outputs: Sequence[Output] = ()) -> Unit:
    """As a worker composes it."""
    attempt = int(exec.partition("-")[0] or 0)
    payload = {
        "finish": compose("run.finished", b'{"result":null}', attempt=attempt),
        "fail": compose("run.failed", b'{"error":"bad"}', attempt=attempt),
        "retry": compose("run.retrying", b'{"reason":"error"}', attempt=attempt + 1),
        "later": compose("run.retrying", b'{"reason":"later"}', attempt=attempt + 1),
        "release": compose("run.retrying", b'{"reason":"released"}', attempt=attempt + 1),
    }.get(verb, b"")
    known: dict[str, str | int] = {"fail": '"bad"', "retry": 40_000, "later": 40_000, "defer": 40_000, "back": 0}
    a = known.get(verb, a)
    return Unit(taken.run, taken.task, taken.entry, exec, verb, payload, a, taken.queued, taken.payload, outputs)


def effect(run: str, *types: str) -> Output:
    return Output(run, [draft(type, b'{"order":1}') for type in types or ("order.paid",)])


def start_of(run: str, thread: str = "") -> Draft:
    return draft("run.queued", b'{"input":{}}', task="build", start="s", thread=thread)


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


# -- output for other runs


def test_the_same_start_twice_is_one(scene: Scene) -> None:
    """A handler that starts a run twice does so once, here and in another partition; another start is refused."""
    taken, exec = scene.begin("a")
    outputs = [Output("c", [start_of("c"), start_of("c")]), Output("b", [start_of("b"), start_of("b")])]
    assert scene.settle(unit(taken, exec, "finish", outputs=outputs)) == Settled("settled", "succeeded")
    assert scene.other.take_from(1, scene.here.model.outbox) == ["taken"]
    assert [taken.run for taken in scene.take()] == ["c"]
    [outcome] = scene.other.append([Batch("d", "p:one", 0, 1, [start_of("d"), start_of("d")])])
    assert [one.word for one in outcome] == ["appended", "duplicate"]


def test_the_end_of_a_run_frees_its_thread_for_the_next_one(scene: Scene) -> None:
    """A handler may start the next run of its own thread, and only one."""
    scene.queue("T~1", thread="T")
    [taken] = scene.take()
    exec = scene.start(taken)
    both = [Output("T~2", [start_of("T~2", "T")]), Output("T~3", [start_of("T~3", "T")])]
    assert scene.settle(unit(taken, exec, "finish", outputs=both)) == Settled("refused", "busy 1 T~2 of T~3")
    assert scene.settle(unit(taken, exec, "finish", outputs=both[:1])) == Settled("settled", "succeeded")
    assert scene.here.model.threads["T"] == {"active": "T~2", "latest": "T~2"}


def test_what_is_refused_changes_nothing(scene: Scene) -> None:
    """One output that may not be appended keeps the whole unit from being settled."""
    scene.queue("c")
    scene.tell("c", draft("run.finished", b"{}"))
    scene.here.read("w", "build", 9)
    taken, exec = scene.begin("a")
    outputs = [effect("e"), effect("c"), effect("b")]
    scene.here.unchanged(lambda: scene.settle(unit(taken, exec, "finish", outputs=outputs)))
    assert scene.settle(unit(taken, exec, "fail")) == Settled("settled", "failed")


def test_output_for_a_corrupt_run_is_refused(scene: Scene) -> None:
    """What cannot be appended is told before anything is written."""
    scene.queue("c")
    scene.here.read("w", "build", 9)
    scene.here.break_run("c")
    taken, exec = scene.begin("a")
    answer = scene.settle(unit(taken, exec, "finish", outputs=[effect("e"), effect("c")]))
    assert answer == Settled("refused", "corrupt 1 of c")


def test_units_of_one_call_see_each_other(scene: Scene) -> None:
    """The second one's output goes to the run that the first one ended, and is refused."""
    scene.queue("a", "c")
    first, second = scene.take()
    execs = [scene.start(first), scene.start(second)]
    answer = scene.settle(unit(first, execs[0], "finish"), unit(second, execs[1], "finish", outputs=[effect("a")]))
    assert answer.detail.startswith("closed 1 succeeded")


# -- the outbox


def _three(scene: Scene) -> None:
    for run in ("a", "c", "e"):
        taken, exec = scene.begin(run)
        scene.settle(unit(taken, exec, "finish", outputs=[effect("b")]))


def test_entries_are_taken_only_behind_the_one_before(scene: Scene) -> None:
    """In order, each once, whichever slices a relay sends, and nothing behind a hole is looked at."""
    _three(scene)
    first, second, third = scene.here.model.outbox
    assert scene.other.take_from(1, [second, third]) == ["hole 0-0"]
    assert scene.other.take_from(1, [first]) == ["taken"]
    assert scene.other.take_from(1, [first, third, second]) == ["duplicate", f"hole {first.id}"]
    assert scene.other.take_from(1, [first, second, third]) == ["duplicate", "taken", "taken"]
    assert scene.other.take_from(1, [first, second, third]) == ["duplicate"] * 3
    assert len(scene.other.model.runs["b"].events) == 3


def test_a_target_that_lost_its_tail_takes_it_again(scene: Scene) -> None:
    """Its mark went back with the events; what the outbox still has is taken from there."""
    _three(scene)
    before = scene.other.snapshot()
    scene.other.take_from(1, scene.here.model.outbox)
    scene.other.lose(before)
    assert scene.other.take_from(1, scene.here.model.outbox) == ["taken"] * 3


def test_the_chain_goes_on_behind_what_has_gone(scene: Scene) -> None:
    """An entry that was taken may leave the outbox; the next one still names it."""
    _three(scene)
    scene.other.take_from(1, scene.here.model.outbox)
    for entry in scene.here.model.outbox[:]:
        scene.here.forget_relayed(entry.id)
    scene.forget("a")
    taken, exec = scene.begin("a")
    scene.settle(unit(taken, exec, "finish", outputs=[effect("b"), effect("d")]))
    assert scene.other.take_from(1, scene.here.model.outbox) == ["taken", "taken"]


def test_a_refused_event_does_not_stop_the_outbox(scene: Scene) -> None:
    """Its handler has been settled: what the run does not take any more is dropped and told, the rest is taken."""
    taken, exec = scene.begin("a")
    late = Output("b", [draft("order.paid", b"{}"), draft("run.finished", b"{}"), draft("order.sent", b"{}")])
    scene.settle(unit(taken, exec, "finish", outputs=[late, effect("d")]))
    first, second = scene.other.take_from(1, scene.here.model.outbox)
    assert (first.split(" ")[:3], second) == (["dropped", "closed", "1"], "taken")
    assert len(scene.other.model.runs["b"].events) == 2


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
    batch = [(one, f"n{number}") for number, one in enumerate(taken) if number != 1]
    answers = scene.here.start("w", {"build": (3, batch)}, held)
    assert [answer.word for answer in answers] == ["go", "go", "gone", "go"]


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
        for number in range(160):
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
