"""Units: what an execution has to say at its end, as settle is told. Nothing is decided here, and nothing sent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from processor.core.events import compose
from processor.core.failure import failure, short
from processor.core.json import dumps
from processor.store.executing import Output, Taken, Unit, Verb

__all__ = ["Units"]


class Units:
    """Of one execution. exec, attempt: as start answered."""

    __slots__ = ("_taken", "attempt", "exec")

    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self.exec = taken.seen
        self.attempt = 0

    def finish(self, data: bytes, outputs: Sequence[Output]) -> Unit:
        """data: of run.finished. outputs: for other runs."""
        payload = compose("run.finished", data, attempt=self.attempt)
        taken = self._taken
        return Unit(taken.run, taken.task, taken.entry, self.exec, "finish", payload, outputs=outputs)

    def stop(self) -> Unit:
        """It heeded a cancel."""
        return self._unit("stop")

    def fail(self, words: str, reason: str, error: BaseException | None) -> Unit:
        payload = compose("run.failed", dumps(failure(words, reason, error)), attempt=self.attempt)
        return self._unit("fail", payload, dumps(short(words)), *self._body)

    def retry(self, words: str, delay_seconds: float) -> Unit:
        """After a failed try."""
        return self._unit("retry", self._retrying("error", words, delay_seconds), _ms(delay_seconds), *self._body)

    def later(self, delay_seconds: float) -> Unit:
        """By its own wish. Raises OverflowError, ValueError for a delay that no calendar has."""
        return self._unit("later", self._retrying("later", None, delay_seconds), _ms(delay_seconds), *self._body)

    def release(self) -> Unit:
        """For another worker, now."""
        return self._unit("release", self._retrying("released", None, None), "", *self._body)

    def park(self, ask: str) -> Unit:
        """The server waits for the answer."""
        return self._unit("park", b"", ask, *self._body)

    def give_back(self, delay_ms: int | None = None) -> Unit:
        """It was not started, as far as the server knows: for another worker now, or for anybody after so long. Where somebody
        else has begun the entry, or settled it, this changes nothing."""
        taken = self._taken
        verb: Verb = "back" if delay_ms is None else "defer"
        return Unit(taken.run, taken.task, taken.entry, taken.seen, verb, b"", delay_ms or 0, *self._body)

    def _retrying(self, reason: str, error: str | None, delay_seconds: float | None) -> bytes:
        data: dict[str, object] = {"reason": reason}
        if delay_seconds is not None:
            due = datetime.fromtimestamp(time.time(), UTC) + timedelta(seconds=delay_seconds)
            data["due"] = due.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if error is not None:
            data["error"] = error
        return compose("run.retrying", dumps(data), attempt=self.attempt + 1)

    @property
    def _body(self) -> tuple[str, bytes]:
        return self._taken.queued, self._taken.payload

    def _unit(self, verb: Verb, payload: bytes = b"", a: bytes | str | int = b"", b: str = "", c: bytes = b"") -> Unit:
        taken = self._taken
        return Unit(taken.run, taken.task, taken.entry, self.exec, verb, payload, a, b, c)


def _ms(seconds: float) -> int:
    return max(0, int(seconds * 1000))
