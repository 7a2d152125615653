"""Random sequences of everything that can happen to a partition, through the scripts and through a small model of them.

On a failure hypothesis prints the shortest sequence that it found and how to run it again. TAILRACE_TEST_EXAMPLES sets how many
sequences are tried on each server.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.processor.store.stage import Stage
from tests.processor.store.steps import RUNS, STEPS, Steps
from tests.support.servers import TestServer

EXAMPLES = {"valkey": 80, "redis7": 60, "fake": 8}
sequences = st.lists(st.sampled_from(STEPS), min_size=50, max_size=50)  # lists of free length come out short


def _check(server: TestServer, examples: int) -> None:
    count = itertools.count(1)

    @settings(
        max_examples=examples, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
    )
    @given(sequences, st.data())
    def sequence(steps: list[Callable[[Steps], None]], data: st.DataObject) -> None:
        stage = Stage(server, f"m{next(count)}", RUNS)
        try:
            doing = Steps(stage, data)
            for step in steps:
                if step is not Steps.nothing:
                    note(step.__name__)
                step(doing)
        finally:
            stage.close()

    sequence()


@pytest.mark.timeout(300)
def test_scripts_do_what_the_model_does(every_server: TestServer) -> None:
    """Outcomes, hash, feed, log, work, index, owners, deadlines and messages are the model's after every step."""
    _check(every_server, int(os.environ.get("TAILRACE_TEST_EXAMPLES", EXAMPLES[every_server.kind])))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_scripts_do_what_the_model_does_for_long(every_server: TestServer) -> None:
    """The same with many more sequences."""
    _check(every_server, 20 * EXAMPLES[every_server.kind])
