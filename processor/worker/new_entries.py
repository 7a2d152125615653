"""Waiting for new log entries of several partitions, beside any group: a plain blocking read moves nothing and may be cancelled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from processor.core.errors import ServerError
from processor.store.connection import Address
from processor.store.line import Line

__all__ = ["BLOCK_SECONDS", "NewEntries"]

log = structlog.get_logger("tailrace.reactions")
BLOCK_SECONDS: Final = 0.5  # a partition that was just taken joins the next wait
ANSWER_SECONDS: Final = 5.0  # behind the end of a block
RETRY_SECONDS: Final = 0.2


class NewEntries:
    """A connection of its own. One wait at a time. Belongs to one event loop."""

    def __init__(self, address: Address, logs: Sequence[str]) -> None:
        """logs: their keys, by partition."""
        self._line, self._logs = Line(address, "tailrace-react-read"), logs
        self._numbers = {key.encode(): number for number, key in enumerate(logs)}

    async def wait(self, after: Mapping[int, str]) -> set[int] | None:
        """after: by partition, the entry that is known. Which of them have a newer one; none if nothing came within half a
        second, and None where the server does not say."""
        command: list[str | int] = ["XREAD", "COUNT", 1, "BLOCK", int(BLOCK_SECONDS * 1000), "STREAMS"]
        command += [self._logs[number] for number in after]
        command += list(after.values())
        try:
            reply = await self._line.call(*command, seconds=BLOCK_SECONDS + ANSWER_SECONDS)
        except ServerError as error:
            log.debug("group_wait_failed", error=error.code)  # a pull tells of it
            await asyncio.sleep(RETRY_SECONDS * (0.5 + random.random()))
            return None
        return {self._numbers[name] for name, _ in reply or ()}

    def close(self) -> None:
        self._line.close()
