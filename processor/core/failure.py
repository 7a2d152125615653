"""An error as events and hashes carry it: in words, cut to what anybody reads."""

from __future__ import annotations

import contextlib
import os
import traceback
from typing import Final

__all__ = ["failure", "short", "text_of", "traceback_of", "words_of"]

WORDS_CHARS: Final = 8000  # some errors quote the whole of what they could not read
TRACEBACK_CHARS: Final = 8000  # the last ones: there is the cause
SHORT_CHARS: Final = 250
_LEADING: Final = (  # files whose frames stand between the process and the user's code
    os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ""),
    contextlib.__file__,  # a dependency is called through it
)


def words_of(error: BaseException) -> str:
    """Its type and text. Raises nothing, whatever the error's own code does."""
    name, text = type(error).__name__, text_of(error)
    return f"{name}: {text}" if text else name


def text_of(error: BaseException) -> str:
    """What it says, "" if nothing. Raises nothing."""
    try:
        text = str(error)
    except Exception as odd:  # noqa: BLE001 - an error that cannot be told is told without its text
        return f"its text cannot be made ({type(odd).__name__})"
    return text if len(text) <= WORDS_CHARS else text[:WORDS_CHARS] + "…"


def short(words: str) -> str:
    """What the hash keeps of it; the event has more."""
    return words if len(words) <= SHORT_CHARS else words[:SHORT_CHARS] + "…"


def failure(words: str, reason: str, error: BaseException | None = None) -> dict[str, object]:
    """Data of run.failed."""
    data: dict[str, object] = {"error": words, "reason": reason}
    if error is not None:
        data["traceback"] = traceback_of(error)[-TRACEBACK_CHARS:]
    return data


def traceback_of(error: BaseException) -> str:
    """Its traceback and those of the errors that led to it, each from the user's first line; whole where no line is the user's."""
    told = traceback.TracebackException.from_exception(error, compact=True)
    part: traceback.TracebackException | None = told
    while part is not None:
        _begin_with_user(part.stack)
        part = part.__cause__ or part.__context__
    return "".join(told.format())


def _begin_with_user(stack: traceback.StackSummary) -> None:
    ours = next((n for n, frame in enumerate(stack) if not frame.filename.startswith(_LEADING)), 0)
    del stack[:ours]
