"""Workers as others see them: what each told of itself, which of them live, and which have a task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Final

from processor.core.json import dumps, loads

__all__ = ["ALIVE_MS", "WorkerState", "Workers", "gone_too_long"]

ALIVE_MS: Final = 15_000  # it tells every 5 s: two may get lost
_GONE_MS: Final = 86_400_000  # a day later nobody asks any more which one was the last
_GONE_EACH: Final = 8  # of each set of tasks and groups: a worker that dies every second must not fill the list


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One process that executes tasks and runs reactions.

    Times in ms since 1970, by the server's clock; 0 before it told for the first time.
    """

    consumer: str  # `<host>-<pid>-<6 random characters>`
    host: str
    pid: int
    tasks: tuple[str, ...]  # that it takes
    groups: tuple[str, ...] = ()  # whose reactions it runs
    version: str  # of tailrace
    places: int = 0  # executions that it runs at a time
    running: int = 0  # how many of them it does
    since: int = 0
    seen: int = 0  # when it told last
    stopped: int | None = None  # when it said that it takes nothing more

    @property
    def name(self) -> str:
        """For eyes: host and process."""
        return f"{self.host}-{self.pid}"

    @property
    def last(self) -> int:
        """When it was there last."""
        return self.stopped if self.stopped is not None else self.seen

    def alive(self, now: int) -> bool:
        return self.stopped is None and now - self.seen < ALIVE_MS

    def json(self) -> bytes:
        """Members that have no value are left out."""
        members = {name: getattr(self, name) for name in _MEMBERS}
        return dumps({name: value for name, value in members.items() if value is not None})

    @classmethod
    def parse(cls, data: bytes) -> WorkerState | None:
        """None for what no release wrote. Members that a newer release added are left out."""
        try:
            said = loads(data)
            known = {name: said[name] for name in _MEMBERS if name in said}
            lists = {"tasks": tuple(known["tasks"]), "groups": tuple(known.get("groups", ()))}
            return cls(**{**known, **lists})
        except (ValueError, TypeError, KeyError):
            return None


_MEMBERS: Final = tuple(field.name for field in fields(WorkerState))


@dataclass(frozen=True, slots=True)
class Workers:
    """All that are known, and the server's time when they were read (ms)."""

    now: int
    all: tuple[WorkerState, ...] = ()

    @property
    def alive(self) -> list[WorkerState]:
        return [worker for worker in self.all if worker.alive(self.now)]

    def that_have(self, task: str) -> list[WorkerState]:
        """Those alive that take the task."""
        return [worker for worker in self.alive if task in worker.tasks]

    def last_that_had(self, task: str) -> WorkerState | None:
        """Of those gone, the one that was there last."""
        return self._last(worker for worker in self.all if task in worker.tasks)

    def members(self, group: str) -> list[WorkerState]:
        """Those alive that run the group's reactions."""
        return [worker for worker in self.alive if group in worker.groups]

    def last_member(self, group: str) -> WorkerState | None:
        """As last_that_had."""
        return self._last(worker for worker in self.all if group in worker.groups)

    def _last(self, workers: Iterable[WorkerState]) -> WorkerState | None:
        gone = (worker for worker in workers if not worker.alive(self.now))
        return max(gone, key=lambda worker: worker.last, default=None)


def gone_too_long(workers: Sequence[WorkerState], now: int) -> list[str]:
    """Consumer names to forget: a day after their end, and of each set of tasks and groups all but the last few that ended."""
    gone = sorted((worker for worker in workers if not worker.alive(now)), key=lambda worker: -worker.last)
    kept: dict[tuple[str, ...], int] = {}  # groups stand behind "": no task has that name
    forgotten = []
    for worker in gone:
        kind = (*sorted(worker.tasks), "", *sorted(worker.groups))
        kept[kind] = kept.get(kind, 0) + 1
        if now - worker.last > _GONE_MS or kept[kind] > _GONE_EACH:
            forgotten.append(worker.consumer)
    return forgotten
