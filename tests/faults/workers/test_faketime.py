"""The server's clock goes where it is moved, at once, and nothing else of it does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.faketime import ClockedDaemon
from tests.support.until import wait_until

HOUR = 3600


@pytest.fixture
def daemon() -> Iterator[ClockedDaemon]:
    with tempfile.TemporaryDirectory(prefix="tailrace-clock-") as folder:
        daemon = ClockedDaemon(Path(folder))
        daemon.start()
        yield daemon
        daemon.kill()


def test_clock_moves_both_ways(daemon: ClockedDaemon) -> None:
    """TIME follows within a command, ahead and back, and idle times of pending entries with it."""
    with redis.Redis.from_url(daemon.url, protocol=2) as client:
        client.xgroup_create("s", "g", id="0", mkstream=True)
        client.xadd("s", {"a": 1})
        client.xreadgroup("g", "c", {"s": ">"})
        for hours in (0, 1, 0, -1, 0):
            daemon.move(hours * HOUR)
            wait_until(
                lambda hours=hours: abs(client.time()[0] - time.time() - hours * HOUR) < 2,  # type: ignore[misc]
                f"the clock is {hours} h ahead",
            )
            idle = client.xpending_range("s", "g", "-", "+", 1)[0]["time_since_delivered"]
            assert (idle > HOUR * 900) == (hours == 1)
