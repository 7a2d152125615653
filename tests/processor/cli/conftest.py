"""The command as a process: in a folder of its own, with a server of its own address, in a pipe or at a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import logging
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import structlog

from processor.cli.main import run
from processor.cli.options import hoist
from tests.support.program import ROOT, Program
from tests.support.servers import TestServer
from tests.support.until import until

COMMAND = ("python", "-m", "processor.cli.main")
CLEAN = {
    name: None for name in os.environ if name.startswith("TAILRACE_") or name in ("REDIS_URL", "NO_COLOR", "DISPLAY")
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is tested here runs in processes of its own; starting them takes this loop's time, as much as the machine asks."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("holds_loop")


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Its stdout, one JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """Runs `tailrace` in a folder."""

    def __init__(self, folder: Path, start: Callable[..., Program], url: str | None) -> None:
        self.folder = folder
        self.url = url
        self._start = start

    def begin(self, *args: str, env: Mapping[str, str | None] | None = None, stdin: bytes | None = None) -> Program:
        """A command that stays."""
        environ = {**CLEAN, **({"TAILRACE_REDIS_URL": self.url} if self.url else {}), **(env or {})}
        return self._start(*COMMAND, *args, env=environ, cwd=self.folder, stdin=stdin)

    async def __call__(
        self, *args: str, env: Mapping[str, str | None] | None = None, stdin: bytes | None = None, deadline: float = 20
    ) -> Ended:
        """A command that ends, within `deadline` seconds."""
        program = self.begin(*args, env=env, stdin=stdin)
        code = await program.ended(deadline)
        return Ended(code, program.out, program.err)

    async def here(self, *args: str, env: Mapping[str, str | None] | None = None, stdin: bytes = b"") -> Ended:
        """The same in this process, on a thread: for what a test needs around its subject. A process costs 0.4 s."""
        environ = {**CLEAN, **({"TAILRACE_REDIS_URL": self.url} if self.url else {}), **(env or {})}
        return await asyncio.to_thread(_here, args, environ, self.folder, stdin)


def _here(args: tuple[str, ...], environ: Mapping[str, str | None], folder: Path, stdin: bytes) -> Ended:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ))
        for name, value in environ.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        given = stack.enter_context(tempfile.TemporaryFile())
        given.write(stdin)
        given.seek(0)
        stack.enter_context(mock.patch.object(sys, "stdin", given))
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(_own_logs())
        code = run(hoist(args))
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Ended(code, said[0], said[1])


@contextmanager
def _own_logs() -> Iterator[None]:
    """A command sets up its process's logs; this process has its own."""
    root = logging.getLogger()
    before, level, config = root.handlers, root.level, structlog.get_config()
    try:
        yield
    finally:
        root.handlers, root.level = before, level
        structlog.configure(**config)


class Terminal:
    """The command at a terminal of its own: keys go in, what a person sees comes out."""

    def __init__(self, folder: Path, args: tuple[str, ...], environ: Mapping[str, str | None]) -> None:
        self._master, slave = pty.openpty()
        whole = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "200", **environ}
        self.process = subprocess.Popen(
            [sys.executable, *COMMAND[1:], *args],
            env={name: value for name, value in whole.items() if value is not None},
            cwd=folder,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._master, 65536)
            except OSError:  # how Linux says that nobody holds the other side any more
                return
            if not chunk:
                return
            self._seen.extend(chunk)

    @property
    def seen(self) -> str:
        return bytes(self._seen).decode(errors="replace").replace("\r\n", "\n")

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def shows(self, text: str, deadline: float = 10) -> None:
        await until(lambda: text in self.seen or self.process.poll() is not None, f"{text!r} on the terminal", deadline)
        if self.process.poll() is not None:
            self._reader.join(5)
        assert text in self.seen, self.seen

    async def ended(self, deadline: float = 20) -> int:
        await until(lambda: self.process.poll() is not None, "the command ended", deadline)
        self._reader.join(5)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self._reader.join(5)
        os.close(self._master)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def cli(server: TestServer, program: Callable[..., Program], tmp_path: Path) -> Cli:
    """`await cli("runs", "--json")`, with the session's server."""
    return Cli(tmp_path, program, server.url)


@pytest.fixture
def lone_cli(program: Callable[..., Program], tmp_path: Path) -> Cli:
    """The same without any server."""
    return Cli(tmp_path, program, None)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """`terminal("runs", env=…)`, with colours off."""
    opened: list[Terminal] = []

    def begin(*args: str, env: Mapping[str, str | None] | None = None) -> Terminal:
        one = Terminal(tmp_path, args, {**CLEAN, "NO_COLOR": "1", **(env or {})})
        opened.append(one)
        return one

    yield begin
    for one in opened:
        one.close()
