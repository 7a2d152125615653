"""The installed release."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["own_version"]


def own_version() -> str:
    """Of the installed package; a source tree that was never installed has none."""
    try:
        return version("tailrace")
    except PackageNotFoundError:
        return "from source"
