"""Rates and limits on the servers: GCRA as the standard has it, places as the rule says, whatever the clock does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processor.store.rates import Place, PlaceVerb, Turn
from tests.processor.store.turns import TERM_MS, Gcra, Places, Turns, turn
from tests.support.servers import Kind, TestServer, binary_of, running

HOUR = 3_600_000
quickly = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def turns(every_server: TestServer, namespace: str) -> Iterator[Turns]:
    turns = Turns(every_server, namespace)
    yield turns
    turns.close()


# -- rates


def test_a_burst_and_then_one_each_interval(turns: Turns) -> None:
    """As many as the burst pass at once, then one when an interval has passed, and the wait told is exact."""
    assert turns.ask(*[turn("60/min", burst=3)] * 5) == [0, 0, 0, 1000, 1000]
    turns.now += 999
    assert turns.ask(turn("60/min", burst=3)) == [1]
    turns.now += 1
    assert turns.ask(*[turn("60/min", burst=3)] * 2) == [0, 1000]


def test_what_is_refused_takes_nothing(turns: Turns) -> None:
    """Asking in vain, however often, does not put off the time at which it passes."""
    assert turns.ask(turn("2/s", cost=2)) == [0]
    for _ in range(20):
        assert turns.ask(turn("2/s", cost=2)) == [1000]
    turns.now += 1000
    assert turns.ask(turn("2/s", cost=2)) == [0]


def test_intervals_below_a_millisecond(turns: Turns) -> None:
    """90,000 a minute are 90,000 a minute: no part of an interval is rounded away."""
    assert turns.ask(turn("90000/min", cost=90_000)) == [0]
    passed = 0
    for _ in range(100):
        turns.now += 7
        while turns.ask(turn("90000/min")) == [0]:
            passed += 1
    assert passed == 700 * 90_000 // 60_000


def test_large_numbers_are_whole(turns: Turns) -> None:
    """The largest rate over the longest time has no rounding either."""
    most = turn("100000000/day", cost=99_999_999)
    assert turns.ask(most, turn("100000000/day"), turn("100000000/day")) == [0, 0, 1]
    assert turns.ask(most) == [86_400_000]  # 86,399,999.136


def test_one_call_asks_for_several(turns: Turns) -> None:
    """Keys are counted apart, and each answer stands where its request stood."""
    answers = turns.ask(turn("1/s", "a"), turn("1/h", "b"), turn("1/s", "a"), turn("1/h", "b"), turn("1/s", "c"))
    assert answers == [0, 0, 1000, HOUR, 0]


def test_no_wait_is_longer_than_the_burst_when_the_clock_goes_back(turns: Turns) -> None:
    """A clock that was an hour ahead blocks nobody for an hour: what was taken stays taken and comes free from now on."""
    turns.now += HOUR
    assert turns.ask(*[turn("60/min")] * 60) == [0] * 60
    turns.now -= HOUR
    assert turns.ask(turn("60/min")) == [1000]
    turns.now += 1000
    assert turns.ask(turn("60/min")) == [0]


def test_a_rate_may_become_another_one(turns: Turns) -> None:
    """What was taken under an old rate blocks a new one for no longer than its own burst takes."""
    assert turns.ask(turn("1000/day", cost=1000)) == [0]
    assert turns.ask(turn("10/s")) == [100]


def test_levels_expire(turns: Turns) -> None:
    """A level's key goes when nothing of it is left, so values of labels cost no memory for ever."""
    turns.scripts = turns.plain
    turns.ask(turn("60/min", cost=30))
    assert 29_000 < turns.client.pttl(turns.keys.rate("k")) <= 30_000


def test_an_impossible_cost_is_an_error(turns: Turns) -> None:
    """A cost above the burst would wait for ever, so it is refused before it is sent."""
    with pytest.raises(ValueError, match="a cost of 4 never passes"):
        turns.ask(turn("3/s", cost=4))


@pytest.mark.parametrize("kind", ["valkey", "redis7"])
def test_without_memory_turns_and_places_are_given(kind: Kind, namespace: str) -> None:
    """A server that is out of memory heals by what runs to its end, so nothing waits for its memory here."""
    if binary_of(kind) is None:
        pytest.skip(f"{kind} is not installed")
    with running(kind) as server:
        turns = Turns(server, namespace)
        try:
            assert turns.ask(turn("1/h", "other")) == [0]  # and the clock is set
            turns.client.config_set("maxmemory", 1)
            assert turns.ask(turn("1/h"), turn("1/h")) == [0, HOUR]
            assert turns.places("h", place("take", "a"), place("take", "b")) == ["taken", "full"]
            assert turns.places("h", place("renew", "a"), place("give_back", "a")) == ["renewed", "given"]
        finally:
            turns.client.config_set("maxmemory", 0)
            turns.close()


RATES = st.sampled_from([("5/s", 0), ("5/s", 1), ("60/min", 3), ("90000/min", 500), ("7/h", 0), ("3/day", 2)])


@quickly
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 20_000) | st.integers(-2 * HOUR, 2 * HOUR) | st.just(0),
            st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 600)), min_size=1, max_size=4),
        ),
        max_size=30,
    ),
    rates=st.fixed_dictionaries({"a": RATES, "b": RATES}),
)
def test_same_as_virtual_scheduling(
    turns: Turns, steps: list[tuple[int, list[tuple[str, int]]]], rates: dict[str, tuple[str, int]]
) -> None:
    """Any requests at any times, the clock going where it likes, are answered as the standard's other algorithm does in exact
    fractions; and asking again when the wait is over succeeds."""
    turns.client.delete(*(turns.keys.rate(key) for key in "ab"))
    oracle = Gcra()
    for step, asked in steps:
        turns.now = max(1_600_000_000_000, turns.now + step)
        wanted: list[Turn] = []
        for key, cost in asked:
            one = turn(rates[key][0], key, burst=rates[key][1])
            wanted.append(one._replace(cost=1 + cost % one.rate.burst))
        answers = turns.ask(*wanted)
        assert answers == [oracle.ask(one, turns.now) for one in wanted]
        assert all(
            0 <= wait <= one.rate.burst * one.rate.interval_ms + 1 for wait, one in zip(answers, wanted, strict=True)
        )
        if answers[-1]:
            turns.now += answers[-1]
            assert turns.ask(wanted[-1]) == [oracle.ask(wanted[-1], turns.now)] == [0]


@quickly
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 8)), min_size=1, max_size=40))
def test_no_window_has_more_than_its_share(turns: Turns, asked: list[tuple[int, int]]) -> None:
    """Between any two moments at most the burst and what comes free between them passes."""
    turns.client.delete(turns.keys.rate("k"))
    passed: list[tuple[int, int]] = []
    for step, cost in asked:
        turns.now += step
        if turns.ask(turn("20/s", cost=cost, burst=8)) == [0]:
            passed.append((turns.now, cost))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            together = sum(cost for _, cost in passed[first : last + 1])
            assert together <= 8 + (passed[last][0] - passed[first][0]) * 20 / 1000


# -- limits


def place(verb: PlaceVerb, run: str = "r", at_most: int = 1, key: str = "k") -> Place:
    return Place(verb, key, at_most, run)


def test_places_are_taken_and_given_back(turns: Turns) -> None:
    """At most so many runs have a place; one given back is free for the next in the same call."""
    asked = [place("take", run, 2) for run in "abc"]
    assert turns.places("h", *asked) == ["taken", "taken", "full"]
    assert turns.places("h", place("give_back", "a"), place("take", "c", 2), place("take", "a", 2)) == [
        "given",
        "taken",
        "full",
    ]


def test_a_run_has_one_place(turns: Turns) -> None:
    """Asking again, as after a lost answer, takes no second place and gives none back."""
    assert turns.places("h", place("take", "a", 2), place("take", "a", 2), place("take", "b", 2)) == ["taken"] * 3
    assert turns.places("h", place("give_back", "a"), place("give_back", "a"), place("take", "c", 2)) == [
        "given",
        "given",
        "taken",
    ]
    assert turns.places("h", place("take", "d", 2)) == ["full"]


def test_nothing_is_left_behind(turns: Turns) -> None:
    """When the last place is given back there is no key; until then it has a time to live."""
    turns.places("h", place("take", "a", 2), place("take", "b", 2))
    assert turns.client.pttl(turns.keys.limit("k")) > TERM_MS
    turns.places("h", place("give_back", "a"), place("give_back", "b"))
    assert not turns.client.exists(turns.keys.limit("k"))


def test_a_dead_holders_place_comes_free(turns: Turns) -> None:
    """Where others ask meanwhile, a place that nobody renews is free after a term."""
    assert turns.places("dead", place("take", "a")) == ["taken"]
    for _ in range(4):
        turns.now += TERM_MS // 4
        assert turns.places("h", place("take", "b")) == ["full"]
    turns.now += 1
    assert turns.places("h", place("take", "b")) == ["taken"]


def test_a_renewed_place_stays(turns: Turns) -> None:
    """A place that is renewed stays for as long as its run takes."""
    turns.places("h", place("take", "a"))
    for _ in range(40):
        turns.now += TERM_MS // 4
        assert turns.places("h", place("renew", "a")) == ["renewed"]
        assert turns.places("g", place("take", "b")) == ["full"]


def test_an_outage_frees_no_place(turns: Turns) -> None:
    """After a time in which nobody could renew, the holders have a term to come back before their places are given away."""
    turns.places("h", place("take", "a"))
    turns.now += 10 * TERM_MS
    assert turns.places("g", place("take", "b")) == ["full"]
    turns.now += TERM_MS // 4
    assert turns.places("h", place("renew", "a")) == ["renewed"]
    turns.now += TERM_MS - 1
    assert turns.places("g", place("take", "b")) == ["full"]


def test_who_does_not_come_back_loses_it(turns: Turns) -> None:
    """A term behind an outage the places of those that were not heard of are free, however rarely anybody asks."""
    turns.places("dead", place("take", "a"))
    turns.now += 10 * TERM_MS
    assert turns.places("g", place("take", "b")) == ["full"]
    turns.now += TERM_MS + 1
    assert turns.places("g", place("take", "b")) == ["taken"]


def test_a_clock_that_goes_back_blocks_for_a_term_at_most(turns: Turns) -> None:
    """Places taken while the clock was an hour ahead pass a term later, not an hour."""
    turns.now += HOUR
    turns.places("dead", place("take", "a"))
    turns.now -= HOUR
    assert turns.places("g", place("take", "b")) == ["full"]
    turns.now += TERM_MS + 1
    assert turns.places("g", place("take", "b")) == ["taken"]


def test_a_run_taken_over_brings_its_place(turns: Turns) -> None:
    """Who takes a run over gets the place that its last holder had, and that one's late give-back frees nothing."""
    turns.places("dead", place("take", "a"))
    assert turns.places("h", place("take", "a")) == ["full"]
    assert turns.places("h", place("take_over", "a")) == ["taken"]
    assert turns.places("dead", place("give_back", "a")) == ["given"]
    assert turns.places("g", place("take", "b")) == ["full"]


def test_a_holder_that_was_away_is_counted_again(turns: Turns) -> None:
    """A run that goes on although its place went is counted as soon as its holder renews, over the limit if need be."""
    turns.places("h", place("take", "a"))
    turns.places("g", place("take_over", "a"), place("give_back", "a"))
    assert turns.places("h", place("renew", "a")) == ["renewed"]
    assert turns.places("g", place("take", "b")) == ["full"]


VERBS = st.sampled_from(("take", "take", "take", "take_over", "renew", "give_back"))
ASKED = st.tuples(st.sampled_from("hg"), VERBS, st.sampled_from("kl"), st.sampled_from("abcd"))
PAUSES = st.sampled_from(
    (0, 1, TERM_MS // 4, TERM_MS // 3, TERM_MS // 3 + 1, TERM_MS, TERM_MS + 1, 4 * TERM_MS, -HOUR, HOUR)
)


@quickly
@given(st.lists(st.tuples(PAUSES, st.lists(ASKED, min_size=1, max_size=3)), max_size=40))
def test_same_as_the_model(turns: Turns, steps: list[tuple[int, list[tuple[str, PlaceVerb, str, str]]]]) -> None:
    """Random requests of two processes for two limits, with silences and a clock that jumps, are answered as the model says."""
    turns.client.delete(*(turns.keys.limit(key) for key in "kl"))
    model = Places()
    for pause, asked in steps:
        turns.now += pause
        for holder, verb, key, run in asked:
            one = place(verb, run, {"k": 1, "l": 2}[key], key)
            assert turns.places(holder, one) == model.ask(holder, [one], turns.now), (verb, key, run)
