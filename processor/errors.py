"""Every error that tailrace raises on purpose, under the name that programs import."""

from __future__ import annotations

from processor.core.errors import *  # noqa: F403
from processor.core.errors import __all__ as __all__
