"""Random sequences of what happens to executions, with claims and promotions, against a small model of them.

Each sequence has a seed, which is printed where it fails: TAILRACE_TEST_SEED=<seed> runs it alone. TAILRACE_TEST_EXAMPLES sets
how many are tried on each server.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from processor.store import claims as claims_module
from tests.processor.store.recovering import COUNT, Recovering
from tests.processor.store.scene import Scene
from tests.support.servers import TestServer

EXAMPLES = {"valkey": 40, "redis7": 30, "fake": 6}
LENGTH = 60
WEIGHTS: dict[Callable[[Recovering], object], int] = {
    Recovering.queue: 5,
    Recovering.queue_late: 2,
    Recovering.read: 5,
    Recovering.begin: 4,
    Recovering.finish: 2,
    Recovering.retry: 3,
    Recovering.cancel: 1,
    Recovering.time_passes: 5,
    Recovering.renew: 2,
    Recovering.lose_a_body: 1,
    Recovering.look: 8,
    Recovering.look_sent_twice: 2,
    Recovering.look_at_own: 2,
    Recovering.promote: 3,
    Recovering.promote_sent_twice: 1,
    Recovering.forget: 3,
}


def _check(server: TestServer, seeds: list[int]) -> None:
    for seed in seeds:
        print(f"TAILRACE_TEST_SEED={seed}")
        rng = random.Random(seed)
        scene = Scene(server, f"r{seed}")
        try:
            doing = Recovering(scene, rng)
            for step in rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=LENGTH):
                print(f"  {step.__name__}")
                step(doing)
                doing.compare()
            doing.drain()
        finally:
            scene.close()


def _seeds(count: int) -> list[int]:
    given = os.environ.get("TAILRACE_TEST_SEED")
    if given:
        return [int(given)]
    if os.environ.get("CI"):  # what lands must not depend on the draw of the day
        return list(range(count))
    return [random.SystemRandom().randrange(10**9) for _ in range(count)]


@pytest.fixture(autouse=True)
def _short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "COUNT", COUNT)


@pytest.mark.timeout(300)
def test_nothing_is_lost_or_doubled(every_server: TestServer) -> None:
    """Each step does what the model does, and when all workers but one are gone, everything that was queued ends once."""
    _check(every_server, _seeds(int(os.environ.get("TAILRACE_TEST_EXAMPLES", EXAMPLES[every_server.kind]))))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_is_lost_or_doubled_for_long(every_server: TestServer) -> None:
    """The same with many more sequences."""
    _check(every_server, _seeds(20 * EXAMPLES[every_server.kind]))
