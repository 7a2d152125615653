"""Names: the run of a path, the host, and which files beside a log file are its rotated ones."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from typing import Final

__all__ = ["absolute", "age_key", "is_compressed", "is_numbered", "is_rotated", "own_host", "path_key", "run_of"]

MAX_RUN: Final = 64
MAX_HOST: Final = 40
_WHEN = r"[.\-_]?\d[\d.\-_T:]*"  # .1, -20261124, .2026-11-24-16
_SUFFIX: Final = re.compile(rf"(?:{_WHEN}|[.\-_](?:old|bak|prev|backup)|~)")
_BETWEEN: Final = re.compile(rf"[.\-_]{_WHEN}|{_WHEN}")
_COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".Z")


def own_host(name: str | None = None) -> str:
    """This machine's name, or the one given, in characters that names of producers and runs may have."""
    text = re.sub(r"[^A-Za-z0-9.-]", "-", name or socket.gethostname(), flags=re.ASCII).strip("-.")
    return text[:MAX_HOST] or "host"


def absolute(path: str) -> str:
    """The same for each way to name it. A link in the folder stays one: it may lead to another file each day."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def path_key(path: str) -> str:
    """Eight characters that stand for an absolute path in a producer's name."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]


def run_of(host: str, path: str) -> str:
    """The run of an absolute path where none was named: `web-1:var.log.nginx.access.log`.

    The host is in it, since most machines have a /var/log/syslog. A long one is shortened in the middle, with a hash.
    """
    text = re.sub(r"[^A-Za-z0-9._-]", "-", path.strip("/").replace("/", "."), flags=re.ASCII) or "-"
    run = f"{host}:{text}"
    if len(run) <= MAX_RUN and text == path.strip("/").replace("/", "."):
        return run
    head = f"{host[:24]}:{path_key(path)}:"
    return head + text[-(MAX_RUN - len(head)) :]


def is_compressed(name: str) -> bool:
    return name.endswith(_COMPRESSED)


def is_rotated(name: str, of: str) -> bool:
    """Whether a file of this name may be what another one of the same folder was renamed or copied to.

    app.log → app.log.1, app.log-20261124, app.log.2026-11-24-16, app.log.old, app-20261124.log, app.1.log
    """
    if name == of or is_compressed(name):
        return False
    if name.startswith(of):
        return _SUFFIX.fullmatch(name, len(of)) is not None
    stem, extension = os.path.splitext(of)
    if not extension or not (name.startswith(stem) and name.endswith(extension)):
        return False
    return _BETWEEN.fullmatch(name, len(stem), len(name) - len(extension)) is not None


def _number(name: str, of: str) -> int | None:
    """2 of app.log.2."""
    found = re.fullmatch(r"\.(\d{1,4})", name[len(of) :]) if name.startswith(of) else None
    return int(found[1]) if found else None


def age_key(name: str, of: str, mtime_ns: int, *, numbered: bool) -> tuple[int, int]:
    """Sorts rotated files, the oldest first. numbered: all of them are numbered as app.log.1 is, and 1 is the newest."""
    number = _number(name, of) or 0
    return (-number, mtime_ns) if numbered else (mtime_ns, -number)


def is_numbered(name: str, of: str) -> bool:
    return _number(name, of) is not None
