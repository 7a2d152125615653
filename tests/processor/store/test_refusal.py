"""Refused events as errors of the library."""

from __future__ import annotations

import pytest

from processor.core.chain import Outcome
from processor.core.errors import RunClosed
from processor.store.writer import refusal


@pytest.mark.parametrize("detail", ["failed", "failed 7-1000"])
def test_a_closed_run_is_told_with_or_without_its_last_event(detail: str) -> None:
    """A renewal knows the status alone; an append also the last event, and so how long ago the end was."""
    error = refusal("r", "log", Outcome("closed", detail=detail))
    assert isinstance(error, RunClosed)
    assert (error.status, error.tail) == ("failed", detail.removeprefix("failed").strip())
    assert error.message.startswith("run r ended as failed")
    assert ("ago" in error.message) == (error.tail != "")
