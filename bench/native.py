"""The C programs of the feed bench: built into a temporary folder, spoken to by lines."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["build", "compiler"]

_HERE = Path(__file__).parent


def compiler() -> str | None:
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def build(names: Sequence[str], into: Path) -> dict[str, Path]:
    """Programs by name. Raises CalledProcessError with the compiler's words on stderr."""
    cc = compiler()
    assert cc is not None, "ask compiler() first"
    for name in names:
        subprocess.run([cc, "-O2", "-o", str(into / name), str(_HERE / f"{name}.c")], check=True)
    return {name: into / name for name in names}
