"""What the end of a reaction's call means."""

from __future__ import annotations

from typing import Any

from processor import Tailrace
from processor.core.events import Event
from processor.store.reacting import Delivery
from processor.worker.verdicts import judge


class Odd(Exception):
    """Its wish makes no sense."""


def test_no_error_is_too_odd() -> None:
    """What cannot be judged becomes a dead letter, and is not held for ever."""
    tail = Tailrace("redis://localhost:1")

    @tail.on("order.paid")
    async def reaction(event: Event[Any]) -> None:
        raise Odd

    [one] = tail.reactions["reaction"].reactions
    object.__setattr__(one.policy.retry, "never", ("no class",))  # as a later bug of ours may leave it
    verdict = judge(one, Delivery(0, "1-1", "r", "1-1", b""), Odd("hm"), 0.5)
    assert verdict.verb == "dead"
    assert "Odd: hm" in verdict.words
