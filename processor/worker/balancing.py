"""Balancing: a member of an ordered group tells that it lives, takes leases that nobody has, and gives away what is more than its
share. Sticky: nothing moves that need not; cooperative: calls that run may end first."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Protocol

import structlog

from processor.client.reaction import Group
from processor.client.session import Session
from processor.core.balance import ALIVE_MS, entitled, moves, quotas
from processor.core.errors import ServerError
from processor.store.connection import speaking_of
from processor.store.leases import Leases, Members, Taken, owners
from processor.worker.owned import Owned

__all__ = ["Balancing"]

log = structlog.get_logger("tailrace.reactions")
LOOK_SECONDS: Final = 1.0
SOON_SECONDS: Final = 0.2  # while it waits for what others are giving
GIVE_SECONDS: Final = 3.0  # for calls that run, when the partition goes to another member
LEAVE_SECONDS: Final = 2.0


class Reader(Protocol):
    """What has the partitions."""

    @property
    def owned(self) -> Mapping[int, Owned]: ...

    def is_ending(self, partition: int) -> bool:
        """Whether calls of it still run here."""

    def begin(self, partition: int, token: str, *, is_lost: bool, stopped: tuple[str, ...]) -> None:
        """Its lease was taken."""

    async def give(self, owned: Owned, seconds: float) -> bool:
        """Gives it back once its calls ended, so many seconds later at most."""


class Balancing:
    """Of one group in one worker. Belongs to one event loop."""

    def __init__(self, reader: Reader, session: Session, group: Group, member: str, leases: Leases) -> None:
        self._reader, self._session, self._group, self._member, self._leases = reader, session, group, member, leases
        self._handles = sorted(binding.text for binding in group.declared.bindings)
        self.bound: frozenset[str] = frozenset(self._handles)  # what all members bind
        self._giving: dict[int, asyncio.Task[bool]] = {}
        self._nonces: dict[int, str] = {}  # of takes without an answer
        self._look_at = 0.0
        self._has_left = False
        self._trouble = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Until stop is set."""
        while not stop.is_set():
            pause = LOOK_SECONDS
            try:
                pause = await self.look()
            except ServerError as error:
                if error.message != self._trouble:
                    log.warning("balance_waits", group=self._group.name, error=error.code, message=error.message)
                self._trouble = error.message
            else:
                self._trouble = ""
            with suppress(TimeoutError):
                async with asyncio.timeout(pause * (0.8 + 0.2 * random.random())):
                    await stop.wait()

    async def look_if_due(self, now: float) -> None:
        """now: seconds, by whatever clock the caller has. Raises ServerError."""
        if now >= self._look_at or now < self._look_at - LOOK_SECONDS:
            await self.look()
            self._look_at = now + LOOK_SECONDS

    async def look(self) -> float:
        """Tells, takes and gives. Returns after how many seconds to look again. Raises ServerError."""
        if self._has_left:
            return LOOK_SECONDS
        with speaking_of(self._session.server.address.url):
            members = await self._leases.tell(self._handles)
            held = await owners(self._session, self._group.name)
            return await self._move(members, held)

    async def _move(self, members: Members, held: list[tuple[str, int]]) -> float:
        names = entitled(members.all, members.now_ms, self.bound)
        quota = quotas(names, len(held)).get(self._member, 0)
        owned = self._reader.owned
        mine = {number: one.calls for number, one in owned.items()}
        free = self._in_turn(names, [n for n in range(len(held)) if n not in mine and self._is_free(n, held, members)])
        plan = moves(quota, mine, free, leaving=[*self._giving])
        for number in plan.give:
            self._give(owned[number])
        taken = 0
        for number in plan.take:
            taken += await self._take(number)
        lacking = quota - len(mine) - taken
        return self._pause(members, held) if lacking > 0 else LOOK_SECONDS

    def _is_free(self, number: int, held: list[tuple[str, int]], members: Members) -> bool:
        owner, until_ms = held[number]
        if self._reader.is_ending(number):
            return False
        return not owner or until_ms <= members.now_ms or (owner == self._member and number in self._nonces)

    def _in_turn(self, names: list[str], free: list[int]) -> list[int]:
        """Members begin at different places, so that they seldom try the same one."""
        if not free or self._member not in names:
            return free
        start = names.index(self._member) * len(free) // len(names)
        return free[start:] + free[:start]

    def _pause(self, members: Members, held: list[tuple[str, int]]) -> float:
        """Until others have given what is more than theirs, or the lease of a dead one has run out."""
        alive = {one.name for one in members.all if members.now_ms - one.seen < ALIVE_MS}
        if any(owner in alive and owner != self._member for owner, _ in held):
            return SOON_SECONDS
        ends = [until_ms - members.now_ms for owner, until_ms in held if owner and owner != self._member]
        return min([LOOK_SECONDS, *(max(end / 1000, 0.02) for end in ends)])

    async def _take(self, number: int) -> bool:
        """Raises redis-py's errors; a take without an answer is made again under the same nonce."""
        nonce = self._nonces.setdefault(number, secrets.token_hex(4))
        answer: Taken = await self._leases.take(self._session.keys.partitions[number], nonce)
        del self._nonces[number]
        if answer.word != "taken":
            return False
        log.info("lease_taken", group=self._group.name, partition=number, was="lost" if answer.is_lost else "given")
        self._reader.begin(number, answer.token, is_lost=answer.is_lost, stopped=tuple(answer.stopped))
        return True

    def _give(self, owned: Owned) -> None:
        log.info("lease_goes", group=self._group.name, partition=owned.number, running=owned.calls)
        task = asyncio.get_running_loop().create_task(self._reader.give(owned, GIVE_SECONDS), name="tailrace-give")
        self._giving[owned.number] = task
        task.add_done_callback(lambda _: self._giving.pop(owned.number, None))

    # The end.

    async def leave(self) -> None:
        """Others need not wait until it counts as dead."""
        self._has_left = True
        await asyncio.gather(*self._giving.values(), return_exceptions=True)
        try:
            with speaking_of(self._session.server.address.url):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._leases.leave()
        except (ServerError, TimeoutError) as error:
            log.info("leave_untold", group=self._group.name, error=str(error))

    async def crash(self) -> None:
        """Nothing is given any more."""
        self._has_left = True
        for task in [*self._giving.values()]:
            task.cancel()
        await asyncio.gather(*self._giving.values(), return_exceptions=True)
