"""A small model of recovery beside a Scene: each step is done to both, and everything is compared behind it.

Everything random comes from one `random.Random`, so a seed tells the whole sequence.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from processor.store.claims import Claims, forget_consumers, own
from processor.store.delayed import promote
from processor.store.executing import GROUP, Taken
from tests.processor.store.scene import Scene

__all__ = ["COUNT", "IDLE_MS", "Recovering"]

T = TypeVar("T")

IDLE_MS: Final = 30_500  # times are whole seconds, and the server's few ms do not matter
COUNT: Final = 4  # of claims' pages here, so that lists are longer than one
TASKS: Final = ("build", "check")
CONSUMERS: Final = ("one", "two", "three")
TIMES: Final = (1_000, 1_000, 5_000, 5_000, 10_000, 15_000, 16_000, 31_000, 3_600_000, -3_600_000)
TERMINAL: Final = ("succeeded", "cancelled")


@dataclass
class ModelRun:
    task: str
    status: str = "queued"
    exec: str = ""
    tries: int = 0
    attempt: int = 0
    ends: int = 0
    lost: bool = False  # its body was deleted


@dataclass
class Held:
    """A pending entry."""

    consumer: str
    idle_ms: int = 0


@dataclass
class Stream:
    bodies: dict[str, str] = field(default_factory=dict)  # entry → run
    unread: list[str] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)


def _order(entry: str) -> tuple[int, int]:
    ms, _, number = entry.partition("-")
    return int(ms), int(number)


class Recovering:
    """Every public method without arguments is a step."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self.scene = scene
        self.rng = rng
        self.runs: dict[str, ModelRun] = {}
        self.streams = {task: Stream() for task in TASKS}
        self.delayed: dict[str, int] = {}  # run → due
        self.claimed: int | None = None
        self.quiet = 0
        self.after: dict[tuple[str, str], tuple[str, bool]] = {}  # consumer, task → entry, whether itself is included
        self.sweeps = {name: Claims(scene, name, idle_ms=IDLE_MS) for name in CONSUMERS}
        self._serial = itertools.count(1)
        for task in TASKS:
            scene.group(task)

    # -- producers

    def queue(self, *, delay_ms: int = 0) -> None:
        run, task = f"r{next(self._serial)}", self.rng.choice(TASKS)
        self.scene.queue(run, task, delay_ms=delay_ms)
        self.runs[run] = ModelRun(task)
        if delay_ms:
            self.delayed[run] = self.scene.now + delay_ms
        else:
            self._appended(run)

    def queue_late(self) -> None:
        self.queue(delay_ms=self.rng.choice((1_000, 20_000, 40_000)))

    def cancel(self) -> None:
        if run := self._any([name for name, run in self.runs.items() if run.status == "queued"]):
            self.scene.cancel(run)
            self.runs[run].status = "cancelled"
            self.delayed.pop(run, None)

    def _appended(self, run: str) -> None:
        """The stream's last entry is this run's."""
        task = self.runs[run].task
        [(entry, fields)] = self.scene.client.xrevrange(self.scene.part.work(task), count=1)
        assert fields[b"r"] == run.encode()
        self.streams[task].bodies[entry.decode()] = run
        self.streams[task].unread.append(entry.decode())

    # -- workers

    def read(self) -> None:
        task, consumer, count = self.rng.choice(TASKS), self.rng.choice(CONSUMERS), self.rng.randint(1, 6)
        stream = self.streams[task]
        given, stream.unread = stream.unread[:count], stream.unread[count:]
        assert self.scene.read(consumer, count, task) == given
        stream.held |= {entry: Held(consumer) for entry in given}

    def begin(self) -> None:
        """start, by whoever has the entry."""
        if found := self._any(self._held()):
            task, entry = found
            run = self.runs[self.streams[task].bodies[entry]]
            if run.status not in TERMINAL:
                run.attempt += 1
                run.tries += 1
                run.status, run.exec = "running", f"{run.attempt}-{next(self._serial)}"
                self.scene.begin(self.streams[task].bodies[entry], run.exec, run.tries)

    def finish(self) -> None:
        if found := self._any(self._held()):
            self._settled(*found, "succeeded")

    def retry(self) -> None:
        """The entry's body waits for its time."""
        if found := self._any(self._held()):
            task, entry = found
            name, due = self.streams[task].bodies[entry], self.scene.now + self.rng.choice((1_000, 30_000))
            part = self.scene.part
            fields = self.scene.client.xrange(part.work(task), entry, entry)[0][1]
            if self._settled(task, entry, "queued"):
                self.scene.client.hset(part.delayed_body, name, b"\n".join((fields[b"r"], fields[b"i"], fields[b"e"])))
                self.scene.client.zadd(part.delayed, {name: due})
                self.scene.client.hset(part.run(name), mapping={"exec": "", "due": due})
                self.delayed[name] = due
                self.runs[name].exec = ""

    def _settled(self, task: str, entry: str, status: str) -> bool:
        """Acknowledged and deleted. Whether the run had not ended before."""
        stream = self.streams[task]
        name = stream.bodies.pop(entry)
        del stream.held[entry]
        self.scene.settle(entry, task)
        run = self.runs[name]
        if run.status in TERMINAL:
            return False
        run.status = status
        run.ends += status in TERMINAL
        self.scene.client.hset(self.scene.part.run(name), "status", status)
        return True

    def _held(self) -> list[tuple[str, str]]:
        return [
            (task, entry) for task, stream in self.streams.items() for entry in stream.held if entry in stream.bodies
        ]

    # -- time, and what befalls entries

    def time_passes(self) -> None:
        self.pass_ms(self.rng.choice(TIMES))

    def pass_ms(self, ms: int) -> None:
        """A clock that jumps back makes all idle times 0; claim.lua sees to it that they do not stay so."""
        self.scene.now += ms
        for task, stream in self.streams.items():
            for entry, held in stream.held.items():
                if entry in stream.bodies:
                    held.idle_ms = held.idle_ms + ms if ms > 0 else 0
                    self._set_idle(task, entry, held)

    def renew(self) -> None:
        """A consumer renews what it holds."""
        consumer = self.rng.choice(CONSUMERS)
        for task, entry in self._held():
            held = self.streams[task].held[entry]
            if held.consumer == consumer:
                held.idle_ms = 0
                self._set_idle(task, entry, held)

    def _set_idle(self, task: str, entry: str, held: Held) -> None:
        work = self.scene.part.work(task)
        self.scene.client.xclaim(work, GROUP, held.consumer, 0, [entry], idle=held.idle_ms, justid=True)

    def lose_a_body(self) -> None:
        """Somebody deletes an entry. It is idle from now on, since XCLAIM, which sets the time, would drop it as well."""
        if found := self._any(self._held()):
            task, entry = found
            held = self.streams[task].held[entry]
            held.idle_ms = 7_200_000
            self._set_idle(task, entry, held)
            self.scene.client.xdel(self.scene.part.work(task), entry)
            name = self.streams[task].bodies.pop(entry)
            self.runs[name].lost = True

    # -- recovery

    def look(self) -> None:
        """One look of a worker, at one task: which of several comes first is drawn by the look itself."""
        self.look_as(self.rng.choice(CONSUMERS), self.rng.choice(TASKS), self.rng.choice((0, 1, 3, 100)))

    def look_sent_twice(self) -> None:
        """The answers of its calls are lost, and the client sends them again."""
        with _Twice(self.scene):
            self.look()

    def look_as(self, consumer: str, task: str, room: int) -> list[Taken]:
        found: list[Taken] = []
        call = self.sweeps[consumer].look([task], lambda _: room - len(found), found.extend)
        self.scene.run(call)
        assert [one.entry for one in found] == self._expect_look(consumer, task, room)
        self._check_taken(task, found)
        return found

    def _expect_look(self, consumer: str, task: str, room: int) -> list[str]:
        now = self.scene.now
        if self.claimed is None or self.claimed > now or now - self.claimed > IDLE_MS / 2:
            self.quiet = now
        self.claimed = now
        stream, place = self.streams[task], (consumer, task)
        if now - self.quiet < IDLE_MS:
            self.after.pop(place, None)
            return []
        others = any(held.consumer != consumer for held in stream.held.values())
        if room <= 0 or not others:
            return []
        page = self._page(stream, place)
        idle = [entry for entry in page if stream.held[entry].consumer != consumer]
        chosen, rest = idle[:room], idle[room:]
        if rest:
            self.after[place] = rest[0], True
        taken = []
        for entry in chosen:
            if entry in stream.bodies:
                stream.held[entry] = Held(consumer)
                taken.append(entry)
            else:
                del stream.held[entry]
        return taken

    def _page(self, stream: Stream, place: tuple[str, str]) -> list[str]:
        """Idle entries from where the sweep stands."""
        start, included = self.after.pop(place, ("0-0", True))
        found = [
            entry
            for entry in sorted(stream.held, key=_order)
            if (_order(entry) > _order(start) or (included and entry == start))
            and stream.held[entry].idle_ms >= IDLE_MS
        ][:COUNT]
        if len(found) == COUNT:
            self.after[place] = found[-1], False
        return found

    def look_at_own(self) -> None:
        """After a reconnect: a process knows some of what it holds."""
        task, consumer, count = self.rng.choice(TASKS), self.rng.choice(CONSUMERS), self.rng.choice((2, 100))
        stream = self.streams[task]
        mine = sorted((entry for entry, held in stream.held.items() if held.consumer == consumer), key=_order)
        known = set(self.rng.sample(mine, self.rng.randint(0, len(mine))))
        call = own(self.scene, self.scene.part, task, consumer, known=known.__contains__, count=count)
        found = self.scene.run(call)
        chosen = [entry for entry in mine if entry not in known][:count]
        assert [one.entry for one in found] == [entry for entry in chosen if entry in stream.bodies]
        for entry in chosen:
            if entry in stream.bodies:
                stream.held[entry].idle_ms = 0
            else:
                del stream.held[entry]
        self._check_taken(task, found)

    def _check_taken(self, task: str, found: Sequence[Taken]) -> None:
        for one in found:
            run = self.runs[self.streams[task].bodies[one.entry]]
            assert (one.task, one.run) == (task, self.streams[task].bodies[one.entry])
            assert (one.seen, one.tries) == (run.exec, run.tries), one

    def promote(self) -> None:
        limit = self.rng.choice((1, 2, 200))
        queued = self.scene.run(promote(self.scene, self.scene.part, limit))
        assert queued == self._expect_promoted(limit)

    def promote_sent_twice(self) -> None:
        with _Twice(self.scene):
            self.scene.run(promote(self.scene, self.scene.part))
        self._expect_promoted(200)

    def _expect_promoted(self, limit: int) -> int:
        due = sorted((at, run) for run, at in self.delayed.items() if at <= self.scene.now)[:limit]
        new = {task: [run for _, run in due if self.runs[run].task == task] for task in TASKS}
        for task, names in new.items():
            entries = self.scene.client.xrange(self.scene.part.work(task))
            for run, (entry, fields) in zip(names, entries[len(entries) - len(names) :], strict=True):
                assert fields[b"r"] == run.encode()
                self.streams[task].bodies[entry.decode()] = run
                self.streams[task].unread.append(entry.decode())
                del self.delayed[run]
        return len(due)

    def forget(self) -> None:
        """Every consumer that has nothing pending counts as silent here, but the one who looks."""
        task, me = self.rng.choice(TASKS), self.rng.choice(CONSUMERS)
        call = forget_consumers(self.scene, self.scene.part, task, me, idle_ms=IDLE_MS, silent_ms=1)
        deleted = set(self.scene.run(call))
        self._expect_look(me, task, 0)
        assert not deleted & ({held.consumer for held in self.streams[task].held.values()} | {me})
        assert not (deleted and self.scene.now - self.quiet < IDLE_MS)

    # -- comparison

    def compare(self) -> None:
        part, client = self.scene.part, self.scene.client
        for task, stream in self.streams.items():
            owners = {entry: held.consumer for entry, held in stream.held.items()}
            pending = self.scene.pending(task)
            assert {entry: consumer for entry, (consumer, _, _) in pending.items()} == owners
            assert {deliveries for _, _, deliveries in pending.values()} <= {1}, "a claim raised a count"
            entries = {id.decode(): fields[b"r"].decode() for id, fields in client.xrange(part.work(task))}
            assert entries == stream.bodies
            assert sorted(stream.unread, key=_order) == stream.unread
        waiting = {run.decode(): int(due) for run, due in client.zrange(part.delayed, 0, -1, withscores=True)}
        assert waiting == self.delayed
        assert {run.decode() for run in client.hkeys(part.delayed_body)} == self.delayed.keys()
        for name, run in self.runs.items():
            status, exec, due = client.hmget(part.run(name), "status", "exec", "due")
            assert (status.decode(), (exec or b"").decode()) == (run.status, run.exec), name
            if run.status not in TERMINAL:
                assert (due and int(due)) == self.delayed.get(name), name
        claimed = client.hget(part.meta, "claimed")
        assert (claimed and int(claimed)) == self.claimed

    def drain(self) -> None:
        """All workers but one are gone. Whatever was queued ends, once, and nothing is left anywhere."""
        for _ in range(200):
            streams = list(self.streams.values())
            if any(stream.held or stream.unread for stream in streams):
                self.pass_ms(10_000)
            elif self.delayed:  # a clock that jumped back makes what was due wait for that hour
                self.pass_ms(max(10_000, min(self.delayed.values()) - self.scene.now))
            else:
                break
            self.promote_sent_twice()
            for task in TASKS:
                self.look_as("one", task, 100)
                self._finish_all("one", task)
            self.compare()
        for name, run in self.runs.items():
            assert run.lost or (run.status in TERMINAL and run.ends == (run.status == "succeeded")), (name, run)
        assert not any(stream.bodies or stream.held for stream in self.streams.values())

    def _finish_all(self, consumer: str, task: str) -> None:
        """The consumer reads all that is there, and finishes all that it has."""
        stream = self.streams[task]
        given, stream.unread = stream.unread, []
        assert self.scene.read(consumer, 1000, task) == given
        stream.held |= {entry: Held(consumer) for entry in given}
        call = own(self.scene, self.scene.part, task, consumer, known=lambda _: False, count=1000)
        for taken in self.scene.run(call):
            self._settled(task, taken.entry, "succeeded")
        for entry in [entry for entry, held in stream.held.items() if held.consumer == consumer]:
            assert entry not in stream.bodies
            del stream.held[entry]

    def _any(self, choices: Sequence[T]) -> T | None:
        return self.rng.choice(choices) if choices else None


class _Twice:
    """Each call of a script is executed twice; the second one's answer counts."""

    def __init__(self, scene: Scene) -> None:
        self._scripts: Any = scene.scripts

    def __enter__(self) -> None:
        call: Callable[..., Any] = self._scripts.call

        async def again(*args: Any) -> Any:
            await call(*args)
            return await call(*args)

        self._scripts.call = again

    def __exit__(self, *_: object) -> None:
        del self._scripts.call
