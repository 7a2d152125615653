"""Verdicts: what the end of a reaction's call means for its entries. Nothing is decided by time or chance here, and nothing sent."""

from __future__ import annotations

from typing import Literal, NamedTuple

import structlog

from processor.client.reaction import Reaction
from processor.core.backoff import GiveUp, RetryLater
from processor.core.errors import BadInput
from processor.core.failure import failure, text_of, words_of
from processor.core.json import dumps
from processor.store.reacting import Delivery

__all__ = ["Verdict", "dead_of", "judge"]

log = structlog.get_logger("tailrace.reactions")


class Verdict(NamedTuple):
    """Of a call that failed, for one of its entries."""

    verb: Literal["retry", "dead"]
    words: str
    tries: int  # with the one that failed
    delay_seconds: float = 0.0
    failure: bytes = b""  # JSON, of a dead letter


def judge(reaction: Reaction, delivery: Delivery, error: BaseException, draw: float) -> Verdict:
    """draw: a random number in [0, 1). No error is too odd to be judged: its entry would be held for ever."""
    try:
        return _judged(reaction, delivery, error, draw)
    except Exception as odd:
        log.exception("error_unjudged", reaction=reaction.name, run=delivery.run, id=delivery.id)
        return dead_of(f"{words_of(error)} ({words_of(odd)})", "error", delivery.tries + 1)


def _judged(reaction: Reaction, delivery: Delivery, error: BaseException, draw: float) -> Verdict:
    words, tries, retry = words_of(error), delivery.tries + 1, reaction.policy.retry
    if isinstance(error, GiveUp):
        return dead_of(text_of(error) or "given up", "given_up", tries, error)
    if isinstance(error, RetryLater):
        return Verdict("retry", words, delivery.tries, error.seconds)
    unfit = isinstance(error, BadInput) and error.field.startswith("input")  # no further try makes it fit
    if unfit or isinstance(error, retry.never) or tries >= retry.attempts:
        return dead_of(words, "timeout" if isinstance(error, TimeoutError) else "error", tries, error)
    return Verdict("retry", words, tries, retry.delay_seconds(tries, draw))


def dead_of(words: str, reason: str, tries: int, error: BaseException | None = None) -> Verdict:
    """What becomes a dead letter."""
    said = dict(failure(words, reason, error)) | {"attempts": tries}
    return Verdict("dead", words, tries, failure=dumps(said))
