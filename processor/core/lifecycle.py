"""The lifecycle of a run: which event is legal in which status. scripts/lua/include/lifecycle.lua is the same table."""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["ENDS", "TERMINAL", "Status", "next_status"]

Status = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled"]
ENDS: Final[dict[str, Status]] = {"run.finished": "succeeded", "run.failed": "failed", "run.cancelled": "cancelled"}
TERMINAL: Final = frozenset(ENDS.values())

_ANY = ("queued", "running", "waiting")
_LEGAL: Final[dict[str, dict[str | None, Status]]] = {
    "run.queued": {None: "queued"},
    "run.started": {None: "running", "queued": "running"},
    "run.waiting": {"running": "waiting"},
    "run.resumed": {"waiting": "running"},
    "run.retrying": {},
    "run.cancel_requested": {},
    **{type: dict.fromkeys(_ANY, status) for type, status in ENDS.items()},
}
_LEGAL_LIVE: Final[dict[str, dict[str | None, Status]]] = {
    "run.waiting": {"running": "waiting", "waiting": "waiting"},
    "run.retrying": {"running": "queued", "waiting": "queued"},
}


def next_status(status: Status | None, type: str, *, live: bool = False) -> Status | None:
    """The status after an event, or None if it is illegal.

    status: None for an unknown run. live: written under an execution. What is legal beyond this table: run.started
    of the same owner begins its next attempt; a terminal run takes nothing and answers `closed` before anybody looks here.
    """
    if status in TERMINAL:
        return None
    table = _LEGAL_LIVE.get(type) if live else None
    if table is None:
        table = _LEGAL.get(type)
    if table is None:
        return status or "running"
    return table.get(status)
