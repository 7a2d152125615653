"""Producers as processes of their own: python -m tests.faults.producers '{"kind": …}'.

Each event bears a mark, `mark:<producer>/<number>;`, and what the producer was told of it goes into its journal, one JSON
object a line, before anything else happens: the process may be killed at any time. SIGUSR1 ends the run and the process.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.errors import ServerError, TailraceError
from processor.core.settings import Settings
from processor.store.writer import Sent
from tests.faults.oracle import Accepted

__all__ = ["Order", "accepted_in"]

ANSWER_SECONDS = 3.0  # shorter than the gateway's own patience, so that some outcomes stay unknown
PAUSE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a producer shall do."""

    kind: str  # numbered anonymous task block source
    name: str
    run: str
    seed: str
    journal: str
    url: str
    namespace: str
    ports: tuple[int, ...] = ()
    pause: float = 0.05  # seconds between two batches
    padding: int = 0  # bytes in each event
    owner_seconds: float = 30.0
    ends: bool = True  # its run, when told to stop

    def text(self) -> str:
        return json.dumps(asdict(self))


def accepted_in(order: Order) -> list[Accepted]:
    """What the producer was told, from its journal."""
    path = Path(order.journal)
    lines = path.read_text().splitlines() if path.exists() else []
    return [Accepted(order.name, said["n"], said["id"]) for said in map(json.loads, lines)]


class Journal:
    def __init__(self, path: str) -> None:
        self._file: IO[str] = open(path, "a", buffering=1)  # noqa: SIM115 - as long as the process

    def accepted(self, number: int, id: str | None) -> None:
        self._file.write(f'{{"n":{number},"id":{json.dumps(id)}}}\n')


class Stop:
    """Set by SIGUSR1: SIGTERM is the library's to hear."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGUSR1, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True


class HttpProducer:
    """Bodies of several events, sent again after every doubt where they bear numbers."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.rng = random.Random(order.seed)
        self.journal = Journal(order.journal)
        self.stop = Stop()
        self.numbered = order.kind == "numbered"
        self.sent: list[bytes] = []  # all events so far: number n is at n - 1
        self._connection: http.client.HTTPConnection | None = None

    def event(self) -> bytes:
        number = len(self.sent) + 1
        text = f"mark:{self.order.name}/{number}; {'x' * self.order.padding}"
        event = self.rng.choice(
            [
                {"type": "message.delta", "data": {"text": text}},
                {"type": "log", "data": {"level": "info", "lines": [text]}},
                {"type": "shop.order", "labels": {"a": "b"}, "data": {"text": text, "price": 1e3, "é": "\u2028\0"}},
            ]
        )
        encoded = json.dumps(event, ensure_ascii=self.rng.random() < 0.5).encode()
        self.sent.append(encoded)
        return encoded

    def work(self) -> None:
        while not self.stop.asked:
            first = len(self.sent) + 1
            for _ in range(self.rng.randint(1, 12)):
                self.event()
            self.deliver(first)
            time.sleep(self.rng.uniform(0, 2 * self.order.pause))
        if self.order.ends:
            first = len(self.sent) + 1
            self.sent.append(
                b'{"type":"run.finished","data":{"result":"mark:%b/%d;"}}' % (self.order.name.encode(), first)
            )
            self.deliver(first)

    def deliver(self, first: int) -> None:
        """Until it is known to be there; anonymous bodies of unknown outcome are given up."""
        last = len(self.sent)
        while True:
            if self.numbered and self.rng.random() < 0.03:
                self.leave(first)
            status, said = self.post(first)
            if status == 200:
                for number, result in enumerate(said["results"], first):
                    self.journal.accepted(number, result["id"])
                if not self.numbered or self.rng.random() > 0.05:
                    return
                continue  # once more: all are duplicates
            if status == 409 and said["type"] == "hole" and self.numbered:
                first = said["stored"] + 1  # the server lost what it had accepted: it gets it again
                assert first <= last, f"hole {said} for {last}"
            elif status not in (0, 503):
                raise SystemExit(f"answered {status}: {said}")
            elif not self.numbered and not (status == 503 and said["type"] == "draining"):
                return
            time.sleep(PAUSE)

    def request(self, first: int) -> tuple[bytes, dict[str, str]]:
        events = self.sent[first - 1 : first - 1 + 250]
        headers = {"content-type": "application/x-ndjson"}
        body = b"\n".join(events)
        if self.rng.random() < 0.5:
            headers["content-type"] = "application/json"
            body = events[0] if len(events) == 1 else b"[" + b", ".join(events) + b"]"
        if self.numbered:
            headers |= {"tailrace-producer": self.order.name, "tailrace-number": str(first)}
        return body, headers

    @property
    def path(self) -> str:
        return f"/api/{self.order.namespace}/runs/{self.order.run}/events"

    def post(self, first: int) -> tuple[int, dict[str, Any]]:
        """Status and answer; 0 where the outcome is unknown."""
        body, headers = self.request(first)
        connection, self._connection = self._connection, None
        if connection is None or self.rng.random() < 0.1:
            connection = http.client.HTTPConnection(
                "127.0.0.1", self.rng.choice(self.order.ports), timeout=ANSWER_SECONDS
            )
        try:
            connection.request("POST", self.path, body, headers)
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return 0, {}
        self._connection = connection
        return answer.status, json.loads(said)

    def leave(self, first: int) -> None:
        """Sends it and goes away before the answer."""
        body, headers = self.request(first)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        text = f"POST {self.path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{head}\r\n".encode() + body
        try:
            with socket.create_connection(("127.0.0.1", self.rng.choice(self.order.ports)), ANSWER_SECONDS) as sock:
                sock.sendall(text[: self.rng.randint(1, len(text))] if self.rng.random() < 0.3 else text)
        except OSError:
            pass  # no gateway there at this moment: the same as a request that never arrived


class LibraryProducer:
    """Writes by a Run: calls that send, some of them awaited."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.rng = random.Random(order.seed)
        self.journal = Journal(order.journal)
        self.stop = Stop()
        self.number = 0
        self.open: deque[tuple[int, Sent]] = deque()
        settings = Settings(redis_url=order.url, namespace=order.namespace, owner_seconds=order.owner_seconds)
        self.tail = Tailrace(settings=settings)

    def mark(self) -> str:
        self.number += 1
        return f"mark:{self.order.name}/{self.number}; {'x' * self.order.padding}"

    def one(self, run: Run[Any]) -> None:
        text = self.mark()
        write: Callable[[], Sent] = self.rng.choice(
            [
                lambda: run.write(text),
                lambda: run.write(text),
                lambda: run.log(text, level="debug"),
                lambda: run.emit("shop.order", {"text": text}),
                lambda: run.set(progress=text),
            ]
        )
        self.open.append((self.number, write()))

    def settle(self) -> None:
        """Journals what is known by now."""
        while self.open and self.open[0][1].outcome is not None:
            number, sent = self.open.popleft()
            assert sent.outcome is not None
            if not sent.outcome.accepted:
                raise SystemExit(f"event {number}: {sent.outcome}")
            self.journal.accepted(number, sent.outcome.id)

    async def write(self, run: Run[Any]) -> None:
        while not self.stop.asked:
            for _ in range(self.rng.randint(1, 12)):
                self.one(run)
            if self.rng.random() < 0.3 or len(self.open) > 500:
                await self.wait()
            self.settle()
            await asyncio.sleep(self.rng.uniform(0, 2 * self.order.pause))
        await self.wait()
        self.settle()

    async def wait(self) -> None:
        """For the last event written, however long the server is away."""
        while self.open and self.open[-1][1].outcome is None:
            try:
                await self.open[-1][1]
            except ServerError:
                await asyncio.sleep(PAUSE)

    async def work(self) -> None:
        await self.opened()
        if self.order.kind == "task":
            run = await self.tail.task(name="answer")(self.answer).options(id=self.order.run).start_here()
            await self.ended(run)
        elif self.order.kind == "block":
            async with self.tail.run(self.order.run) as run:
                await self.write(run)
        else:
            run = self.tail.run(self.order.run)
            await self.write(run)
            if self.order.ends:
                self.number += 1
                self.open.append(
                    (self.number, run.emit("run.finished", {"result": f"mark:{self.order.name}/{self.number};"}))
                )
                await self.wait()
                self.settle()
        await self.tail.close()

    async def opened(self) -> None:
        while True:
            try:
                await self.tail.session()
            except ServerError:
                await asyncio.sleep(PAUSE)
            else:
                return

    async def answer(self, run: Run[Any]) -> str:
        async with run.step("think"), run.tool("look", {"at": 1}):
            await self.write(run)
        return "done"

    async def ended(self, run: Run[Any]) -> None:
        while True:
            try:
                await run.result()
            except ServerError:
                await asyncio.sleep(PAUSE)
            else:
                return


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    try:
        if order.kind in ("numbered", "anonymous"):
            HttpProducer(order).work()
        else:
            asyncio.run(LibraryProducer(order).work())
    except TailraceError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
