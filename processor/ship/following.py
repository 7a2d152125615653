"""One path: its file as it grows, and what becomes of it when it is renamed, copied and emptied, or gone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import structlog

from processor.core.errors import ServerDenied, ServerError
from processor.ship.entries import TRACES, Portion, Rule, Splitter
from processor.ship.files import HEAD_BYTES, Heads, Identity, LogFile, rotated_files, rotated_names
from processor.ship.names import path_key
from processor.ship.packing import Packer, bytes_of_payload, entry_limit
from processor.ship.planning import Known, Step, plan
from processor.store.connection import speaking_of
from processor.store.offsets import Moved, Offsets
from processor.store.positions import last_payload, read_positions

if TYPE_CHECKING:
    from processor.client.session import Session

__all__ = ["Follower", "Options"]

log = structlog.get_logger("tailrace.ship")
POLL_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 1.0  # after a file could not be read
CHUNK_BYTES: Final = 256 * 1024
ROTATED_SECONDS: Final = 1.0  # how long a renamed file must be silent: who writes it may not have opened the new one
LATE_SECONDS: Final = 60.0  # how long what is still written into it is looked for
LATE_POLL_SECONDS: Final = 1.0
UNENDED: Final = 5  # so many times the silence, where a line without end follows that may belong to the entry
GUARD_BYTES: Final = 64  # in front of the next byte: whether they changed

End = Literal["done", "replaced", "emptied", "late"]


@dataclass(frozen=True, slots=True)
class Options:
    """How files are shipped. rule: what goes on an entry. silence_seconds: behind which an entry is complete."""

    host: str
    rule: Rule = TRACES
    from_end: bool = False
    once: bool = False
    silence_seconds: float = 1.0


@dataclass(slots=True)
class _Done:
    """A renamed file that was shipped to its end, kept open: lines may come late, and the server may lose them."""

    file: LogFile
    until: float
    shipped: int


@dataclass(slots=True)
class Follower:
    """Ships what is written to one path. `run` returns with `once`, and raises what refuses its events for good."""

    session: Session
    path: str  # absolute
    run_id: str
    options: Options
    shipped: int = 0  # bytes that the server took
    missing: OSError | None = None  # why the file could not be read, last
    emptied: set[Identity] = field(default_factory=set)  # files that were at the path, with what they held
    _done: list[_Done] = field(default_factory=list)
    _known_once: bool = False  # whether the server was asked before
    _told: str = ""  # what is wrong with the file, as the log was told
    _marking: Identity | None = None  # the file whose beginning is left out

    async def run(self) -> None:
        while True:
            try:
                if await self._round() and self.options.once:
                    return
            except Moved as moved:
                log.info("file_read_again", file=self.path, run=self.run_id, stored=moved.stored)
            except ServerDenied:
                raise
            except ServerError:  # the appender tells of it
                await asyncio.sleep(RETRY_SECONDS)
            except OSError as error:
                self._tell_missing(error)
                if self.options.once:
                    return
                await asyncio.sleep(RETRY_SECONDS)

    def _tell_missing(self, error: OSError) -> None:
        self.missing = error
        if self._told != str(error):
            self._told = str(error)
            log.warning("file_unreadable", file=self.path, run=self.run_id, error=error.strerror or str(error))

    async def _round(self) -> bool:
        """Plans, and ships until something changes. True: to the end of what is there."""
        await self.session.ready_at_last()
        connection = self.session.appender.connections
        files: list[LogFile] = []
        try:
            own = self._open_own(files)
            before = self._standing(own)
            self._open_rotated(files)
            steps = await self._plan(own, files)
            if self._standing(own) != before or (own is not None and not self.is_at_path(own)):
                return False  # renamed or emptied meanwhile: what came between is not in the plan
            for step in steps:
                live = step.file is own and not self.options.once
                if await self._ship(step, connection, live=live) != "done":
                    return False
            if own is None and not self.options.once:
                await asyncio.sleep(POLL_SECONDS)
            return True
        finally:
            self._close(files)

    def _open_own(self, files: list[LogFile]) -> LogFile | None:
        """What stands at the path; None, and told, if nothing does."""
        try:
            own = LogFile.open(self.path)
        except FileNotFoundError as error:
            self._tell_missing(error)
            return None
        files.append(own)
        if self._told:
            self._told, self.missing = "", None
            log.info("file_readable", file=self.path, run=self.run_id)
        return own

    def _standing(self, own: LogFile | None) -> object:
        """What changes with each rotation."""
        try:
            found = os.stat(self.path)
            place = (found.st_dev, found.st_ino)
        except FileNotFoundError:
            place = None
        begins = own.read(0, HEAD_BYTES).partition(b"\n")[:2] if own is not None else b""
        return place, begins, rotated_names(self.path)

    def _open_rotated(self, files: list[LogFile]) -> None:
        """Those beside it, and those that were renamed to elsewhere while they were followed."""
        now = asyncio.get_running_loop().time()
        for done in [done for done in self._done if done.until < now]:
            self._done.remove(done)
            done.file.close()
        try:
            beside = rotated_files(self.path)
        except OSError:
            beside = []  # the folder is not ours to read: the path itself may be
        held = {done.file.place: done.file for done in self._done}
        places = {file.place for file in files}
        rotated = []
        for file in beside:
            if file.place in places or file.place in held:
                file.close()
            known = held.pop(file.place, None)
            if file.place not in places:
                rotated.append(known or file)
                places.add(file.place)
        files += [file for place, file in held.items() if place not in places]  # the older ones: they are gone already
        files += rotated

    def _close(self, files: list[LogFile]) -> None:
        kept = {id(done.file) for done in self._done}
        for file in files:
            if id(file) not in kept:
                file.close()

    async def _plan(self, own: LogFile | None, files: list[LogFile]) -> list[Step]:
        rotated = [file for file in files if file is not own]
        host, path = self.options.host, path_key(self.path)
        known = await self._read_known(files)
        steps = plan(own, rotated, known, host=host, path=path, emptied=self.emptied, ended=self.options.once)
        if not known and (self._marking or not self._known_once) and self.options.from_end and own is not None:
            steps = [self._from_end(step) for step in steps]
        self._known_once = True
        return steps

    async def _read_known(self, files: list[LogFile]) -> list[Known]:
        """What the server has of this path, with the last text where a file may be meant."""
        session = self.session
        known = []
        heads = Heads(files)
        with speaking_of(session.server.address.url):
            prefix = f"{self.options.host}:{path_key(self.path)}:"
            for position in await read_positions(session, self.run_id, prefix):
                identity = Identity.parse(position.name)
                if identity is None:
                    continue
                text = None
                if heads.have(identity, position.stored):
                    payload = await last_payload(session, self.run_id, position)
                    text = bytes_of_payload(payload) if payload is not None else None
                known.append(Known(identity, position.stored, position.at_ms, text))
        return known

    def _from_end(self, step: Step) -> Step:
        """Leaves out what is there, up to the last whole line; an event without lines says so."""
        start = step.file.last_line_end()
        if step.identity is None or not start:
            return step
        self._marking = step.identity
        return Step(step.file, step.identity, start)

    async def _ship(self, step: Step, connection: int, *, live: bool) -> End:
        """connection: the one that stood when the plan was made. What another one says, a server may say that lost its tail."""
        identity = step.identity or (await self._when_begun(step.file) if live else None)
        if identity is None:
            return "replaced" if live else "done"
        session = self.session
        offsets = Offsets(self.run_id, identity.name, session.appender.mark)
        shipping = _Shipping(self, step.file, identity, offsets)
        try:
            stored = await offsets.position()
            if session.appender.connections != connection:
                raise Moved(stored)
            if self._marking == identity and not stored:
                await offsets.put(*shipping.packer.mark(step.start))
                await offsets.settled()
                stored, self._marking = step.start, None
            if stored != step.start:
                raise Moved(stored)
            end = await shipping.ship(stored, live=live)
        finally:
            self.shipped += max(0, offsets.stored - step.start)
            offsets.close()
        if end == "emptied":
            self.emptied.add(identity)
        elif end == "replaced" or not live:
            self._keep(step.file, shipping.at)
        return end

    async def _when_begun(self, file: LogFile) -> Identity | None:
        """Waits for the first line of what stands at the path. None: plan again. It may have been emptied more than once.

        A file that was renamed before its first line was complete is what it is.
        """
        host, path = self.options.host, path_key(self.path)
        while self.is_at_path(file):
            if file.identified(host, path) is not None or self.has_late_lines():
                return None
            await asyncio.sleep(POLL_SECONDS)
        return file.identified(host, path, ended=True)

    def _keep(self, file: LogFile, shipped: int) -> None:
        self._done = [done for done in self._done if done.file is not file]
        self._done.append(_Done(file, asyncio.get_running_loop().time() + LATE_SECONDS, shipped))

    def is_at_path(self, file: LogFile) -> bool:
        """Whether the path still leads to it, or to nothing yet."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError as error:
            self._tell_missing(error)
            return True  # it may be written to until another one comes
        return (found.st_dev, found.st_ino) == file.place

    def has_late_lines(self) -> bool:
        """Whether a renamed file has grown since it was shipped. Told once for each size."""
        late = [(done, size) for done in self._done if (size := done.file.size) > done.shipped]
        for done, size in late:
            done.shipped = size
        return bool(late)


class _Shipping:
    """One file on its way."""

    def __init__(self, follower: Follower, file: LogFile, identity: Identity, offsets: Offsets) -> None:
        self.follower, self.file, self.identity, self.offsets = follower, file, identity, offsets
        options, max_event_bytes = follower.options, follower.session.producer.max_event_bytes
        self.packer = Packer(follower.path, options.host, max_event_bytes)
        self.at = 0  # the next byte to read
        self._sent = 0  # the last number
        self._splitter = Splitter(options.rule, limit=entry_limit(max_event_bytes))
        self._before = b""  # the last bytes that were read
        self._loop = asyncio.get_running_loop()
        self._grew_at = self._late_at = self._loop.time()

    async def ship(self, start: int, *, live: bool) -> End:
        """From this offset on. Returns when the server has all that was read; raises Moved, refusals and OSError."""
        self.at = self._sent = start
        self._before = self.file.read(max(0, start - GUARD_BYTES), min(start, GUARD_BYTES))
        while True:
            end = await self._read_on() or ((await self._wait()) if live else "done")
            if end is not None:
                if end in ("done", "replaced") or (end == "emptied" and not (self._sent and self._is_copied())):
                    await self._send(self._splitter.finish())
                await self.offsets.settled()
                return end

    async def _read_on(self) -> End | None:
        """Whatever is there now."""
        while (size := self.file.size) > self.at:
            chunk = self.file.read(self.at, CHUNK_BYTES)
            if not self._is_unchanged():
                return "emptied"  # and has grown again: the chunk may begin within a line
            self.at += len(chunk)
            self._before = (self._before + chunk)[-GUARD_BYTES:] if len(chunk) < GUARD_BYTES else chunk[-GUARD_BYTES:]
            self._grew_at = self._loop.time()
            await self._send(self._splitter.feed(chunk))
            await asyncio.sleep(0)  # other files
        return "emptied" if size < self.at else None

    def _is_unchanged(self) -> bool:
        before = self._before
        return self.file.read(self.at - len(before), len(before)) == before and self.file.begins_as(self.identity)

    def _is_copied(self) -> bool:
        """Whether a copy beside it has what was read of the emptied file: then it is read on there, with what follows.

        The server must know something of the file for that.
        """
        copies = rotated_files(self.follower.path)
        try:
            before, begin = self._before, self.at - len(self._before)
            return any(copy.begins_as(self.identity) and copy.read(begin, len(before)) == before for copy in copies)
        finally:
            for copy in copies:
                copy.close()

    async def _wait(self) -> End | None:
        """At its end, live: closes what is silent, looks whether the file is still the one at its path, sleeps."""
        silent = self._loop.time() - self._grew_at
        if not self.follower.is_at_path(self.file):
            if silent >= ROTATED_SECONDS:
                return "replaced"
        elif self._is_late():
            return "late"
        patience = self.follower.options.silence_seconds * (UNENDED if self._splitter.in_line else 1)
        if self._splitter.held and silent >= patience:
            await self._send(self._splitter.close())
        await asyncio.sleep(POLL_SECONDS)
        if not self.offsets.under_way:
            await self.offsets.settled()  # raises what the server said meanwhile
        return None

    def _is_late(self) -> bool:
        now = self._loop.time()
        if now - self._late_at < LATE_POLL_SECONDS:
            return False
        self._late_at = now
        return self.follower.has_late_lines()

    async def _send(self, portions: Sequence[Portion]) -> None:
        for number, draft in self.packer.events(self._sent, portions):
            await self.offsets.put(number, draft)
            self._sent = number
