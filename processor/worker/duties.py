"""What one process of a namespace does for all: which duties there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from processor.client.session import Session
from processor.worker.inlets import inlet_duties
from processor.worker.janitor import Janitor
from processor.worker.lag_exporter import LagExporter
from processor.worker.scheduler import Scheduler
from processor.worker.singletons import Duty

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["duties"]


def duties(tail: Tailrace, session: Session) -> Mapping[str, Duty]:
    """By the name of their lock. session: the tail's in this loop."""
    own = {"scheduler": Scheduler(tail).run, "janitor": Janitor(session).run, "lag": LagExporter(session).run}
    return {**own, **inlet_duties(tail, session)}
