"""What to ship of a path, in which order and from where: from the files that are there and what the server has.

The same decision at the start, after a rotation, after the file was emptied and after the server lost its tail: nothing that
a shipper remembers is needed. A file is what the server knows if it begins alike and the last bytes that the server has of it
stand where they should.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from processor.ship.files import Identity, LogFile

__all__ = ["Known", "Step", "plan"]


@dataclass(frozen=True, slots=True)
class Known:
    """A file as the server knows it. text: the bytes before `stored`, None if they are not in the feed any more."""

    identity: Identity
    stored: int
    at_ms: int  # of its last append, by the server's clock
    text: bytes | None = None

    def is_in(self, file: LogFile) -> bool:
        """Whether the file has what the server has. Without text: by its beginning alone."""
        if file.size < self.stored or not file.begins_as(self.identity):
            return False
        text = self.text or b""
        return file.read(self.stored - len(text), len(text)) == text

    def is_at(self, file: LogFile) -> bool:
        """By place. A device may have another number after a reboot."""
        same = self.identity.inode == file.inode
        return same and (self.identity.device == file.device or self.text is not None)


@dataclass(frozen=True, slots=True)
class Step:
    """One file. identity: None as long as its first line is not complete."""

    file: LogFile
    identity: Identity | None
    start: int  # what the server has of it


def plan(
    own: LogFile | None,
    rotated: Sequence[LogFile],
    known: Sequence[Known],
    *,
    host: str,
    path: str,
    emptied: Collection[Identity] = (),
    ended: bool = False,
) -> list[Step]:
    """Files to ship, in order. own: what stands at the path, always the last step. rotated: the oldest first.

    known: of this host and path. emptied: what `own` was before it was seen to be shorter than what was read of it.
    ended: a first line without end is one.
    """
    found = _claims(own, rotated, known, frozenset(emptied))
    taken = [one.identity for one in known]
    steps = []
    for at, file in enumerate(rotated):
        one = found.get(file)
        if one is not None and file.size > one.stored:
            steps.append(Step(file, one.identity, one.stored))
        elif one is None and _is_missed(at, rotated, found, own, known):
            identity = file.identified(host, path, ended=True)
            if identity is not None:
                steps.append(Step(file, identity.anew(taken), 0))
    if own is not None:
        one = found.get(own)
        if one is not None:
            steps.append(Step(own, one.identity, one.stored))
        else:
            identity = own.identified(host, path, ended=ended)
            steps.append(Step(own, identity.anew(taken) if identity is not None else None, 0))
    return steps


def _claims(
    own: LogFile | None, rotated: Sequence[LogFile], known: Sequence[Known], emptied: frozenset[Identity]
) -> dict[LogFile, Known]:
    """Which file is which known one. By place first, so that a new file which begins as an old one did is not taken for it."""
    newest_first = sorted(known, key=lambda one: (one.at_ms, one.identity.life), reverse=True)
    found: dict[LogFile, Known] = {}
    for file in (*((own,) if own else ()), *rotated):
        for one in newest_first:
            free = one not in found.values() and not (file is own and one.identity in emptied)
            if free and one.is_at(file) and one.is_in(file):
                found[file] = one
                break
    for file in sorted(rotated, key=lambda file: file.size, reverse=True):  # a copy that is being made is shorter
        for one in newest_first:
            if file not in found and one.text is not None and one not in found.values() and one.is_in(file):
                found[file] = one
                break
    return found


def _is_missed(
    at: int, rotated: Sequence[LogFile], found: dict[LogFile, Known], own: LogFile | None, known: Sequence[Known]
) -> bool:
    """Whether a rotated file that the server does not know came after what it knows, while nobody shipped."""
    file = rotated[at]
    if not known or (own is not None and own in found):
        return False  # nothing of this path was shipped yet; or nothing came between
    if any(one.text is not None and one.is_in(file) for one in known) or (own is not None and file.is_prefix_of(own)):
        return False  # a second copy, or one that is being made
    if any(other in found for other in rotated):
        return not any(later in found for later in rotated[at + 1 :])
    return file.mtime_ns // 1_000_000 > max(one.at_ms for one in known)
