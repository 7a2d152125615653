"""Claims on a real server whose own clock jumps: idle times are what it makes of them."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from processor.store.claims import Claims
from processor.store.executing import GROUP, Taken
from processor.store.scripts import Scripts
from tests.processor.store.scene import Scene
from tests.processor.store.stage import LIMITS
from tests.support.faketime import ClockedDaemon
from tests.support.servers import TestServer
from tests.support.until import wait_until

VISIBILITY_MS = 600
HOUR = 3_600


@pytest.fixture
def daemon() -> Iterator[ClockedDaemon]:
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        daemon = ClockedDaemon(Path(folder))
        daemon.start()
        yield daemon
        daemon.kill(signal.SIGTERM)


@pytest.fixture
def scene(daemon: ClockedDaemon, namespace: str) -> Iterator[Scene]:
    """With the scripts as they are: time is the server's."""
    scene = Scene(TestServer("valkey", daemon.url), namespace)
    scene.scripts = Scripts(scene.redis, LIMITS, shebang=True)  # type: ignore[assignment]
    yield scene
    scene.close()


class Fleet:
    """A worker that lives and renews, and one that looks for idle entries, at once and again and again."""

    def __init__(self, scene: Scene, alive: str) -> None:
        self._scene = scene
        self._alive = alive
        self._claims = Claims(scene, "me", idle_ms=VISIBILITY_MS)

    def _renew(self) -> None:
        work = self._scene.part.work("build")
        self._scene.client.xclaim(work, GROUP, "alive", 0, [self._alive], idle=0, justid=True)

    def look(self) -> list[Taken]:
        self._renew()
        return self._scene.look(self._claims)

    def passed_ms(self) -> int:
        """Since the last jump or silence, by the server's clock."""
        seconds, micros = self._scene.client.time()
        quiet = int(self._scene.client.hget(self._scene.part.meta, "claims_quiet"))
        return int(seconds * 1000 + micros // 1000) - quiet


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_jump_of_the_servers_clock(daemon: ClockedDaemon, scene: Scene, jump: int) -> None:
    """Nothing is claimed for one visibility timeout; then what a dead consumer holds is, and nothing of one that lives."""
    dead, alive = [scene.given(name, run)[0] for name, run in (("gone", "a"), ("alive", "b"))]
    fleet = Fleet(scene, alive)
    assert fleet.look() == []
    daemon.move(jump)
    assert scene.look(Claims(scene, "me", idle_ms=VISIBILITY_MS)) == []  # before anybody could renew
    found: list[Taken] = []

    def claimed() -> bool:
        early = fleet.passed_ms() < VISIBILITY_MS - 100
        found.extend(fleet.look())
        assert not (early and found)
        return bool(found)

    wait_until(claimed, "the dead consumer's entry is claimed", deadline=10)
    assert [taken.entry for taken in found] == [dead]
    assert scene.owners() == {dead: "me", alive: "alive"}
