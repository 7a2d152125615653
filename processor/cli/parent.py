"""What a process tells the one that keeps it: that it is ready, and which files it has imported."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from processor.cli.exits import NotLoaded
from processor.cli.loading import project_files
from processor.cli.reload import stamp

__all__ = ["TELL_VARIABLE", "Parent"]

TELL_VARIABLE: Final = (
    "TAILRACE_TELL_FD"  # of the pipe on which lines of JSON go: {"ready": true}, {"file": path, "stamp": text}
)
LOOK_SECONDS: Final = 1.0  # for modules that a function imported when it ran


class Parent:
    """The pipe to it; without one nothing is told."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._told: set[Path] = set()
        if fd is not None:
            os.set_inheritable(fd, False)  # it closes with us, not with what we start

    @classmethod
    def of_environment(cls) -> Parent:
        """Takes the variable away: it is not meant for what this process starts."""
        text = os.environ.pop(TELL_VARIABLE, "")
        return cls(int(text) if text.isdigit() else None)

    @property
    def is_there(self) -> bool:
        return self._fd is not None

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Tells which files the block imported, also where it fails."""
        try:
            yield
        except NotLoaded as error:
            self._files([*project_files(), *error.files])
            raise
        self._files(project_files())

    def ready(self) -> None:
        """From now on it takes work."""
        self._tell({"ready": True})

    async def keep_telling(self) -> None:
        """Tells of files that are imported later, until cancelled."""
        count = 0
        while self._fd is not None:
            if len(sys.modules) != count:
                count = len(sys.modules)
                self._files(project_files())
            await asyncio.sleep(LOOK_SECONDS)

    def _files(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if path not in self._told:
                self._told.add(path)
                self._tell(
                    {"file": str(path), "stamp": stamp(path)}
                )  # short lines: a pipe takes each whole or not at all

    def _tell(self, said: dict[str, object]) -> None:
        if self._fd is None:
            return
        with contextlib.suppress(BrokenPipeError):  # it died: its death signal says what to do
            os.write(self._fd, json.dumps(said).encode() + b"\n")
