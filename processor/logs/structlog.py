"""StructlogProcessor: events of structlog become `log` events of runs."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final

from processor.logs.lines import of_event
from processor.logs.sending import Sending, level_of

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["StructlogProcessor"]

_METHODS: Final = {"warn": "warning", "exception": "error", "fatal": "critical", "msg": "info"}


class StructlogProcessor:
    """One of `processors`, before the one that renders. It passes each event on as it came."""

    def __init__(
        self, tail: Tailrace | None = None, *, run: str | None = None, level: int | str = logging.NOTSET
    ) -> None:
        """As Handler. Raises BadName, BadInput."""
        self._level = level_of(level)
        self._send = Sending(tail, run)

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        number = logging.getLevelName(_METHODS.get(method, method).upper())
        if isinstance(number, int) and number < self._level:
            return event
        try:
            name = str(event.get("logger") or getattr(logger, "name", "") or "")
            self._send(name, lambda: of_event(event, method, name))
        except Exception:  # noqa: BLE001 - as in logging: what logs goes on
            if logging.raiseExceptions and sys.stderr is not None:  # as logging's handlers do
                traceback.print_exc()
        return event
