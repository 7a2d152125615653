"""When a failed try may be tried again."""

from __future__ import annotations

from dataclasses import dataclass

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
    """How a failed run is tried again: at most `attempts` tries in all, exponential backoff with full jitter between them."""

    attempts: int = 3
    base_seconds: float = 1
    cap_seconds: float = 300
    never: tuple[type[Exception], ...] = ()  # errors that no further try can mend

    def delay_seconds(self, tries: int, draw: float) -> float:
        base_ms, cap_ms = int(self.base_seconds * 1000), int(self.cap_seconds * 1000)
        return retry_delay_ms(tries, draw, base_ms=base_ms, cap_ms=cap_ms) / 1000


class GiveUp(Exception):
    """Raised by a task: no further try can help. The run fails with this reason."""


class RetryLater(Exception):
    """Raised by a task: not now. The run is tried again after so many seconds; it counts as no failed try."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds:g} s")
        self.seconds = seconds
