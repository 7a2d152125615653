"""tailrace's library: producing, executing, following. The gateway is a package of its own."""

from __future__ import annotations

from processor.client.depends import Depends
from processor.client.inlet import Entry, Into
from processor.client.parts import Message, Tool
from processor.client.run import Run
from processor.client.sync import SyncRun
from processor.client.tailrace import Tailrace
from processor.client.task import Task
from processor.client.thread import Thread
from processor.core.backoff import GiveUp, Retry, RetryLater
from processor.core.events import Event
from processor.core.rate import Limit, Rate
from processor.core.schedule import Schedule
from processor.store.runs import RunState
from processor.store.writer import Sent

__all__ = [
    "Depends",
    "Entry",
    "Event",
    "GiveUp",
    "Into",
    "Limit",
    "Message",
    "Rate",
    "Retry",
    "RetryLater",
    "Run",
    "RunState",
    "Schedule",
    "Sent",
    "SyncRun",
    "Tailrace",
    "Task",
    "Thread",
    "Tool",
]
