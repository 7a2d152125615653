"""Which files changed. By looking at them, without a library.

The process that is watched has told which files it imported, so there is no tree to walk: some hundred stat calls three times
a second cost 0.1 % of a core, and see changes on network drives and in containers too, where the kernel's notices do not come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["changed", "stamp"]

LOOK_SECONDS: Final = 0.3


def stamp(path: Path) -> str:
    """What changes whenever the file does: modification time (ns) and size; "" where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns} {found.st_size}"


async def changed(files: Mapping[Path, str]) -> Path:
    """Waits until a file is no longer as its stamp says, and no file of them changes any more; that file.

    files: may grow meanwhile. An editor writes several times, a checkout many files: they are one change.
    """
    before: dict[Path, str] = {}
    while True:
        now = {path: stamp(path) for path in files}
        found = next((path for path, found in now.items() if found != files[path]), None)
        if found is not None and now == before:
            return found
        before = now
        await asyncio.sleep(LOOK_SECONDS)
