"""Listings of the documentation: taken out of their page, checked by mypy, executed as a module or as tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.program import ROOT

__all__ = ["as_module", "check_tests", "check_types", "listings", "mypy", "program_of"]


def listings(page: str | Path, language: str = "python") -> list[str]:
    """In the order of the page. page: its path, from the repository's root."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def program_of(page: str | Path) -> str:
    """All Python listings of the page, each behind those before it."""
    return "\n\n".join(listings(page))


def mypy(folder: Path, *targets: str) -> subprocess.CompletedProcess[str]:
    """What mypy --strict says of files and packages in the folder. They may import this repository."""
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), *targets],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def check_types(folder: Path, name: str, text: str) -> str:
    """Fails where mypy --strict finds fault with the text as a file of that name. Returns what mypy printed."""
    (folder / name).write_text(text)
    done = mypy(folder, name)
    assert done.returncode == 0, done.stdout
    return done.stdout


def as_module(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> ModuleType:
    """The text executed as a module, which sys.modules has until monkeypatch undoes it: annotations are looked up there."""
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(text, f"{name}.py", "exec"), module.__dict__)
    return module


def check_tests(folder: Path, name: str, *, seconds: float) -> str:
    """Fails if a test of this file in the folder fails, or all take longer. Returns what pytest printed."""
    options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
