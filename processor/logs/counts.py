"""How many records were not sent, and why, as a metric.

Not a Counter of prometheus-client's: that one takes a lock, and a signal handler that logs would wait for itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

__all__ = ["add", "total"]

_NAME = "tailrace_log_records_dropped"
_WHAT = "Log records that were not sent to their run, by the reason"
_lock = threading.RLock()
_counts: dict[str, int] = {}


def add(reason: str, count: int) -> None:
    """reason: full (too many on their way), refused, ended (the run takes no more), closed (its loop), nested."""
    if count:
        with _lock:
            _counts[reason] = _counts.get(reason, 0) + count


def total(reason: str) -> int:
    return _counts.get(reason, 0)


class _Dropped(Collector):
    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(_NAME, _WHAT, labels=["reason"])
        for reason, count in sorted(_counts.copy().items()):
            family.add_metric([reason], count)
        yield family


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()


REGISTRY.register(_Dropped())
os.register_at_fork(after_in_child=_in_child)
