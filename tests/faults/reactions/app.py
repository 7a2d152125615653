"""The groups of these tests as a module, for `tailrace worker tests.faults.reactions.app:tail`."""

from __future__ import annotations

from tests.faults.reactions.handlers import tail_of
from tests.faults.reactions.world import ALL

tail = tail_of(ALL)
