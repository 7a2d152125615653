"""One partition with executions in every place: work streams, pending lists, `delayed`; what a worker does is done by hand.

The scripts' clock is ours on every server (Stage's trick); idle times are the server's and are set by XCLAIM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from redis.asyncio import Redis

from processor.core.events import draft
from processor.core.keys import Keyspace
from processor.store.claims import Claims
from processor.store.executing import GROUP, Taken
from processor.store.scripts import Batch
from tests.processor.store.stage import CLOCK, LAYOUT, LIMITS, Clocked
from tests.support.servers import TestServer

__all__ = ["VISIBILITY_MS", "Scene"]

VISIBILITY_MS = 30_000
T = TypeVar("T")


class Scene:
    """Stands in for a session. Close it. `now` is the scripts' time in ms and may be set."""

    def __init__(self, server: TestServer, namespace: str, layout: str = LAYOUT) -> None:
        self.server = server
        self.client = cast("Any", server.client())  # redis-py's own types are unions that nobody wants to narrow
        self.keys = Keyspace(namespace, layout)
        self.part = self.keys.partitions[0]
        self.now = 1_700_000_000_000
        self._told = 0  # what the scripts take for the time
        self._runner = asyncio.Runner()
        self.redis = Redis.from_url(server.url, protocol=2)
        self.scripts = Clocked(self.redis, replace(LIMITS, work=100_000), shebang=server.kind != "fake")
        for part in self.keys.partitions:
            self.client.hset(part.meta, "layout", layout)

    def close(self) -> None:
        for part in self.keys.partitions:
            keys = self.client.keys(part.prefix + "*")
            if keys:
                self.client.delete(*keys)
        self.client.delete(CLOCK)
        self.client.close()
        self._runner.run(self.redis.aclose())
        self._runner.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        if self._told != self.now:
            self.client.set(CLOCK, self.now)
            self._told = self.now
        return self._runner.run(call)

    # -- what producers do

    def queue(self, run: str, task: str = "build", *, delay_ms: int = 0) -> None:
        """Starts a run."""
        event = draft("run.queued", b'{"n":"\\n"}', task=task, start="s", delay_ms=delay_ms)
        word, found = self.run(
            self.scripts.append(self.keys.of(run), self.keys.layout, [Batch(run, "p:one", 0, 1, [event])])
        )
        assert (word, [text.split(" ")[0] for text in found[0]]) == ("ok", ["appended"]), found

    def cancel(self, run: str) -> None:
        self.run(self.scripts.cancel(self.keys.of(run), run, b'"enough"'))

    # -- what workers do

    def group(self, task: str = "build") -> str:
        """The work stream of the first partition, with its group. Returns its key."""
        work = self.part.work(task)
        if not self.client.exists(work) or not self.client.xinfo_groups(work):
            self.client.xgroup_create(work, GROUP, id="0", mkstream=True)
        return work

    def read(self, consumer: str, count: int = 100, task: str = "build") -> list[str]:
        """Entries that the consumer is given."""
        reply = self.client.xreadgroup(GROUP, consumer, {self.group(task): ">"}, count=count)
        return [id.decode() for _, entries in reply for id, _ in entries]

    def join(self, consumer: str) -> None:
        """A consumer that has nothing pending."""
        self.client.xgroup_createconsumer(self.group(), GROUP, consumer)

    def given(self, consumer: str, *runs: str) -> list[str]:
        """Starts these runs; the consumer is given them. Returns their entry IDs."""
        for run in runs:
            self.queue(run)
        return self.read(consumer, len(runs))

    def begin(self, run: str, exec: str, tries: int) -> None:
        """What start.lua changes, as far as a claim looks at it."""
        self.client.hset(self.part.run(run), mapping={"status": "running", "exec": exec, "tries": tries})

    def settle(self, entry: str, task: str = "build") -> None:
        """Acknowledges and deletes, as every settle does."""
        self.client.xack(self.part.work(task), GROUP, entry)
        self.client.xdel(self.part.work(task), entry)

    def pending(self, task: str = "build") -> dict[str, tuple[str, int, int]]:
        """Entry → consumer, idle ms, deliveries."""
        rows = self.client.xpending_range(self.part.work(task), GROUP, "-", "+", 10_000)
        return {
            row["message_id"].decode(): (row["consumer"].decode(), row["time_since_delivered"], row["times_delivered"])
            for row in rows
        }

    def owners(self, task: str = "build") -> dict[str, str]:
        """Entry → consumer."""
        return {entry: consumer for entry, (consumer, *_) in self.pending(task).items()}

    def let_idle(self, entry: str, ms: int = VISIBILITY_MS + 5_000, task: str = "build") -> None:
        """Its consumer was silent about it so long."""
        owner, _, _ = self.pending(task)[entry]
        self.client.xclaim(self.part.work(task), GROUP, owner, 0, [entry], idle=ms, justid=True)

    # -- recovery

    def claims(self, consumer: str = "me") -> Claims:
        return Claims(self, consumer, idle_ms=VISIBILITY_MS)

    def look(self, claims: Claims, tasks: Sequence[str] = ("build",), room: int = 100) -> list[Taken]:
        """One look, with room for so many."""
        found: list[Taken] = []
        self.run(claims.look(tasks, lambda task: room - len(found), found.extend))
        return found

    def settled_look(self, claims: Claims, tasks: Sequence[str] = ("build",), room: int = 100) -> list[Taken]:
        """One look in a partition that workers have looked at for long."""
        self.client.hset(self.part.meta, mapping={"claimed": self.now, "claims_quiet": self.now - VISIBILITY_MS})
        return self.look(claims, tasks, room)
