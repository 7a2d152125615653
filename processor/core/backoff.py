"""When a failed try may be tried again."""

from __future__ import annotations

from dataclasses import dataclass

from processor.core.errors import BadInput

__all__ = ["GiveUp", "Retry", "RetryLater", "retry_delay_ms"]


def retry_delay_ms(tries: int, draw: float, *, base_ms: int, cap_ms: int) -> int:
    """Milliseconds until a run may be tried again (full jitter).

    tries: how often the run was tried so far, from 1. draw: the caller's random number in [0, 1), so equal arguments give
    equal answers. Returns a whole number in [0, min(cap_ms, base_ms * 2**(tries - 1))]. Raises ValueError if tries < 1.
    Source: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    if tries < 1:
        raise ValueError(f"tries is {tries}; it counts from 1")
    # 2**32 ms is 49 days: past any cap, and cheap to compute
    return int(draw * (min(cap_ms, base_ms * 2 ** min(tries - 1, 32)) + 1))


@dataclass(frozen=True, slots=True)
class Retry:
    """How a failed run is tried again: at most `attempts` tries in all, exponential backoff with full jitter between them.

    Raises BadInput for what is no number, at once: a worker that meets it has an event in hands already.
    """

    attempts: int = 3
    base_seconds: float = 1
    cap_seconds: float = 300
    never: tuple[type[Exception], ...] = ()  # errors that no further try can mend

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool) or self.attempts < 1:
            raise _unfit(
                "attempts", self.attempts, "give a whole number, 1 or more: retry=3, or retry=Retry(attempts=3)"
            )
        for name in ("base_seconds", "cap_seconds"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
                raise _unfit(name, value, "give seconds, 0 or more")
        never: object = self.never  # isinstance takes a bare class as well, and so do we
        if not all(isinstance(one, type) for one in (never if isinstance(never, tuple) else (never,))):
            raise _unfit("never", self.never, "give a tuple of exceptions: never=(ValueError,)")

    def delay_seconds(self, tries: int, draw: float) -> float:
        base_ms, cap_ms = int(self.base_seconds * 1000), int(self.cap_seconds * 1000)
        return retry_delay_ms(tries, draw, base_ms=base_ms, cap_ms=cap_ms) / 1000


def _unfit(name: str, value: object, remedy: str) -> BadInput:
    return BadInput(f"Retry: {name} is {value!r}; {remedy}.", field="retry", value=repr(value)[:200])


class GiveUp(Exception):
    """Raised by a task: no further try can help. The run fails with this reason."""


class RetryLater(Exception):
    """Raised by a task: not now. The run is tried again after so many seconds; it counts as no failed try."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds:g} s")
        self.seconds = seconds
