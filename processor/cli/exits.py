"""Exit codes, by what went wrong."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from processor.core.errors import (
    BacklogFull,
    BadInput,
    BufferFull,
    IllegalEvent,
    NotAwaited,
    NotConfigured,
    NotStarted,
    RunClosed,
    RunCorrupt,
    RunExists,
    RunNotFound,
    ServerDenied,
    ServerError,
    SettingsError,
    StaleAttempt,
    TailraceError,
    ThreadBusy,
)

__all__ = [
    "DENIED",
    "DONE",
    "FAILED",
    "FULL",
    "INTERRUPTED",
    "NOT_FOUND",
    "REFUSED",
    "SERVER",
    "USAGE",
    "AmbiguousRun",
    "GroupInUse",
    "NoGroup",
    "NoTask",
    "NotLoaded",
    "PortTaken",
    "UnknownGroup",
    "UnknownNamespace",
    "UnknownSchedule",
    "Usage",
    "exit_code",
]

DONE: Final = 0
FAILED: Final = 1  # what was asked about failed: the run, the doctor's patient
USAGE: Final = 2
NOT_FOUND: Final = 3
REFUSED: Final = 4  # by the state of what it was asked for
SERVER: Final = 5
DENIED: Final = 6
FULL: Final = 75  # EX_TEMPFAIL: the same may succeed later
INTERRUPTED: Final = 130  # 128 and SIGINT, as shells have it


class Usage(BadInput, code="usage"):
    """The command line cannot be understood."""


class AmbiguousRun(BadInput):
    """Several runs begin or end like that."""


class UnknownNamespace(TailraceError):
    """There is no such namespace."""


class UnknownGroup(TailraceError):
    """There is no such group."""


class GroupInUse(TailraceError):
    """Live workers run the group's reactions."""


class UnknownSchedule(TailraceError):
    """There is no such schedule."""


class PortTaken(TailraceError):
    """Somebody else listens there."""


class NotLoaded(TailraceError):
    """The module cannot be imported, or has no such object. `files`: where the fault is, of a module that was found."""

    def __init__(self, message: str | None = None, *, remedy: str = "", files: Iterable[str] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.files = frozenset(Path(file) for file in files)


class NoGroup(TailraceError):
    """Events wait for a group that no live worker has."""


class NoTask(TailraceError):
    """This worker does not have the task."""


_CODES: Final[tuple[tuple[tuple[type[TailraceError], ...], int], ...]] = (
    ((ServerDenied,), DENIED),
    ((ServerError, NotConfigured), SERVER),
    ((BadInput, SettingsError, NotAwaited, NotLoaded, NoTask, NoGroup), USAGE),
    ((RunNotFound, UnknownNamespace, UnknownGroup, UnknownSchedule), NOT_FOUND),
    (
        (RunExists, RunClosed, RunCorrupt, IllegalEvent, StaleAttempt, ThreadBusy, NotStarted, PortTaken, GroupInUse),
        REFUSED,
    ),
    ((BacklogFull, BufferFull), FULL),
)


def exit_code(error: TailraceError) -> int:
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return code
    return FAILED
