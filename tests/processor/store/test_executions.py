"""Random sequences of what befalls executions in two partitions, through the scripts and through a model of them.

On a failure hypothesis prints the shortest sequence that it found and how to run it again. TAILRACE_TEST_EXAMPLES sets how many
sequences are tried on each server.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.processor.store.stage import Time
from tests.processor.store.stage_execution import ExecutionStage
from tests.processor.store.steps_execution import EXECUTION_STEPS, ExecutionSteps
from tests.processor.store.world_execution import World
from tests.support.servers import TestServer

EXAMPLES = {"valkey": 45, "redis7": 30, "fake": 5}
STEPS = 60
sequences = st.lists(
    st.tuples(st.sampled_from(EXECUTION_STEPS), st.sampled_from((1, 1, 0))), min_size=STEPS, max_size=STEPS
)


def _check(server: TestServer, examples: int) -> None:
    count = itertools.count(1)

    @settings(
        max_examples=examples,
        phases=(Phase.generate, Phase.shrink),  # to explain a failure takes minutes
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(sequences, st.data())
    def sequence(steps: list[tuple[Callable[[ExecutionSteps], None], int]], data: st.DataObject) -> None:
        time, namespace = Time(), f"x{next(count)}"
        world = World({number: ExecutionStage(server, namespace, number, time) for number in (0, 1)})
        try:
            doing = [ExecutionSteps(world, number, data) for number in (0, 1)]
            for step, partition in steps:
                if step is not ExecutionSteps.nothing:
                    note(f"{step.__name__} in {partition}")
                step(doing[partition])
            note("all goes on")
            world.finish()
        finally:
            for stage in world.stages.values():
                stage.close()

    sequence()


@pytest.mark.timeout(600)  # a failure is shortened for up to five minutes
def test_executions_do_what_the_model_does(every_server: TestServer) -> None:
    """Answers and all keys of both partitions are the model's after every step; a call sent again changes nothing."""
    _check(every_server, int(os.environ.get("TAILRACE_TEST_EXAMPLES", EXAMPLES[every_server.kind])))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_executions_do_what_the_model_does_for_long(every_server: TestServer) -> None:
    """The same with many more sequences."""
    _check(every_server, 20 * EXAMPLES[every_server.kind])
