"""What handlers do to other runs: settled with them here, through the outbox in another partition; compared with the model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from processor.core.events import draft
from processor.store.executing import Output, Settled
from processor.store.scripts import Batch
from tests.processor.store.scene_execution import Scene, effect, start_of, unit
from tests.support.servers import TestServer


@pytest.fixture
def scene(every_server: TestServer, namespace: str) -> Iterator[Scene]:
    scene = Scene(every_server, namespace)
    yield scene
    scene.close()


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


def test_what_was_taken_is_passed_over(scene: Scene) -> None:
    """A slice may begin with entries for other runs, starts among them, that the target has already."""
    taken, exec = scene.begin("a")
    outputs = [Output("b", [start_of("b"), start_of("b")]), effect("d", "log", "usage"), effect("f")]
    scene.settle(unit(taken, exec, "finish", outputs=outputs))
    first, second, third = scene.here.model.outbox
    assert scene.other.take_from(1, [first]) == ["taken"]
    assert scene.other.take_from(1, [first, second]) == ["duplicate", "taken"]
    assert scene.other.take_from(1, [first, second, third]) == ["duplicate", "duplicate", "taken"]


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


def test_output_of_an_ended_run_is_kept_whole_or_not(scene: Scene) -> None:
    """Somebody ended the run: what its handler did to others is applied if all of it may be, else nothing is."""
    scene.queue("c")
    scene.tell("c", draft("run.finished", b"{}"))
    scene.here.read("w", "build", 9)
    taken, exec = scene.begin("a")
    scene.tell("a", draft("run.cancelled", b"{}"))
    outputs = [effect("e"), effect("c"), effect("b")]
    assert scene.settle(unit(taken, exec, "finish", outputs=outputs)) == Settled("closed", "cancelled")
    assert set(scene.here.model.runs) == {"a", "c"}
    assert not scene.here.model.outbox


def test_messages_of_a_run_keep_their_order(scene: Scene) -> None:
    """A run goes back to the queue, and another one's output enters it in the same call: whoever follows sees no hole."""
    scene.queue("a", "c")
    first, second = scene.take()
    execs = [scene.start(first), scene.start(second)]
    scene.settle(unit(first, execs[0], "retry"), unit(second, execs[1], "finish", outputs=[effect("a")]))
    assert [str(id) for name, id, _ in scene.here.model.published if name == "a"] == [
        f"{seq}-{scene.here.now}" for seq in (3, 4)
    ]


def test_an_output_wakes_a_parked_run_once(scene: Scene) -> None:
    """Whatever else it says to the run: there is one body, and so one entry."""
    scene.park(*scene.begin("c"))
    taken, exec = scene.begin("a")
    answer = draft("run.resumed", b"{}", ask="q", task="build")
    events = [answer, draft("run.started", b"{}"), draft("run.waiting", b"{}", ask="q"), answer]
    assert scene.settle(unit(taken, exec, "finish", outputs=[Output("c", events)])) == Settled("settled", "succeeded")
    assert [taken.run for taken in scene.take()] == ["c"]
