"""A listening socket, or who holds the port."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from processor.cli.exits import PortTaken
from processor.core.errors import SettingsError

__all__ = ["Holder", "holder_of", "http_url", "listen", "listen_from", "port_of"]

BACKLOG = 4096  # a deploy brings all tabs back at once
_LISTEN = "0A"  # state in /proc/net/tcp


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that listens on a port."""

    pid: int
    command: str
    since: datetime

    @property
    def ours(self) -> bool:
        return self.command.startswith("tailrace")


def http_url(host: str, port: int) -> str:
    """As one types it into a browser; a wildcard is reached by loopback."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def listen(host: str, port: int, command: str) -> socket.socket:
    """A socket that listens; port 0 takes a free one. command: what to type with another port.

    Raises PortTaken, SettingsError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _taken(host, port, command) from error
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        if error.errno == errno.EACCES:
            raise SettingsError(
                f"port {port} needs rights that this process does not have.",
                remedy=f"Take one above 1023: {command} --port 8600",
            ) from error
        raise SettingsError(
            f"{host}:{port} cannot be listened on: {reason}.",
            remedy="Give an address of this machine: --host 127.0.0.1",
        ) from error
    listener.set_inheritable(False)
    return listener


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def listen_from(host: str, port: int, command: str) -> socket.socket:
    """A socket that listens on this port or the next one that is free. Raises PortTaken where none of twenty is, SettingsError."""
    for candidate in range(port, min(port + 19, 65535)):
        try:
            return listen(host, candidate, command)
        except PortTaken:
            continue
    return listen(host, min(port + 19, 65535), command)


def _taken(host: str, port: int, command: str) -> PortTaken:
    holder = holder_of(port)
    other = f"choose another port: {command} --port {port + 1 if port < 65535 else port - 1}"
    if holder is None:
        return PortTaken(f"{host}:{port} is in use.", remedy=f"Stop what listens there, or {other}")
    by = f"process {holder.pid} (`{holder.command}`, since {holder.since:%H:%M})"
    remedy = (
        f"Open {http_url(host, port)}, or stop it (Ctrl-C there), or {other}" if holder.ours else f"Stop it, or {other}"
    )
    return PortTaken(f"{host}:{port} is in use by {by}.", remedy=remedy)


def holder_of(port: int) -> Holder | None:
    """Who listens on a TCP port of this machine; None where the system does not say (other users' processes, macOS)."""
    inodes = set(_listening_inodes(port))
    if not inodes:
        return None
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _holds(entry, inodes):
            with contextlib.suppress(OSError, ValueError):  # it ended in between
                return Holder(int(entry.name), _command(entry), _since(entry))
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue  # no /proc here
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _holds(process: Path, inodes: set[str]) -> bool:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        return any(os.readlink(link) in wanted for link in (process / "fd").iterdir())
    except OSError:
        return False  # another user's, or it has ended


def _command(process: Path) -> str:
    """Its command line for eyes: without the interpreter and folders."""
    words = [word.decode(errors="replace") for word in (process / "cmdline").read_bytes().split(b"\0") if word]
    for position, word in enumerate(words):
        module = words[position - 1] == "-m" and word.startswith("processor.cli")
        if os.path.basename(word) == "tailrace" or module:
            return " ".join(["tailrace", *words[position + 1 :]])[:60]
    if not words:
        return (process / "comm").read_text().strip()
    return " ".join([os.path.basename(words[0]), *words[1:]])[:60]


def _since(process: Path) -> datetime:
    """When it started, local time. Field 22 of stat: clock ticks since boot."""
    ticks = int((process / "stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    age = uptime - ticks / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(time.time() - age)
