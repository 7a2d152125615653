"""Two partitions and a worker, for single steps of executions: the scripts and the model do each, and are compared."""

from __future__ import annotations

from collections.abc import Sequence

from processor.core.events import Draft, compose, draft
from processor.store.executing import Output, Settled, Taken, Unit, Verb
from processor.store.scripts import Batch
from tests.processor.store.stage import Time
from tests.processor.store.stage_execution import ExecutionStage
from tests.processor.store.state import Outcome
from tests.support.servers import TestServer

__all__ = ["Scene", "effect", "start_of", "unit"]


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
