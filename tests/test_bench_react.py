"""The bench of reactions judges what it should: its arguments, its events, the oracle that a drain must pass before its time counts."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.__main__ import arguments
from bench.process.oracle import Entry
from bench.process.peers import FOLDER
from bench.react import PARTS
from bench.react.drain import SHAPES
from bench.react.events import ASKED, DONE, even_runs, in_blocks, own_runs
from bench.react.growth import tenfold
from bench.react.handlers import FACTS, GROUP, KINDS, Handlers
from bench.react.oracle import faults, last_output
from processor.client.tailrace import Tailrace
from processor.core.keys import Keyspace
from processor.core.routing import increments


def feed(*types: str, begin: int = 1, ms: int = 1000) -> list[Entry]:
    """Ten milliseconds apart."""
    return [Entry(begin + n, ms + 10 * n, type) for n, type in enumerate(types)]


def test_whole_feeds_pass() -> None:
    """Runs with an output for each event, in whatever order and among other events, have no faults."""
    assert faults({"a": feed(ASKED, DONE), "b": feed("x", ASKED, ASKED, DONE, DONE)}, {"a": 1, "b": 2}) == []


@pytest.mark.parametrize(
    "bad",
    [
        [],
        feed(ASKED),
        feed(ASKED, DONE, DONE),
        feed(ASKED, ASKED, DONE, DONE),
        feed(ASKED, DONE, begin=2),
    ],
)
def test_a_feed_that_is_not_whole_is_told(bad: list[Entry]) -> None:
    """A run whose output is missing, doubled or behind a hole is named."""
    (fault,) = faults({"good": feed(ASKED, DONE), "bad": bad}, {"good": 1, "bad": 1})
    assert fault.startswith("1 of 2 feeds are not whole (bad: ")


def test_the_clock_ends_with_the_last_output() -> None:
    """By the feeds, wherever it is."""
    assert last_output({"a": feed(ASKED, DONE, ms=3000), "b": feed(ASKED, DONE, ms=2000)}) == 3.01


def test_runs_take_turns_among_partitions() -> None:
    """Few runs give every partition as much to do; a run an event falls where it falls, and no two are the same."""
    keys = Keyspace("bench", "8 nonce")
    assert [keys.number(run) for run in even_runs(keys, 16)] == [*range(8), *range(8)]
    assert len(set(own_runs(100))) == 100


def test_blocks_are_spread_over_all_runs() -> None:
    """Each block is of one run; with few runs they come again, with many the events go to some, from first to last."""
    runs = [str(number) for number in range(10)]
    assert Counter(in_blocks(runs, 100, 5)) == dict.fromkeys(runs, 10)
    many = [str(number) for number in range(1000)]
    assert list(in_blocks(many, 20, 5)) == ["0"] * 5 + ["250"] * 5 + ["500"] * 5 + ["750"] * 5


def test_growth_for_each_tenfold() -> None:
    """A cost that rises by as much each time grows by that share of its median; one odd point does not move it much."""
    assert tenfold([10, 100, 1000], [9.5, 10.0, 10.5]) == pytest.approx(5)
    assert tenfold([10, 100, 1000, 10_000], [10, 10, 10, 10]) == 0


def test_facts_bind_no_increments() -> None:
    """The ten groups of `idle` ask for facts alone, the one beside them for tokens."""
    tail = Tailrace("redis://127.0.0.1:1")
    Handlers(tail, "facts", 1)
    assert len(tail.reactions) == len(FACTS) == 10
    assert [increments(group.declared.bindings) for group in tail.reactions.values()] == [[]] * 10
    Handlers(tail, "tokens", 1)
    assert increments(tail.reactions["tokens"].declared.bindings) == ["message.delta"]


@pytest.mark.parametrize("kind", sorted({shape.kind for shape in SHAPES.values()}))
def test_shapes_have_handlers(kind: str) -> None:
    """What is drained is bound under the group that the bench waits for."""
    tail = Tailrace("redis://127.0.0.1:1")
    Handlers(tail, kind, 7)
    assert kind in KINDS
    assert tail.reactions[GROUP].policy.concurrency == 7
    assert (tail.reactions[GROUP].mode == "ordered") == (kind == "ordered")


def test_arguments_of_react() -> None:
    """Its parts, and its one peer."""
    assert arguments(["react"]).peers == ()
    assert [arguments(["react", "--only", part]).only for part in PARTS] == list(PARTS)
    assert arguments(["react", "--peers", "all"]).peers == ("faststream",)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["react", "--only", "memory"], "react has no part 'memory'; it has: drain, batch, latency, growth, idle"),
        (["react", "--peers", "saq"], "--peers saq: give none, all or some of faststream, with commas"),
    ],
)
def test_arguments_that_do_not_fit(given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What it does not have is refused, with what there is."""
    with pytest.raises(SystemExit, match="2"):
        arguments(given)
    assert told in capsys.readouterr().err


def test_the_batch_program_of_the_peer_is_there() -> None:
    """It runs in the environment of its library's other program."""
    assert (FOLDER / "faststream_batch.py").exists()
    assert (FOLDER / "faststream.txt").exists()
