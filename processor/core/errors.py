"""Every error that tailrace raises on purpose.

TailraceError
├── NotConfigured               no server is known
├── SettingsError               a setting is wrong; all faults at once
├── ServerError                 the server cannot be used
│   ├── ServerUnreachable
│   ├── ServerDenied
│   ├── ServerTooOld
│   ├── ServerReadOnly
│   ├── ServerFull
│   └── ServerEvicting
├── BadInput                    what was given cannot be used
│   ├── BadName
│   ├── BadEvent
│   └── BadCursor
├── RunError                    a run says no
│   ├── RunNotFound
│   ├── RunExists
│   ├── RunClosed
│   ├── IllegalEvent
│   ├── RunFailed
│   ├── RunCancelled
│   ├── StaleAttempt
│   ├── RunCorrupt
│   └── EventsLost
├── ThreadBusy
├── BacklogFull
├── BufferFull
├── NotStarted
└── NotAwaited                  also a TypeError

`code` is the slug that HTTP problems, `--json` and docs/errors.md use. A docstring says what to do and is the default message.
"""

from __future__ import annotations

import re
from typing import ClassVar

__all__ = [
    "BacklogFull",
    "BadCursor",
    "BadEvent",
    "BadInput",
    "BadName",
    "BufferFull",
    "EventsLost",
    "IllegalEvent",
    "NotAwaited",
    "NotConfigured",
    "NotStarted",
    "RunCancelled",
    "RunClosed",
    "RunCorrupt",
    "RunError",
    "RunExists",
    "RunFailed",
    "RunNotFound",
    "ServerDenied",
    "ServerError",
    "ServerEvicting",
    "ServerFull",
    "ServerReadOnly",
    "ServerTooOld",
    "ServerUnreachable",
    "SettingsError",
    "StaleAttempt",
    "TailraceError",
    "ThreadBusy",
]


def _slug(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class TailraceError(Exception):
    """Something that tailrace was asked for cannot be done."""

    code: ClassVar[str] = "tailrace-error"

    def __init_subclass__(cls, code: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.code = code or _slug(cls.__name__)

    def __init__(self, message: str | None = None, *, remedy: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").strip())
        self.remedy = remedy  # one sentence that says what to do, or ""

    @property
    def message(self) -> str:
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class NotConfigured(TailraceError):
    """no server is known: TAILRACE_REDIS_URL and REDIS_URL are not set, and no `tailrace up` runs for this folder or one above it."""

    def __init__(self, message: str | None = None, *, remedy: str = "") -> None:
        remedy = remedy or "Set TAILRACE_REDIS_URL=redis://localhost:6379, or run `tailrace up` here."
        super().__init__(message, remedy=remedy)


class SettingsError(TailraceError):
    """A setting is wrong; the message names the variable, its value and what it should be."""


class ServerError(TailraceError):
    """The server cannot be used."""


class ServerUnreachable(ServerError):
    """Nothing answers at the server's address. What was sent is kept and sent again under its number."""


class ServerDenied(ServerError):
    """The server wants a user or a password that permits this: redis://user:password@host:port/0."""


class ServerTooOld(ServerError):
    """tailrace needs Redis 7.0 or Valkey 8 (it uses sharded PubSub)."""


class ServerReadOnly(ServerError):
    """The server is a replica or refuses writes: use the primary's address."""


class ServerFull(ServerError):
    """The server has reached its maxmemory and refuses writes: free memory or raise the limit."""


class ServerEvicting(ServerError):
    """The server deletes keys when it is full: set maxmemory-policy noeviction, or TAILRACE_ALLOW_EVICTION=1 to accept the loss."""


class BadInput(TailraceError):
    """What was given cannot be used."""

    def __init__(
        self, message: str | None = None, *, remedy: str = "", field: str = "", value: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.field = field  # where it stood, as `events[3].type`, `after`, `run`
        self.value = value  # what came, None if nothing


class BadName(BadInput):
    """A name has characters that are not allowed."""


class BadEvent(BadInput):
    """An event is not well formed."""


class BadCursor(BadInput):
    """A cursor is 0 or a feed ID such as 42-1795506276265."""


class RunError(TailraceError):
    """A run says no. `run` is its ID."""

    def __init__(self, message: str | None = None, *, remedy: str = "", run: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.run = run


class RunNotFound(RunError, code="unknown-run"):
    """There is no such run: it never began, or it expired."""


class RunExists(RunError):
    """A run with this ID was started with another input."""


class RunClosed(RunError, code="closed"):
    """The run has ended and takes no more events. `tail` is its last event's ID, "" where it is not known."""

    def __init__(
        self, message: str | None = None, *, remedy: str = "", run: str = "", status: str = "", tail: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, run=run)
        self.status, self.tail = status, tail


class IllegalEvent(RunError, code="illegal"):
    """The event is not allowed in the run's present state."""

    def __init__(
        self, message: str | None = None, *, remedy: str = "", run: str = "", status: str = "", type: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, run=run)
        self.status, self.type = status, type


class RunFailed(RunError):
    """The run ended as failed."""

    def __init__(
        self, message: str | None = None, *, remedy: str = "", run: str = "", reason: str = "", error: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, run=run)
        self.reason, self.error = reason, error


class RunCancelled(RunError):
    """The run was cancelled."""


class StaleAttempt(RunError, code="stale"):
    """A newer attempt of this run began: stop, write nothing more."""


class RunCorrupt(RunError, code="corrupt"):
    """The run's hash and feed do not belong together; nothing is written until somebody has looked."""


class EventsLost(RunError):
    """The server lost events that it had acknowledged and that this process no longer has."""

    def __init__(self, run: str, first: int, last: int) -> None:
        super().__init__(
            f"run {run}: the server lost what was sent as numbers {first} to {last}, and this process no longer has it.",
            remedy="Run Redis with appendonly yes and appendfsync always where this must not happen.",
            run=run,
        )
        self.first, self.last = first, last


class ThreadBusy(TailraceError, code="busy"):
    """The thread has a run in progress; `run` is its ID."""

    def __init__(self, message: str | None = None, *, remedy: str = "", run: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.run = run


class BacklogFull(TailraceError, code="full"):
    """What was appended earlier is not handled yet; try again later."""

    def __init__(
        self, message: str | None = None, *, remedy: str = "", group: str = "", retry_after_seconds: int = 1
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.group, self.retry_after_seconds = group, retry_after_seconds


class BufferFull(TailraceError):
    """Unsent events fill this process's buffer (TAILRACE_BUFFER_MIB): await what write, log, emit and set return."""


class NotStarted(TailraceError):
    """The run is started as an effect and begins when this handler returns."""


class NotAwaited(TailraceError, TypeError):
    """start(...) was not awaited: there is no run and no ID."""
