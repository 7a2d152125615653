"""Python's garbage collector in a process of ten thousand connections: a full pass would stop every stream for a second."""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["calm_collector"]

THRESHOLDS: Final = (50_000, 50, 1000)  # a connection is some ten tracked objects, freed without the collector's help


def calm_collector() -> None:
    """To be called once everything is imported and set up: what is there now is never looked at again, the rest seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
