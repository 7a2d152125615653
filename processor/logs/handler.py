"""Handler: records of Python's logging become `log` events of runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from processor.logs.lines import of_record
from processor.logs.outlet import outlet
from processor.logs.sending import Sending, level_of

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["Handler"]


class Handler(logging.Handler):
    """For any logger, most often the root. Takes no lock and waits for nothing; what is too much is dropped and counted.

    Exceptions come with their traceback's lines; `extra=` becomes `fields`. A formatter that is set makes the lines instead.
    """

    def __init__(
        self,
        tail: Tailrace | None = None,
        *,
        run: str | None = None,
        level: int | str = logging.NOTSET,
        flush_seconds: float = 2.0,
    ) -> None:
        """run: where records go that no task, reaction or block logs; it exists from the first one on. Without it they go
        nowhere. tail: that of `run`; Tailrace() by default. flush_seconds: what flush() waits at most, as at the end of the
        program. Raises BadName, BadInput.
        """
        super().__init__(level_of(level))
        self.flush_seconds = flush_seconds
        self._send = Sending(tail, run)

    def createLock(self) -> None:
        """None: emit() may be called by many threads at once, and in a signal handler."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            form = self.format if self.formatter is not None else None
            self._send(record.name, lambda: of_record(record, form))
        except Exception:  # noqa: BLE001 - logging's rule: what logs goes on
            self.handleError(record)

    def flush(self) -> None:
        """Returns when the server has what was logged before, or after flush_seconds."""
        outlet().flush(self.flush_seconds)
