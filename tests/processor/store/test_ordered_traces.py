"""What a model checker found before an ordered group was built, step by step on every server (C6, C7, A4, A5)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from processor.store.reacting import Delivery
from tests.processor.store.stage_ordered import OrderedStage, Settle
from tests.support.servers import TestServer


@pytest.fixture
def stage(every_server: TestServer, namespace: str) -> Iterator[OrderedStage]:
    stage = OrderedStage(every_server, namespace)
    for _ in range(5):
        stage.append("a")
    yield stage
    stage.close()


def taken(stage: OrderedStage, member: str, nonce: str) -> str:
    found = stage.take(member, nonce)
    assert found is not None
    return found[0]


def done(token: str, before: str, *deliveries: Delivery) -> Settle:
    return Settle(token, before, (("done", deliveries),))


def test_a_new_owner_begins_with_what_the_old_one_was_given(stage: OrderedStage) -> None:
    """A is frozen with events 1 and 2; B, which takes over, is given these before the third."""
    stage.pull("A", taken(stage, "A", "n1"), "0-0", 2)
    for _ in range(7):
        stage.wait(stage.model.term_ms // 3)
        stage.take("C", "n2")
        if stage.model.owner == "C":
            break
    token = stage.model.token
    first = stage.pull("C", token, "0-0", 2)
    assert first.word == "again"
    assert stage.pull("C", token, first.deliveries[-1].entry, 2).word == "new"


def test_a_pull_whose_answer_is_lost_skips_nothing(stage: OrderedStage) -> None:
    """Sent again with the same last entry it gives the same ones, and then those behind them."""
    token = taken(stage, "A", "n1")
    first = stage.pull("A", token, "0-0", 2)
    after = first.deliveries[-1].entry
    lost = stage.pull("A", token, after, 2)
    again = stage.pull("A", token, after, 2)
    assert [one.entry for one in again.deliveries] == [one.entry for one in lost.deliveries]


def test_an_owner_notices_that_the_server_lost_a_settlement(stage: OrderedStage) -> None:
    """Event 1 is settled and lost with the server's last write: the settlement of event 2 is refused, and neither is skipped."""
    token = taken(stage, "A", "n1")
    one, two = stage.pull("A", token, "0-0", 2).deliveries
    kept = stage.snapshot()
    assert stage.settle(done(token, "", one)).words == ["settled"]
    stage.lose(kept)
    assert stage.settle(done(token, one.entry, two)).words == ["hole"]
    again = stage.pull("A", token, "0-0", 2)
    assert stage.settle(done(token, again.settled, *again.deliveries)).words == ["settled"]


def test_an_owner_notices_that_the_server_lost_what_it_was_given(stage: OrderedStage) -> None:
    """It has more than the group was given: it begins again."""
    token = taken(stage, "A", "n1")
    kept = stage.snapshot()
    after = stage.pull("A", token, "0-0", 2).deliveries[-1].entry
    stage.lose(kept)
    assert stage.pull("A", token, after, 2).word == "hole"


def test_a_late_copy_takes_no_other_entry_with_it(stage: OrderedStage) -> None:
    """The settlement of event 1 was refused behind a lost write, and a copy of it is executed when numbers would have begun anew."""
    token = taken(stage, "A", "n1")
    one, two = stage.pull("A", token, "0-0", 2).deliveries
    late = done(token, "", one)
    assert stage.settle(late).words == ["settled"]
    assert stage.settle(late).words == ["done"]
    assert stage.settle(done(token, one.entry, two)).words == ["settled"]
    assert stage.settle(late).words == ["hole"]


def test_a_call_of_several_whose_answer_was_lost_is_done(stage: OrderedStage) -> None:
    """Sent again all of its units are done, so that its owner drops nothing and calls no handler a second time."""
    token = taken(stage, "A", "n1")
    one, two = stage.pull("A", token, "0-0", 2).deliveries
    both = Settle(token, "", (("done", (one,)), ("done", (two,))))
    assert stage.settle(both).words == ["settled", "settled"]
    assert stage.settle(both).words == ["done", "done"]


def test_nobody_settles_under_a_lease_that_was_given_back(stage: OrderedStage) -> None:
    """Not before another has taken it either; and a take made again after a lost answer has the same token."""
    token = taken(stage, "A", "n1")
    assert taken(stage, "A", "n1") == token
    [one] = stage.pull("A", token, "0-0", 1).deliveries
    stage.give("A", token)
    assert stage.settle(done(token, "", one)).words == ["fenced"]
    assert stage.pull("A", token, "0-0", 1).word == "fenced"
    assert stage.take("B", "n2") == ("2-n2", False)
    assert stage.settle(done(token, "", one)).words == ["fenced"]
