"""Python's logging and structlog into runs: `Handler` for the one, `StructlogProcessor` for the other.

A record goes to the run that the code which logs belongs to: inside a task, a reaction or a block `async with tail.run()`,
also in their threads. Elsewhere it goes to `run=`, or nowhere.
"""

from __future__ import annotations

from processor.logs.handler import Handler
from processor.logs.structlog import StructlogProcessor

__all__ = ["Handler", "StructlogProcessor"]
