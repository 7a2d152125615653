"""Splice: live messages and reads of the feed, joined."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.core.cursor import ZERO, FeedId
from processor.core.splice import (
    READ_FEED,
    Entry,
    Gap,
    Look,
    Message,
    Splice,
    Standing,
    explain,
    go_on,
    group,
    parse_message,
)


def test_message_is_first_id_and_payloads() -> None:
    """A message names its first event; the numbers of the others follow from it."""
    message = parse_message(b'7-1000\n"type":"a","data":1}\n"type":"b","data":2}')
    assert message == Message(7, 1000, [b'"type":"a","data":1}', b'"type":"b","data":2}'])
    assert message.last == FeedId(8, 1000)


@pytest.mark.parametrize("body", [b"", b"7-1000", b"x-1\na", b"7\na"])
def test_malformed_message_is_refused(body: bytes) -> None:
    """What is no message raises ValueError instead of becoming events."""
    with pytest.raises(ValueError):
        parse_message(body)


def test_entries_of_one_append_become_one_message() -> None:
    """Entries that share a ms are grouped, others are not."""
    entries = [(FeedId(1, 5), b"a"), (FeedId(2, 5), b"b"), (FeedId(3, 6), b"c")]
    assert group(entries) == [Message(1, 5, [b"a", b"b"]), Message(3, 6, [b"c"])]


def test_next_message_is_taken_whole() -> None:
    """What simply goes on is taken as it came."""
    splice = Splice(FeedId(2, 10))
    message = Message(3, 10, [b"a", b"b"])
    assert splice.take(message) is message
    assert splice.last == FeedId(4, 10)


def test_overlap_is_cut_off() -> None:
    """Of a message that was partly read from the feed only the rest is new."""
    splice = Splice(FeedId(3, 10))
    assert splice.take(Message(2, 10, [b"b", b"c", b"d"])) == Message(4, 10, [b"d"])
    assert splice.take(Message(2, 10, [b"b", b"c", b"d"])) is None


def test_hole_is_read_from_the_feed() -> None:
    """A message behind a hole is not taken."""
    splice = Splice(FeedId(3, 10))
    assert splice.take(Message(5, 11, [b"e"])) is READ_FEED
    assert splice.last == FeedId(3, 10)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(Message(2, 20, [b"x"]), id="seen number, newer ms"),
        pytest.param(Message(3, 20, [b"x"]), id="last number, newer ms"),
        pytest.param(Message(3, 5, [b"x"]), id="last number, older ms"),
        pytest.param(Message(2, 20, [b"x", b"y", b"z"]), id="across the last number, other ms"),
        pytest.param(Message(4, 5, [b"x"]), id="next number, older ms"),
    ],
)
def test_contradiction_is_checked_in_the_feed(message: Message) -> None:
    """What cannot be of the same history as the last event is never taken."""
    assert Splice(FeedId(3, 10)).take(message) is READ_FEED


def test_read_goes_on_behind_its_position() -> None:
    """An inclusive read that begins with the position brings what is behind it."""
    entries = [(FeedId(3, 10), b"c"), (FeedId(4, 11), b"d")]
    assert go_on(FeedId(3, 10), entries) == entries[1:]
    assert go_on(ZERO, [(FeedId(1, 1), b"a")]) == [(FeedId(1, 1), b"a")]
    assert go_on(FeedId(3, 10), []) is None


def test_cursor_directly_below_the_first_entry_misses_nothing() -> None:
    """A feed that was trimmed up to the reader's position has no gap for it."""
    assert go_on(FeedId(3, 10), [(FeedId(4, 11), b"d")]) == [(FeedId(4, 11), b"d")]


def test_trimmed_part_is_told_and_passed_over() -> None:
    """A feed that begins later has lost what is between, and goes on behind it."""
    gap = go_on(FeedId(3, 10), [(FeedId(9, 11), b"i")])
    assert gap == Gap(4, 8, "trimmed")
    assert gap.position() == FeedId(8, 0)
    assert go_on(gap.position(), [(FeedId(9, 11), b"i")]) == [(FeedId(9, 11), b"i")]


@pytest.mark.parametrize("first", [FeedId(3, 11), FeedId(3, 9), FeedId(4, 9)])
def test_other_identity_is_a_rewritten_history(first: FeedId) -> None:
    """The position's number under another ms, or a later number with an earlier ms: all that the reader has is void."""
    gap = go_on(FeedId(3, 10), [(first, b"x")])
    assert gap == Gap(1, 3, "rewritten")
    assert gap.position() == ZERO


AT = FeedId(5, 50)


@pytest.mark.parametrize(
    ("look", "standing", "position", "gap"),
    [
        (Look(None, None, None), Standing.UNKNOWN, ZERO, Gap(1, 5, "rewritten")),
        (Look("running", AT, AT), Standing.THERE, AT, None),
        (Look("running", FeedId(4, 40), FeedId(4, 40)), Standing.THERE, FeedId(4, 40), Gap(1, 5, "rewritten")),
        (Look("running", FeedId(5, 60), FeedId(5, 60)), Standing.THERE, FeedId(5, 60), Gap(1, 5, "rewritten")),
        (Look("succeeded", FeedId(9, 90), None), Standing.EXPIRED, FeedId(9, 90), Gap(6, 9, "expired")),
        (Look("failed", AT, None), Standing.EXPIRED, AT, None),
        (Look("failed", FeedId(4, 40), None), Standing.EXPIRED, FeedId(4, 40), Gap(1, 5, "rewritten")),
        (Look("running", AT, None), Standing.CORRUPT, ZERO, Gap(1, 5, "corrupt")),
        (Look(None, None, AT), Standing.CORRUPT, AT, Gap(1, 5, "corrupt")),
        (Look("running", AT, FeedId(4, 40)), Standing.CORRUPT, FeedId(4, 40), Gap(1, 5, "corrupt")),
        (Look("queued", None, None), Standing.THERE, ZERO, Gap(1, 5, "rewritten")),
    ],
)
def test_empty_read_is_explained(look: Look, standing: Standing, position: FeedId, gap: Gap | None) -> None:
    """What hash and feed say together tells why nothing is where the reader is."""
    assert look.standing is standing
    assert look.position == position
    assert explain(AT, look) == gap


def test_new_reader_of_an_unknown_run_misses_nothing() -> None:
    """A run that does not exist yet has no gap."""
    assert explain(ZERO, Look(None, None, None)) is None


class World:
    """A feed that may lose its tail, and the messages that its appends published. ms rises with each append."""

    def __init__(self) -> None:
        self.feed: list[Entry] = []
        self.published: list[Message] = []
        self.clock = 1

    def append(self, count: int) -> None:
        self.clock += 1
        first = len(self.feed) + 1
        payloads = [b"%d@%d" % (first + i, self.clock) for i in range(count)]
        self.feed += [(FeedId(first + i, self.clock), p) for i, p in enumerate(payloads)]
        self.published.append(Message(first, self.clock, payloads))

    def lose_tail(self, keep: int) -> None:
        """What the old server published came over connections that are gone: none of it arrives any more."""
        del self.feed[min(keep, len(self.feed)) :]
        self.published.clear()
        self.clock += 1


class Viewer:
    """Follows the rules of store/topic.py without I/O: reads the feed where Splice asks for it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.splice = Splice(ZERO)
        self.view: list[bytes] = []
        self.told = 0

    def offer(self, message: Message) -> None:
        taken = self.splice.take(message)
        if taken is READ_FEED:
            self.read()
        elif isinstance(taken, Message):
            self.view += taken.payloads

    def read(self) -> None:
        """Inclusive, to the end; a history that was rewritten is told and read from its start."""
        while True:
            last = self.splice.last
            step = go_on(last, self.world.feed[max(0, last.seq - 1) :])
            if step is None:
                end = self.world.feed[-1][0] if self.world.feed else None
                step = explain(last, Look("running", end, end)) or []
            if not isinstance(step, Gap):
                for id, payload in step:
                    self.view.append(payload)
                    self.splice.last = id
                return
            assert step.reason == "rewritten"
            self.told += 1
            self.view.clear()
            self.splice.last = step.position()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("offer"), st.integers(0, 30)),  # any message ever published: late, repeated, out of order
        st.tuples(st.just("newest"), st.just(0)),
        st.tuples(st.just("read"), st.just(0)),
    ),
    max_size=60,
)


def play(world: World, viewer: Viewer, steps: list[tuple[str, int]]) -> None:
    for word, n in steps:
        if word == "append":
            world.append(n)
        elif word == "read":
            viewer.read()
        elif world.published:
            viewer.offer(world.published[-1 if word == "newest" else n % len(world.published)])


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_any_loss_repetition_and_order_yields_an_unbroken_run(steps: list[tuple[str, int]]) -> None:
    """Whatever messages come, twice, late or never: the view is a prefix of the feed, the whole of it after a read."""
    world = World()
    viewer = Viewer(world)
    play(world, viewer, steps)
    payloads = [payload for _, payload in world.feed]
    assert viewer.view == payloads[: len(viewer.view)]
    assert viewer.told == 0
    viewer.read()
    assert viewer.view == payloads


@settings(max_examples=300, deadline=None)
@given(before=STEPS, keep=st.integers(0, 20), unseen=STEPS, after=STEPS)
def test_lost_tail_is_told_or_was_never_seen(
    before: list[tuple[str, int]], keep: int, unseen: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    """After a failover and a read of the feed the view equals the feed; where it held lost events, a rewrite was told."""
    world = World()
    viewer = Viewer(world)
    play(world, viewer, before)
    held = list(viewer.view)
    world.lose_tail(keep)
    for word, n in unseen:  # appended while the connection was down: nobody hears of it
        if word == "append":
            world.append(n)
    viewer.read()  # what `resubscribed` asks for
    play(world, viewer, after)
    payloads = [payload for _, payload in world.feed]
    assert viewer.view == payloads[: len(viewer.view)]
    if held != payloads[: len(held)]:
        assert viewer.told
    viewer.read()
    assert viewer.view == payloads
