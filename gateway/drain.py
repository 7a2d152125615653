"""Ctrl-C, SIGTERM and reload end open streams at once, in whatever server this runs and without its help.

Servers wait for endless responses, and a mounted app's lifespan never runs. What a loop does then is Hub.drain.
"""

from __future__ import annotations

from gateway.hub import drain_all
from processor.client.signals import on_stop

__all__ = ["watch_signals"]


def _drain(number: int) -> None:
    drain_all()


def watch_signals() -> None:
    """Called for each stream, since a server may have set handlers of its own since; costs a microsecond."""
    on_stop(_drain)
