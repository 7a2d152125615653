"""Signals of commands that have something to finish."""

from __future__ import annotations

import os
import signal

from processor.cli.ending import ENDING, ending
from processor.cli.exits import DONE, INTERRUPTED


def test_the_first_is_told_and_the_next_one_is_the_systems() -> None:
    """tell is called once, with the number; after it both signals do what they do by themselves, and behind it what they did."""
    before = [signal.getsignal(number) for number in ENDING]
    told: list[int] = []
    with ending(told.append) as end:
        os.kill(os.getpid(), signal.SIGTERM)
        assert told == [signal.SIGTERM]
        assert [signal.getsignal(number) for number in ENDING] == [signal.SIG_DFL] * 2
    assert [signal.getsignal(number) for number in ENDING] == before
    assert (end.by, end.code) == (signal.SIGTERM, DONE)


def test_more_patience() -> None:
    """With patience=2 the second is told as well, with None every one; the first one gives the exit code."""
    for patience, times in ((2, 2), (None, 5)):
        told: list[int] = []
        with ending(told.append, patience=patience) as end:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        assert told == [signal.SIGINT] * times
        assert end.code == INTERRUPTED


def test_none() -> None:
    """A command that ended by itself has 0."""
    with ending(lambda number: None) as end:
        pass
    assert (end.by, end.code) == (0, DONE)
