"""What of the list has changed."""

from __future__ import annotations

from dataclasses import replace

from gateway.routes.live import changes
from processor.store.runs import RunState


def test_new_and_changed_runs_are_told_in_the_pages_order() -> None:
    """Runs that left the page are not mentioned; equal ones neither."""
    a, b, c = (RunState(run=name, status="running") for name in "abc")
    ended = replace(b, status="succeeded")
    assert changes([a, b], [ended, c, a]) == [ended, c]
    assert changes([a, b], [a, b]) == []
    assert changes([a, b], [a]) == []
