"""The front door: public names of `processor` and `gateway`, and nothing else."""

from __future__ import annotations

from gateway import Access, FeedResponse, Gateway, Grant, everyone
from processor import (
    Event,
    GiveUp,
    Message,
    Retry,
    RetryLater,
    Run,
    RunState,
    Sent,
    SyncRun,
    Tailrace,
    Task,
    Thread,
    Tool,
)

__all__ = [
    "Access",
    "Event",
    "FeedResponse",
    "Gateway",
    "GiveUp",
    "Grant",
    "Message",
    "Retry",
    "RetryLater",
    "Run",
    "RunState",
    "Sent",
    "SyncRun",
    "Tailrace",
    "Task",
    "Thread",
    "Tool",
    "everyone",
]
