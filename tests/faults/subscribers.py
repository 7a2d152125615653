"""Subscribers that behave badly: they cut, stall without reading, and return with their last ID, at any gateway."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing

from processor.client.tailrace import Tailrace
from processor.core.errors import RunNotFound, ServerError
from processor.core.events import GAP
from tests.faults.oracle import Record
from tests.faults.sse import Connection, Frame, Malformed, connect

__all__ = ["LibrarySubscriber", "SseSubscriber", "Subscriber"]

PAUSE = 0.1  # before another try
SILENCE = 8.0  # seconds without a byte although heartbeats are asked for each second
MEAN_LIFE = 2.0  # of a connection until it is cut


class Subscriber:
    """Follows one run until it has ended; what it holds is in `record`. calm: nothing is cut any more."""

    def __init__(self, name: str, run: str, rng: random.Random, *, after: str = "0") -> None:
        self.record = Record(name, run, after)
        self.rng = rng
        self.tally: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.calm = False
        self.ended = False

    async def follow(self) -> None:
        """Returns at the run's end."""
        while not self.ended:
            life = None if self.calm else self.rng.expovariate(1 / MEAN_LIFE)
            self.tally["connections"] += 1
            try:
                async with asyncio.timeout(life):
                    await self._once()
            except TimeoutError:
                self.tally["cut"] += 1
            except (OSError, ServerError) as error:
                self.tally[f"broken ({type(error).__name__})"] += 1
                await asyncio.sleep(PAUSE)
            except Malformed as error:
                self._complain(str(error))
                await asyncio.sleep(PAUSE)

    def _complain(self, what: str) -> None:
        self.complaints.append(
            f"subscriber {self.record.name} of run {self.record.run}, at {self.record.cursor}: {what}"
        )

    async def _stall(self) -> None:
        """Sometimes reads nothing for a while."""
        if not self.calm and self.rng.random() < 0.003:
            self.tally["stalled"] += 1
            await asyncio.sleep(self.rng.uniform(0.2, 2))

    async def _once(self) -> None:
        raise NotImplementedError


class SseSubscriber(Subscriber):
    def __init__(
        self, name: str, run: str, rng: random.Random, ports: Sequence[int], *, after: str = "0", namespace: str
    ) -> None:
        super().__init__(name, run, rng, after=after)
        self._ports = ports
        self._path = f"/api/{namespace}/runs/{run}/events"

    async def _once(self) -> None:
        """One connection. Raises OSError where it broke."""
        cursor = self.record.cursor
        path, headers = self._path, {"accept": "text/event-stream"}
        if self.rng.random() < 0.7 and cursor != "0":
            headers["last-event-id"] = cursor
        elif cursor != "0" or self.rng.random() < 0.5:
            path += f"?after={cursor}"
        async with connect(self.rng.choice(self._ports), path, headers) as connection:
            async with asyncio.timeout(SILENCE):
                status = await connection.head()
            if status == 200:
                await self._read(connection, cursor)
            elif status == 204:
                self.ended = True
                self.tally["204"] += 1
            elif status in (404, 503) or (status == 400 and "after=" in path):
                self.tally[f"answered {status}"] += 1
                await asyncio.sleep(PAUSE)
            else:
                raise Malformed(f"answered {status} to the cursor {cursor}")

    async def _read(self, connection: Connection, cursor: str) -> None:
        said: list[str] = []
        async with aclosing(connection.frames()) as frames:
            while True:
                try:
                    async with asyncio.timeout(SILENCE):
                        frame = await anext(frames)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    self.tally["silent"] += 1
                    return
                if frame.event is None:
                    self._take(frame, said)
                    await self._stall()
                else:
                    self._control(frame, said, cursor)
        if connection.whole != ("tailrace.end" in said):
            raise Malformed(f"the last chunk came {'without' if connection.whole else 'not behind'} tailrace.end")
        if connection.whole:
            self.ended = True
        else:
            self.tally["broken off"] += 1
            await asyncio.sleep(PAUSE)

    def _take(self, frame: Frame, said: list[str]) -> None:
        assert frame.id is not None
        if not said:
            raise Malformed("an event before tailrace.open")
        if not frame.data.startswith(b'{"id":"%b","run":"%b",' % (frame.id.encode(), self.record.run.encode())):
            raise Malformed(f"the frame {frame.id} holds {frame.data[:100]!r}")
        self.record.take(frame.id, frame.data)

    def _control(self, frame: Frame, said: list[str], cursor: str) -> None:
        name, data = frame.event or "", json.loads(frame.data)
        if (name == "tailrace.open") != (not said) or "tailrace.end" in said:
            raise Malformed(f"{name} behind {said}")
        if name == "tailrace.open" and (data["cursor"] != cursor or frame.retry is None):
            raise Malformed(f"opened at {data} for the cursor {cursor}")
        if name == "tailrace.gap":
            self.tally[f"gap {data['reason']}"] += 1
            self.record.tell(data["from"], data["to"], data["reason"])
        told = name in ("tailrace.caught_up", "tailrace.end")
        if told and (name in said or data["cursor"] not in (self.record.cursor, "0")):
            raise Malformed(f"{name} {data} at {self.record.cursor}, behind {said}")
        said.append(name)


class LibrarySubscriber(Subscriber):
    """By Run.follow, which reconnects by itself; it is left and begun again all the same."""

    def __init__(self, name: str, run: str, rng: random.Random, tail: Tailrace) -> None:
        super().__init__(name, run, rng)
        self._tail = tail

    async def _once(self) -> None:
        cursor = self.record.cursor
        try:
            async for event in self._tail.run(self.record.run).follow(after=cursor):
                if event.type == GAP:
                    self.tally[f"gap {event.data['reason']}"] += 1
                    self.record.tell(event.data["from"], event.data["to"], event.data["reason"])
                else:
                    self.record.take(event.id, event.raw)
                    await self._stall()
        except RunNotFound:
            await asyncio.sleep(PAUSE)
        else:
            self.ended = True
