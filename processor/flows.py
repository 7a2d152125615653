"""Flows: `from processor.flows import chain, group, chord`. Steps are made by `task.bind(…)`."""

from __future__ import annotations

from processor.client.flows import Flow, Node, Step, chain, chord, group, previous
from processor.core.references import ChildFailed

__all__ = ["ChildFailed", "Flow", "Node", "Step", "chain", "chord", "group", "previous"]
