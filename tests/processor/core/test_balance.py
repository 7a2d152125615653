"""Who of an ordered group reads what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from processor.core.balance import ALIVE_MS, Member, entitled, moves, quotas

names = st.lists(st.text("abcdefgh", min_size=1, max_size=3), unique=True, max_size=20)


@given(names, st.integers(1, 64))
def test_quotas_are_fair(members: list[str], partitions: int) -> None:
    """All partitions are for somebody, and two members differ by one at most; who joined first has no fewer."""
    found = list(quotas(members, partitions).values())
    assert sum(found) == (partitions if members else 0)
    assert found == sorted(found, reverse=True)
    assert not found or found[0] - found[-1] <= 1


@given(names.filter(bool), st.integers(1, 32), st.data())
def test_members_that_do_as_they_should_come_to_rest(members: list[str], partitions: int, data: st.DataObject) -> None:
    """However the partitions are spread, soon each member has its quota, and then nothing moves; a member that has no more
    than its quota loses nothing."""
    owners = {number: data.draw(st.sampled_from(["", "gone", *members])) for number in range(partitions)}
    begun = dict(owners)
    share = quotas(members, partitions)
    for _ in range(3):
        for number, owner in owners.items():
            if owner == "gone":
                owners[number] = ""  # its lease has run out
        for member in members:
            mine = {number: data.draw(st.integers(0, 2)) for number, owner in owners.items() if owner == member}
            free = [number for number, owner in owners.items() if not owner]
            plan = moves(share[member], mine, free)
            assert not (plan.take and plan.give)
            owners.update(dict.fromkeys(plan.take, member))
            owners.update(dict.fromkeys(plan.give, ""))
    for member in members:
        mine_now = {number for number, owner in owners.items() if owner == member}
        had = {number for number, owner in begun.items() if owner == member}
        assert len(mine_now) == share[member]
        assert mine_now >= had or len(had) > share[member]


@given(st.integers(0, 8), st.dictionaries(st.integers(0, 15), st.integers(0, 3), max_size=16), st.data())
def test_what_nothing_runs_of_goes_first(quota: int, mine: dict[int, int], data: st.DataObject) -> None:
    """What is going already counts as gone, and is not asked for twice."""
    leaving = data.draw(st.sets(st.sampled_from(sorted(mine)))) if mine else set()
    plan = moves(quota, mine, [], leaving=leaving)
    assert not leaving & set(plan.give)
    assert len(mine) - len(leaving) - len(plan.give) <= max(quota, 0)
    kept = [calls for number, calls in mine.items() if number not in leaving and number not in plan.give]
    assert not plan.give or not kept or max(mine[number] for number in plan.give) <= min(kept)


def member(name: str, seen: int, *handles: str) -> Member:
    return Member(name, 0, seen, frozenset(handles))


def test_who_handles_all_reads() -> None:
    """In a rolling deploy the new members do, as soon as one lives; a dead one counts for nothing."""
    old, new = member("old", 10_000, "a"), member("new", 10_000, "a", "b")
    assert entitled([old], 10_000, ["a"]) == ["old"]
    assert entitled([old, new], 10_000, ["a"]) == ["new"]
    assert entitled([old, new], 10_000 + ALIVE_MS - 1, ["a", "b"]) == ["new"]
    assert entitled([old, member("new", 10_000 - ALIVE_MS, "a", "b")], 10_000, ["a", "b"]) == ["old"]
    assert entitled([old, member("other", 10_000, "c")], 10_000, ["a", "c"]) == ["old", "other"]
    assert entitled([], 10_000, ["a"]) == []
