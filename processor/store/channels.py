"""PubSub: one connection per process and node, however many channels and sinks.

A message is a hint and may get lost; wherever some may have been, each sink of the channel is told `resubscribed`. Reads on
a bare protocol: with 1,000 channels 15 times what redis-py's `listen()` carries.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any, Final, Protocol

import hiredis
import structlog

from processor.core.errors import ServerError
from processor.observe import metrics
from processor.store.connection import Address, Wire, pack, server_error

__all__ = ["Channels", "Sink"]

log = structlog.get_logger()

HEALTH_SECONDS: Final = 5.0  # of silence; as long again without an answer, and the connection counts as dead
BACKOFF_BASE_SECONDS: Final = 0.05
BACKOFF_CAP_SECONDS: Final = 1.0


class Sink(Protocol):
    """Takes what a channel brings. Both are called in the event loop and must return at once."""

    def message(self, body: bytes, /) -> None: ...

    def resubscribed(self) -> None:
        """Messages may have been lost; those that follow come from a subscription that is confirmed."""


class _Channel:
    __slots__ = ("confirmed", "name", "sinks", "waiting", "was_confirmed")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.sinks: tuple[Sink, ...] = ()  # replaced, never changed: a sink may leave while messages are handed out
        self.confirmed = False  # on the present connection
        self.was_confirmed = False  # on any
        self.waiting: list[asyncio.Future[None]] = []


class Channels:
    """Subscriptions of this process to one server. Connects on first use and stays until `close`.

    While the server is away subscriptions are kept, and asked for again when it is back.
    """

    def __init__(self, address: Address, *, health_seconds: float = HEALTH_SECONDS) -> None:
        self._address = address
        self._health_seconds = health_seconds
        self._channels: dict[bytes, _Channel] = {}
        self._wire: Wire | None = None
        self._lost = asyncio.Event()  # set while there is no connection
        self._heard = False
        self._expected: deque[tuple[bytes, _Channel | None]] = deque()  # confirmations come in the order of commands
        self._keeper: asyncio.Task[None] | None = None

    async def subscribe(self, channel: str, sink: Sink) -> None:
        """Returns when the server has confirmed it: what is published from then on comes, or `resubscribed` is told.

        Waits while the server is away. Raises ServerError if it refuses the channel. If this is cancelled or fails, the
        sink is not subscribed.
        """
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="tailrace-channels")
        name = channel.encode()
        one = self._channels.get(name)
        if one is None:
            one = self._channels[name] = _Channel(name)
            self._ask(one)
        one.sinks += (sink,)
        if one.confirmed:
            return
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        one.waiting.append(confirmed)
        try:
            await confirmed
        except BaseException:
            self.unsubscribe(channel, sink)
            raise

    def unsubscribe(self, channel: str, sink: Sink) -> None:
        """No more messages for this sink. Nothing happens if it is not subscribed."""
        name = channel.encode()
        one = self._channels.get(name)
        if one is None or sink not in one.sinks:
            return
        one.sinks = tuple(s for s in one.sinks if s is not sink)
        if not one.sinks:
            del self._channels[name]
            self._send(b"SUNSUBSCRIBE", one)

    async def close(self) -> None:
        """Ends the connection; sinks are told nothing more."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        for one in self._channels.values():
            for waiter in one.waiting:
                waiter.cancel()
        self._channels.clear()

    def _ask(self, one: _Channel) -> None:
        one.confirmed = False
        self._send(b"SSUBSCRIBE", one)

    def _send(self, command: bytes, one: _Channel) -> None:
        # one channel a command: in a cluster those of a command must share a slot
        if self._wire is not None:
            self._expected.append((command.lower(), one))
            self._wire.send(pack(command, one.name))

    async def _keep(self) -> None:
        """Keeps the connection, and connects again when it is lost."""
        tries = 0
        while True:
            try:
                wire = await Wire.connect(
                    self._address, on_reply=self._reply, on_lost=self._ended, name="tailrace-channels"
                )
            except ServerError as error:
                if not tries:
                    log.warning("channels_unreachable", error=str(error), channels=len(self._channels))
                tries += 1
                cap = min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2 ** min(tries, 10))
                await asyncio.sleep(random.uniform(BACKOFF_BASE_SECONDS, cap))
                continue
            tries = 0
            self._begin(wire)
            try:
                await self._watch(wire)
            finally:
                wire.close()
                self._wire = None
            log.warning("channels_lost", channels=len(self._channels))
            # several processes lost it together and should not return together
            await asyncio.sleep(random.uniform(0, BACKOFF_BASE_SECONDS))

    def _begin(self, wire: Wire) -> None:
        self._wire = wire
        self._lost.clear()
        self._expected.clear()
        for one in self._channels.values():
            self._ask(one)

    def _ended(self, error: BaseException | None) -> None:
        self._wire = None
        for one in self._channels.values():
            one.confirmed = False
        self._lost.set()

    async def _watch(self, wire: Wire) -> None:
        """Returns when the connection is lost, or silent although it was asked to answer (half open)."""
        asked = False
        while True:
            self._heard = False
            try:
                async with asyncio.timeout(self._health_seconds):
                    await self._lost.wait()
                return
            except TimeoutError:
                if self._heard:
                    asked = False
                elif asked:
                    return
                else:
                    asked = True
                    self._expected.append((b"pong", None))
                    wire.send(pack(b"PING"))

    def _reply(self, reply: Any) -> None:
        self._heard = True
        if type(reply) is list and reply[0] == b"smessage":
            one = self._channels.get(reply[1])
            if one is not None:
                for sink in one.sinks:
                    sink.message(reply[2])
        elif type(reply) is list and reply[0] == b"sunsubscribe":
            self._unsubscribed(reply[1])
        else:
            self._answered(reply)

    def _unsubscribed(self, name: bytes) -> None:
        head = self._expected[0] if self._expected else None
        if head is not None and head[0] == b"sunsubscribe" and head[1] is not None and head[1].name == name:
            self._expected.popleft()
            return
        one = self._channels.get(name)  # the slot has moved: nobody asked for this
        if one is not None:
            log.warning("channel_unsubscribed_by_server", channel=name.decode())
            self._ask(one)

    def _answered(self, reply: Any) -> None:
        """The reply to the oldest command: a confirmation, a pong (RESP2 has two shapes of it), or an error."""
        if not self._expected:
            log.error("channels_out_of_step", reply=repr(reply)[:200])
            if self._wire is not None:
                self._wire.close()
            self._ended(None)
            return
        kind, one = self._expected.popleft()
        if one is None or self._channels.get(one.name) is not one or kind != b"ssubscribe":
            return
        if isinstance(reply, hiredis.ReplyError):
            self._refused(one, reply)
        else:
            self._confirmed(one)

    def _confirmed(self, one: _Channel) -> None:
        one.confirmed = True
        waiting, one.waiting = one.waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
        if one.was_confirmed:
            metrics.resubscriptions_total.inc()
            for sink in one.sinks:
                sink.resubscribed()
        one.was_confirmed = True

    def _refused(self, one: _Channel, error: hiredis.ReplyError) -> None:
        waiting, one.waiting = one.waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(server_error(str(error), self._address.url))
        if one.was_confirmed:  # its sinks wait for it to come back
            log.warning("channel_refused", channel=one.name.decode(), error=str(error))
            asyncio.get_running_loop().call_later(BACKOFF_CAP_SECONDS, self._ask_again, one)

    def _ask_again(self, one: _Channel) -> None:
        if self._channels.get(one.name) is one and not one.confirmed:
            self._ask(one)
