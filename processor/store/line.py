"""A line to the server: one connection for one purpose, whose answers come in the order of its commands.

For what is awaited in bulk: a worker's reads, starts and settlements. Nothing is sent again by itself: after a loss those
that wait are told, and who asked decides, since only it knows what may be asked twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import hiredis

from processor.core.errors import ServerError, ServerUnreachable
from processor.observe import metrics
from processor.store.connection import COMMAND_SECONDS, Address, Wire, pack, server_error
from processor.store.scripts import Script

__all__ = ["Line", "failed_in_script"]


def failed_in_script(error: ServerError) -> bool:
    """Whether a script stopped on what it found, as where somebody broke a run's hash: it will again, and the rest of the call
    has not been done."""
    return type(error) is ServerError and "user_script" in error.message


class Line:
    """Connects when first used, and again after a loss. Belongs to one event loop."""

    def __init__(self, address: Address, name: str) -> None:
        """name: as CLIENT LIST shows it."""
        self._address, self._name = address, name
        self._wire: Wire | None = None
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._connecting = asyncio.Lock()
        self.connections = 0  # how many were made: a new one means that answers may have been lost

    async def call(self, *command: bytes | str | int, seconds: float = COMMAND_SECONDS) -> Any:
        """The reply. Raises ServerUnreachable if none came, ServerError if the server refuses.

        seconds: without an answer, after which the connection counts as dead. Cancelling it loses the answer.
        """
        wire = self._wire or await self._connect()
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(answered)
        wire.send(pack(*command))
        try:
            async with asyncio.timeout(seconds):
                reply = await answered
        except TimeoutError:
            self._drop(wire, TimeoutError(f"no answer within {seconds:g} s"))
            raise ServerUnreachable(f"{self._name}: no answer within {seconds:g} s.") from None
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("READONLY"):  # a primary that was demoted: its address may lead elsewhere by now
                self._drop(wire, reply)
            raise server_error(str(reply), self._address.url) from reply
        return reply

    async def script(self, script: Script, *command: bytes | str | int) -> Any:
        """An EVALSHA, which is loaded where the server does not have it."""
        try:
            return await self.call(*command)
        except ServerError as error:
            if not str(error.__cause__).startswith("NOSCRIPT"):
                raise
        await self.call("SCRIPT", "LOAD", script.text)
        return await self.call(*command)

    async def _connect(self) -> Wire:
        async with self._connecting:
            if self._wire is None:
                self._wire = await Wire.connect(
                    self._address, on_reply=self._answered, on_lost=self._lost, name=self._name
                )
                self.connections += 1
                if self.connections > 1:
                    metrics.reconnects_total.labels(connection=self._name.removeprefix("tailrace-")).inc()
            return self._wire

    def _answered(self, reply: Any) -> None:
        future = self._waiting.popleft()
        if not future.done():
            future.set_result(reply)

    def _drop(self, wire: Wire, error: BaseException) -> None:
        """Ends a connection that is of no use; the next call makes another."""
        if wire is self._wire:
            wire.close()
            self._lost(error)

    def _lost(self, error: BaseException | None) -> None:
        self._wire = None
        waiting, self._waiting = self._waiting, deque()
        told = server_error(error or ConnectionResetError("connection closed by server"), self._address.url)
        for future in waiting:
            if not future.done():
                future.set_exception(told)

    def close(self) -> None:
        """Who waits is told ServerUnreachable."""
        if self._wire is not None:
            self._wire.close()
        self._lost(ConnectionResetError("closed here"))
