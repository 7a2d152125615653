"""How long ago something was, for eyes."""

from __future__ import annotations

__all__ = ["ago"]


def ago(seconds: float) -> str:
    """`41 s`, `3 min`, `2 h`, `5 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
