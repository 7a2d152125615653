"""What one process of a namespace does for all: which duties there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from processor.worker.scheduler import Scheduler
from processor.worker.singletons import Duty

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["duties"]


def duties(tail: Tailrace) -> Mapping[str, Duty]:
    """By the name of their lock."""
    return {"scheduler": Scheduler(tail).run}
