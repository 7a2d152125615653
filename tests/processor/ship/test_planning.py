"""What is shipped in which order: by the files that are there and what the server has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from processor.ship.files import Identity, LogFile, rotated_files
from processor.ship.names import path_key
from processor.ship.planning import Known, Step, plan

NOW = 2**42  # ms: later than any file here was written


class Place:
    """A folder with one log, and what the server has of it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.path = folder / "a.log"
        self.known: list[Known] = []
        self._stack = stack
        self._texts: dict[Identity, bytes] = {}

    def ships(self, step: Step, upto: int | None = None) -> None:
        """The server has it, up to that offset."""
        assert step.identity is not None
        stored = step.file.size if upto is None else upto
        text = step.file.read(step.start, stored - step.start)
        self.known = [one for one in self.known if one.identity != step.identity]
        self.known.append(Known(step.identity, stored, NOW + len(self.known), text or b""))

    def plan(self, *emptied: Identity) -> list[Step]:
        own = LogFile.open(str(self.path)) if self.path.exists() else None
        rotated = rotated_files(str(self.path))
        if own is not None:
            self._stack.callback(own.close)
        for file in rotated:
            self._stack.callback(file.close)
        key = path_key(str(self.path))
        return plan(own, rotated, self.known, host="h", path=key, emptied=emptied)

    def says(self, *emptied: Identity) -> list[tuple[str, int]]:
        return [(Path(step.file.path).name, step.start) for step in self.plan(*emptied)]

    def name(self, number: int) -> Path:
        return self.path.with_name(f"a.log.{number}")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


def test_a_new_file(place: Place) -> None:
    """A file that the server does not know begins at 0, and older ones beside it are not asked for."""
    place.path.write_bytes(b"one\n")
    place.name(1).write_bytes(b"old\n")
    assert place.says() == [("a.log", 0)]
    assert Identity.parse(place.plan()[0].identity.name) == place.plan()[0].identity  # type: ignore[union-attr]


def test_no_identity_before_the_first_line(place: Place) -> None:
    """A file whose first line is not complete has no identity yet; it is the same one when it has grown."""
    place.path.write_bytes(b"on")
    assert place.plan()[0].identity is None
    place.path.write_bytes(b"one\n")
    first = place.plan()[0].identity
    place.path.write_bytes(b"one\ntwo\n")
    assert place.plan()[0].identity == first


def test_it_goes_on_where_the_server_is(place: Place) -> None:
    """A file that has grown goes on behind what the server has."""
    place.path.write_bytes(b"one\n")
    place.ships(place.plan()[0])
    with place.path.open("ab") as file:
        file.write(b"two\n")
    assert place.says() == [("a.log", 4)]


def test_renamed_while_nobody_looked(place: Place) -> None:
    """Renamed files are finished, those that nobody ever saw come whole, in the order in which they were written."""
    place.path.write_bytes(b"one\ntwo\n")
    place.ships(place.plan()[0], 4)
    place.path.rename(place.name(2))
    place.name(1).write_bytes(b"three\n")
    place.path.write_bytes(b"four\n")
    assert place.says() == [("a.log.2", 4), ("a.log.1", 0), ("a.log", 0)]
    place.name(3).write_bytes(b"older than all that was shipped\n")
    assert place.says() == [("a.log.2", 4), ("a.log.1", 0), ("a.log", 0)]


def test_copied_and_emptied_while_nobody_looked(place: Place) -> None:
    """The copy is read on as the file that it was; the emptied one is a new one."""
    place.path.write_bytes(b"one\ntwo\n")
    old = place.plan()[0].identity
    place.ships(place.plan()[0], 4)
    shutil.copyfile(place.path, place.name(1))
    place.path.write_bytes(b"three\n")
    rest, own = place.plan()
    assert (rest.identity, rest.start) == (old, 4)
    assert own.identity != old
    assert own.start == 0


def test_a_copy_that_is_being_made(place: Place) -> None:
    """A copy beside the file that is still whole is nothing new, however much of it is there."""
    place.path.write_bytes(b"zero\n")
    place.ships(place.plan()[0])
    place.path.rename(place.name(2))
    place.path.write_bytes(b"one\ntwo\n")
    for length in (2, 4, 8):
        place.name(1).write_bytes(b"one\ntwo\n"[:length])
        assert place.says() == [("a.log", 0)]
    place.ships(place.plan()[0], 4)
    for length in (2, 4, 8):
        place.name(1).write_bytes(b"one\ntwo\n"[:length])
        assert place.says() == [("a.log", 4)]


def test_a_file_that_begins_as_the_one_before(place: Place) -> None:
    """Logs that begin with the same line are told apart by their place, and by their lives where one is emptied."""
    place.path.write_bytes(b"# begin\none\n")
    first = place.plan()[0].identity
    place.ships(place.plan()[0])
    place.path.write_bytes(b"# begin\n")
    second = place.plan()[0].identity
    assert first is not None
    assert second is not None
    assert (second.inode, second.print, second.life) == (first.inode, first.print, 1)
    place.ships(place.plan()[0])
    assert place.says() == [("a.log", 8)]
    place.path.rename(place.name(1))
    place.path.write_bytes(b"# begin\n")
    assert place.says() == [("a.log", 0)]


def test_emptied_and_written_again_as_before(place: Place) -> None:
    """A file that was seen to be emptied is a new one, even if it looks the same again by now."""
    place.path.write_bytes(b"one\n")
    (step,) = place.plan()
    place.ships(step)
    assert place.says() == [("a.log", 4)]
    assert step.identity is not None
    assert place.says(step.identity) == [("a.log", 0)]


def test_other_bytes_where_the_server_has_some(place: Place) -> None:
    """A file of the same place and beginning that holds something else before the offset is another one."""
    place.path.write_bytes(b"# begin\none\n")
    place.ships(place.plan()[0])
    place.path.write_bytes(b"# begin\ntwo, and longer\n")
    assert place.says() == [("a.log", 0)]


def test_the_server_lost_a_whole_file(place: Place) -> None:
    """What the server lost of renamed files comes again before what came later."""
    place.path.write_bytes(b"one\n")
    place.ships(place.plan()[0])
    place.path.rename(place.name(2))
    place.path.write_bytes(b"two\n")
    place.path.rename(place.name(1))
    place.path.write_bytes(b"three\n")
    assert place.says() == [("a.log.1", 0), ("a.log", 0)]


def test_no_file_at_the_path(place: Place) -> None:
    """Without the file, what was renamed is finished all the same."""
    place.path.write_bytes(b"one\ntwo\n")
    place.ships(place.plan()[0], 4)
    place.path.rename(place.name(1))
    assert place.says() == [("a.log.1", 4)]


def test_last_line(place: Place) -> None:
    """Where the last whole line ends."""
    place.path.write_bytes(b"one\n" + b"x" * 100_000)
    (step,) = place.plan()
    assert step.file.last_line_end() == 4
    place.path.write_bytes(b"one")
    assert step.file.last_line_end() == 0
