"""Errors in words."""

from __future__ import annotations

import pytest

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
