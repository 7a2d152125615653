"""Programs as real processes: output captured, ended by PID."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.support.until import until

__all__ = ["ROOT", "Program"]

ROOT = Path(__file__).parents[2]  # of the repository


class Program:
    """A process in a session of its own. `out` and `err` grow while it runs.

    argv: as for subprocess; "python" means this interpreter. env: added to this process's own, None removes a variable.
    """

    def __init__(
        self,
        *argv: str,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
    ) -> None:
        command = [sys.executable if argv[0] == "python" else argv[0], *argv[1:]]
        whole = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
        self.argv = argv
        self.process = subprocess.Popen(
            command,
            env={name: value for name, value in whole.items() if value is not None},
            cwd=cwd or ROOT,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._chunks: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
        self._threads = [self._read("out", self.process.stdout), self._read("err", self.process.stderr)]
        if stdin is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(stdin)
            self.process.stdin.close()

    def _read(self, name: str, pipe: IO[bytes] | None) -> threading.Thread:
        assert pipe is not None
        into = self._chunks[name]

        def pump() -> None:
            with pipe:
                while chunk := os.read(pipe.fileno(), 65536):
                    into.extend(chunk)

        thread = threading.Thread(target=pump, daemon=True)
        thread.start()
        return thread

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return bytes(self._chunks["out"]).decode(errors="replace")

    @property
    def err(self) -> str:
        return bytes(self._chunks["err"]).decode(errors="replace")

    def _report(self) -> str:
        return f"{' '.join(self.argv)}\n--- out\n{self.out[-3000:]}\n--- err\n{self.err[-3000:]}"

    async def says(self, text: str, deadline: float = 10) -> None:
        """Waits until `text` stands in its output or error output. Fails at once if it ended without it."""

        def said() -> bool:
            if text in self.out or text in self.err:
                return True
            if self.process.poll() is not None:
                self._join()
                assert text in self.out or text in self.err, (
                    f"ended ({self.process.returncode}) without {text!r}: {self._report()}"
                )
                return True
            return False

        try:
            await until(said, f"{text!r} in the output", deadline)
        except AssertionError as late:
            raise AssertionError(f"{late}: {self._report()}") from None

    async def ended(self, deadline: float = 10) -> int:
        """Waits for its end; its exit code (negative: the signal)."""
        try:
            await until(lambda: self.process.poll() is not None, "the program ended", deadline)
        except AssertionError as late:
            raise AssertionError(f"{late}: {self._report()}") from None
        self._join()
        return self.process.returncode

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(5)

    def send(self, sig: signal.Signals) -> None:
        self.process.send_signal(sig)

    def kill(self) -> None:
        """SIGKILL to it and to what it started (its process group), and waits."""
        if self.process.poll() is None or self._threads[0].is_alive():
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # all of them have ended
        self.process.wait(10)
        self._join()
