"""The front door: public names of `processor` and `gateway`, and nothing else."""

from __future__ import annotations

try:
    from gateway import Access, FeedResponse, Gateway, Grant, everyone, problem
    from processor import (
        Depends,
        Entry,
        Event,
        GiveUp,
        Into,
        Limit,
        Message,
        Rate,
        Retry,
        RetryLater,
        Run,
        RunState,
        Schedule,
        Sent,
        SyncRun,
        Tailrace,
        Task,
        Thread,
        Tool,
    )
    from processor.flows import Step, chain, chord, group
except ImportError as error:
    # A project's own folder of that name comes first on the path, and what it lacks would be a riddle.
    if error.name in ("gateway", "processor") and error.path:
        raise ImportError(
            f"tailrace needs its packages `processor` and `gateway`; Python found {error.path} instead: rename that one",
            name=error.name,
            path=error.path,
        ) from error
    raise

__all__ = [
    "Access",
    "Depends",
    "Entry",
    "Event",
    "FeedResponse",
    "Gateway",
    "GiveUp",
    "Grant",
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
    "Step",
    "SyncRun",
    "Tailrace",
    "Task",
    "Thread",
    "Tool",
    "chain",
    "chord",
    "everyone",
    "group",
    "problem",
]
