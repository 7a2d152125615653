"""Many paths: what the command line named, and what its patterns find as time goes by."""

from __future__ import annotations

import asyncio
import glob
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from processor.core.errors import IllegalEvent, RunClosed, TailraceError
from processor.core.events import draft
from processor.core.json import dumps
from processor.ship.following import Follower, Options
from processor.ship.names import absolute, is_compressed, is_rotated, run_of

if TYPE_CHECKING:
    from processor.client.session import Session

__all__ = ["Shipper", "found"]

log = structlog.get_logger("tailrace.ship")
LOOK_SECONDS: Final = 1.0  # between two looks for files that match a pattern


def found(patterns: Sequence[str]) -> list[str]:
    """Absolute paths, each once: of names as they are, of patterns (`*`, `?`, `[…]`, `**`) what is there.

    What a pattern finds and is compressed, or another one's rotated file, is left out: that belongs to the other one's run.
    """
    named = [absolute(pattern) for pattern in patterns if not _is_pattern(pattern)]
    matched = [
        absolute(path)
        for pattern in patterns
        if _is_pattern(pattern)
        for path in sorted(glob.glob(pattern, recursive=True))
        if os.path.isfile(path) and not is_compressed(path)
    ]
    beside: dict[str, list[str]] = {}
    for path in {*named, *matched}:
        beside.setdefault(os.path.dirname(path), []).append(os.path.basename(path))
    alone = [
        path
        for path in matched
        if not any(is_rotated(os.path.basename(path), of) for of in beside[os.path.dirname(path)])
    ]
    return list(dict.fromkeys([*named, *alone]))


def _is_pattern(text: str) -> bool:
    """A shell hands over files that it found as they are called, brackets included."""
    return glob.has_magic(text) and not os.path.exists(text)


class Shipper:
    """Ships all of them side by side."""

    def __init__(
        self,
        session: Session,
        patterns: Sequence[str],
        options: Options,
        *,
        run: str | None = None,
        began: Callable[[Follower], None],
    ) -> None:
        """run: of all files; None: one for each. began: told of each path once."""
        self._session, self._patterns, self._options = session, patterns, options
        self._run, self._began = run, began
        self.followers: dict[str, Follower] = {}
        self.failed: list[TailraceError] = []  # files whose run takes no more

    async def run(self) -> None:
        """With `once` until everything is shipped, else for ever, or until no file's run takes anything any more."""
        async with asyncio.TaskGroup() as group:
            while True:
                for one in self._new():
                    group.create_task(self._follow(one))
                if self._options.once:
                    return
                if len(self.failed) == len(self.followers) and not self._has_patterns:
                    return
                await asyncio.sleep(LOOK_SECONDS)

    @property
    def _has_patterns(self) -> bool:
        return any(_is_pattern(pattern) for pattern in self._patterns)

    def _new(self) -> list[Follower]:
        """Of paths that were not there before."""
        new = []
        for path in found(self._patterns):
            if path not in self.followers:
                run = self._run or run_of(self._options.host, path)
                self.followers[path] = follower = Follower(self._session, path, run, self._options)
                new.append(follower)
                self._began(follower)
        return new

    async def _follow(self, follower: Follower) -> None:
        try:
            await follower.run()
        except TailraceError as error:
            self.failed.append(error)
            log.error("file_given_up", file=follower.path, run=follower.run_id, error=error.code, message=error.message)

    async def finish(self) -> list[str]:
        """Ends the runs of all files as succeeded; which. Raises what refuses it, but not that a run has ended already."""
        runs = sorted({one.run_id for one in self.followers.values()})
        ended = []
        for run in runs:
            shipped = sum(one.shipped for one in self.followers.values() if one.run_id == run)
            writer = self._session.producer.writer(run)
            try:
                await writer.put(draft("run.finished", b'{"result":%b}' % dumps({"bytes": shipped})))
            except (RunClosed, IllegalEvent) as error:  # by another shipper, or nothing was ever written to it
                log.warning("run_not_finished", run=run, message=error.message)
            else:
                ended.append(run)
        return ended
