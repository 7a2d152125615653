"""Log files as they are on the disk: told apart by what they are and hold, whatever they are called."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from processor.ship.names import age_key, is_numbered, is_rotated

__all__ = ["HEAD_BYTES", "Heads", "Identity", "LogFile", "rotated_files", "rotated_names"]

HEAD_BYTES: Final = 1024  # at most of a file's beginning make its fingerprint
_NAME: Final = re.compile(r"([^:]+):([0-9a-f]{8}):([0-9a-f]+)-([0-9a-f]+):([0-9a-f]+)-([0-9a-f]{16})(?::([0-9]+))?")


def fingerprint(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a file the same one: whose path it was when it was first seen, where it is, how it begins.

    length: bytes of its fingerprint. life: how often a file with all the same was emptied and began anew.
    """

    host: str
    path: str  # names.path_key
    device: int
    inode: int
    length: int
    print: str
    life: int = 0

    @property
    def name(self) -> str:
        """Of the producer; at most 128 characters."""
        life = f":{self.life}" if self.life else ""
        return f"{self.host}:{self.path}:{self.device:x}-{self.inode:x}:{self.length:x}-{self.print}{life}"

    @classmethod
    def parse(cls, name: str) -> Identity | None:
        """None for the name of another producer."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        host, path, device, inode, length, print, life = found.groups()
        return cls(host, path, int(device, 16), int(inode, 16), int(length, 16), print, int(life or 0))

    def anew(self, known: Sequence[Identity]) -> Identity:
        """The next life of the same file, if it had one."""
        lives = [other.life for other in known if replace(other, life=0) == replace(self, life=0)]
        return replace(self, life=max(lives) + 1) if lives else self


class LogFile:
    """An open file. It stays readable when it is renamed or removed. Reads go to the loop's own thread: they come from the
    page cache, or take as long as a disk does."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        self.device, self.inode = found.st_dev, found.st_ino

    @classmethod
    def open(cls, path: str) -> LogFile:
        """Raises OSError, also where it is no regular file."""
        descriptor = os.open(
            path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        )  # a pipe's open would wait for its writer
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "is no regular file", path)
        return cls(path, descriptor)

    @property
    def place(self) -> tuple[int, int]:
        return self.device, self.inode

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    @property
    def mtime_ns(self) -> int:
        return os.fstat(self._descriptor).st_mtime_ns

    def read(self, at: int, count: int) -> bytes:
        """Up to so many bytes, fewer at its end only."""
        parts = []
        while count and (part := os.pread(self._descriptor, count, at)):
            parts.append(part)
            at += len(part)
            count -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        os.close(self._descriptor)

    def begins_as(self, identity: Identity) -> bool:
        head = self.read(0, identity.length)
        return len(head) == identity.length and fingerprint(head) == identity.print

    def identified(self, host: str, path: str, *, ended: bool = False) -> Identity | None:
        """By its first line, HEAD_BYTES at most. None while that is not complete; ended: nothing will come any more.

        The first line alone, so that the identity is the same however far the file has grown.
        """
        head = self.read(0, HEAD_BYTES)
        length = head.find(b"\n") + 1 or len(head)
        if not head or (length == len(head) < HEAD_BYTES and not head.endswith(b"\n") and not ended):
            return None
        return Identity(host, path, self.device, self.inode, length, fingerprint(head[:length]))

    def last_line_end(self) -> int:
        """Offset behind its last LF; 0 where it has none."""
        at = self.size
        while at:
            begin = max(0, at - 65536)
            found = self.read(begin, at - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            at = begin
        return 0

    def is_prefix_of(self, other: LogFile) -> bool:
        """Whether the other one begins with all of it, as far as beginning and end tell: a copy that is being made."""
        size = self.size
        if not size or other.size < size:
            return False
        span = min(size, 65536)
        return self.read(0, span) == other.read(0, span) and self.read(size - span, span) == other.read(
            size - span, span
        )

    def __repr__(self) -> str:
        return f"<LogFile {self.path} {self.device:x}-{self.inode:x}>"


class Heads:
    """How several files begin, read once: for asking which of thousands of known ones they may be."""

    def __init__(self, files: Sequence[LogFile]) -> None:
        self._heads = [(file.size, file.read(0, HEAD_BYTES)) for file in files]
        self._prints: dict[int, list[str]] = {}  # by their length

    def have(self, identity: Identity, stored: int) -> bool:
        """Whether one of them begins as the known one and is as long as what the server has of it."""
        length = identity.length
        prints = self._prints.get(length)
        if prints is None:
            prints = self._prints[length] = [fingerprint(head[:length]) for _, head in self._heads]
        return any(
            size >= max(stored, length) and print == identity.print
            for (size, _), print in zip(self._heads, prints, strict=True)
        )


def rotated_names(path: str) -> list[tuple[str, int]]:
    """Names and inodes of what this path's file may have been renamed or copied to; empty where the folder is not ours."""
    folder, of = os.path.split(path)
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.inode()) for entry in entries if is_rotated(entry.name, of))
    except OSError:
        return []


def rotated_files(path: str) -> list[LogFile]:
    """What this path's file may have been renamed or copied to, open, the oldest first. Close them.

    Those that cannot be opened are left out. Raises OSError where the folder cannot be read.
    """
    folder, of = os.path.split(path)
    files: list[LogFile] = []
    for name in os.listdir(folder):
        if is_rotated(name, of):
            try:
                files.append(LogFile.open(os.path.join(folder, name)))
            except OSError:
                continue  # gone, or not ours to read: as if it were not there
    names = {file: os.path.basename(file.path) for file in files}
    numbered = all(is_numbered(name, of) for name in names.values())
    return sorted(files, key=lambda file: age_key(names[file], of, file.mtime_ns, numbered=numbered))
