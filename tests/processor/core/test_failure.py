"""Errors in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from processor import Depends, Run, SyncRun, Tailrace
from processor.client.calling import invoke
from processor.core.errors import BadInput
from processor.core.failure import failure, short, text_of, words_of


class _NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (_NoText(), "_NoText: its text cannot be made (RuntimeError)"),
        (ValueError("x" * 9000), "ValueError: " + "x" * 8000 + "…"),
    ],
)
def test_words(error: BaseException, words: str) -> None:
    """Type and text; a text that cannot be made is told as such, and a long one is cut."""
    assert words_of(error) == words


def test_text() -> None:
    """The text alone, where the type says nothing."""
    assert text_of(ValueError("no")) == "no"
    assert text_of(ValueError()) == ""


def test_short() -> None:
    """The hash keeps the first words."""
    assert short("no") == "no"
    assert short("x" * 300) == "x" * 250 + "…"


def test_failure() -> None:
    """run.failed has the end of the traceback, where there is an error."""
    try:
        raise ValueError("no" * 9000)
    except ValueError as error:
        data = failure("words", "error", error)
    assert data["error"] == "words"
    assert data["reason"] == "error"
    assert len(str(data["traceback"])) == 8000
    assert failure("words", "error") == {"error": "words", "reason": "error"}


def _broken() -> Iterator[int]:
    raise ValueError("no")
    yield 1  # type: ignore[unreachable]  # it makes this a generator


async def _needs(run: Run, made: int = Depends(_broken)) -> None: ...


async def _cleans_up(run: Run) -> None:
    try:
        raise ValueError("no")
    finally:
        raise KeyError("no more")


def _blocks(run: SyncRun) -> None:
    raise ValueError("no")


@pytest.mark.parametrize(("fn", "first"), [(_needs, "_broken"), (_cleans_up, "_cleans_up"), (_blocks, "_blocks")])
async def test_a_traceback_begins_with_the_line_of_the_user(fn: Any, first: str) -> None:
    """What called the task's function is left out, in each of the errors that led to the last one."""
    tail = Tailrace("redis://127.0.0.1:1")
    with pytest.raises(Exception, match="no") as failed:
        await invoke(tail.task(fn), tail.run("r"), {})
    told: BaseException = failed.value
    told.__traceback__ = told.__traceback__ and told.__traceback__.tb_next  # without this test's own frame
    text = str(failure("words", "error", told)["traceback"])
    firsts = [block.splitlines()[1] for block in text.split("Traceback (most recent call last):")[1:]]
    assert firsts
    assert all(line.endswith(f"in {first}") for line in firsts)


async def test_a_traceback_without_a_line_of_the_user_is_whole() -> None:
    """Where nothing of it is the user's, nothing is left out."""
    tail = Tailrace("redis://127.0.0.1:1")
    with pytest.raises(BadInput) as failed:
        await invoke(tail.task(_blocks), tail.run("r"), {"a": 1})
    told: BaseException = failed.value
    told.__traceback__ = told.__traceback__ and told.__traceback__.tb_next
    assert "in parse" in str(failure("words", "error", told)["traceback"])
