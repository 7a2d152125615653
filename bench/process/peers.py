"""The other libraries: an environment for each, made when first asked for, and one round of its program there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.process.oracle import Drained

__all__ = ["PEERS", "Peer", "chosen", "default_cache"]

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "bench" / "peers"
PEERS: Final = ("taskiq", "faststream", "streaq", "arq", "saq")
DEADLINE_SECONDS: Final = 120.0


def default_cache() -> Path:
    """Outside the repository, where other caches are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tailrace-bench"


def chosen(text: str, among: Sequence[str] = PEERS) -> tuple[str, ...]:
    """From `none`, `all` or names with commas, of a bench that has those. Raises ValueError."""
    if text == "none":
        return ()
    if not among:
        raise ValueError("is for process and react; this one has a floor of its own")
    names = among if text == "all" else tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in among]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: give none, all or some of {', '.join(among)}, with commas")
    return tuple(dict.fromkeys(names))


class Peer:
    """One of PEERS."""

    def __init__(self, name: str, cache: Path) -> None:
        """cache: where its environment is or comes; another for each Python and each list of versions."""
        self.name = name
        pins = (FOLDER / f"{name}.txt").read_bytes()
        key = hashlib.sha256(pins + sys.version.encode()).hexdigest()[:12]
        self._folder = cache / f"{name}-{key}"
        self.title = name  # with its version, once it told it in a round

    @property
    def _python(self) -> Path:
        return self._folder / "bin" / "python"

    def install(self) -> None:
        """Its environment, by venv and pip. Raises CalledProcessError with pip's words on stderr."""
        ready = self._folder / "ready"
        if ready.exists():
            return
        print(f"making an environment with {self.name} in {self._folder}", file=sys.stderr, flush=True)
        venv.create(self._folder, with_pip=True, clear=True)
        pip: Sequence[str] = ("-m", "pip", "--disable-pip-version-check", "-qq", "install")
        subprocess.run([str(self._python), *pip, "-r", str(FOLDER / f"{self.name}.txt")], check=True, stdout=sys.stderr)
        ready.touch()

    def drain(self, url: str, tasks: int, *flags: str, program: str = "") -> Drained:
        """One round of its own program, or of another one of bench.peers. Raises RuntimeError with its last words."""
        module = f"bench.peers.{program or self.name}"
        command = [str(self._python), "-m", module, "--url", url, "--tasks", str(tasks), *flags]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{self.name} ended with {done.returncode}: {done.stderr[-2000:]}")
        told = json.loads(done.stdout.splitlines()[-1])
        self.title = f"{told['peer']} {told['version']}"
        return Drained(tasks, told["seconds"], told["cpu_seconds"])
