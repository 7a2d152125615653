"""A real Valkey whose clock can be moved while it runs, by Debian's libfaketime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.servers import Daemon

__all__ = ["ClockedDaemon", "faketime_library"]

_PLACES: Final = ("/usr/lib", "/usr/local/lib")


def faketime_library() -> Path:
    """Skips visibly where it is absent: the package is libfaketime."""
    for place in _PLACES:
        for found in (*Path(place).glob("faketime/libfaketime.so.1"), *Path(place).glob("*/faketime/libfaketime.so.1")):
            return found
    pytest.skip("libfaketime is not installed")


class ClockedDaemon(Daemon):
    """Its wall clock moves. A read that blocks as the clock goes back may block for as long: clients need a time limit.

    Redis of Debian does not start under libfaketime.
    """

    def __init__(self, folder: Path, extra: Sequence[str] = ()) -> None:
        super().__init__("valkey", folder, extra)
        self._clock = folder / "clock"
        self.move(0)
        variables = {
            "LD_PRELOAD": str(faketime_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",  # looks at the file each time, else only every 10 s
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self._command = ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()), *self._command]

    def move(self, seconds: int) -> None:
        """From now on its clock is so far ahead of this machine's, or behind it."""
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        os.replace(fresh, self._clock)
