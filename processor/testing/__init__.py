"""For tests of programs that use tailrace."""

from __future__ import annotations

from processor.testing.sandbox import Sandbox, sandbox

__all__ = ["Sandbox", "sandbox"]
