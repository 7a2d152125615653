"""JSON documents as they came: checked whole, and read member by member with the text of each value.

Nothing is written anew: a number's digits, an escape, a lone surrogate, the order of members stay as the sender chose
them. Values are scanned by json's own decoder, which is C and tells where a value ends.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import NamedTuple, NoReturn

from gateway.core.problems import Problem

__all__ = ["Member", "check_depth", "decode", "scan_array_item", "scan_end", "scan_object", "scan_start", "scan_value"]

MAX_DEPTH = 128
_BOM = "\ufeff"
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(
    r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL
)  # the last quote may be missing, or this were quadratic
_OTHERS = bytes(c for c in range(128) if chr(c) not in "[]{}")
_STEPS = bytes.maketrans(b"[{]}", b"\x02\x02\x00\x00")
_DIGITS = 4000  # below Python's limit for int()


class Member(NamedTuple):
    """A member of an object: its value and its text, which is all that stands between the tokens around it."""

    value: object
    text: str


class _NotANumber(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NotANumber(name)


def _long_int(digits: str) -> int | str:
    return int(digits) if len(digits) <= _DIGITS else digits


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_PATIENT_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_long_int)


def decode(body: bytes) -> str:
    """The text of a body that holds one or several JSON texts. Raises Problem bad-json: not UTF-8, or a BOM."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Problem(
            "bad-json",
            f"The body is not UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}.",
            remedy="Send UTF-8.",
        ) from error
    if text.startswith(_BOM):
        raise Problem("bad-json", "The body begins with a byte order mark.", remedy="Send UTF-8 without it.")
    return text


def check_depth(text: str) -> None:
    """Raises Problem bad-json if values are nested deeper than 128. The text need not be JSON."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    outside = _STRING.sub("", text)
    brackets = outside.encode("ascii", "ignore").translate(None, _OTHERS).translate(_STEPS)
    # each opening bracket is 2 and each closing one 0, so the depth behind the n-th is their sum less n
    depth = max((total - n for n, total in enumerate(accumulate(brackets), 1)), default=0)
    if depth > MAX_DEPTH:
        raise _too_deep()


def scan_start(text: str) -> int:
    """Where the first token stands."""
    return _skip(text, 0)


def scan_end(text: str, at: int) -> None:
    """Raises Problem bad-json if anything but white space follows."""
    at = _skip(text, at)
    if at != len(text):
        raise _fault(text, at, "something follows the value")


def scan_value(text: str, at: int) -> tuple[object, int]:
    """The value that begins at `at`, and where it ends. Raises Problem bad-json."""
    try:
        return _scan(_DECODER, text, at)
    except ValueError:  # a number of more digits than int() takes
        return _scan(_PATIENT_DECODER, text, at)


def _scan(decoder: json.JSONDecoder, text: str, at: int) -> tuple[object, int]:
    try:
        return decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _fault(text, error.pos, error.msg) from error
    except _NotANumber as error:
        detail = f"{error} is no JSON number."
        raise Problem("bad-json", detail, value=str(error), remedy="Send null, or a string.") from error
    except RecursionError as error:
        raise _too_deep() from error


def scan_object(text: str, at: int) -> tuple[dict[str, Member], int]:
    """The members of the object whose brace stands at `at`, and where it ends. Raises Problem bad-json.

    Of members that occur twice the last counts.
    """
    members: dict[str, Member] = {}
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return members, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise _fault(text, at, "a member's name is expected")
        name, at = scan_value(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise _fault(text, at, "a colon is expected")
        begin = at + 1
        value, at = scan_value(text, _skip(text, begin))
        at = _skip(text, at)
        members[str(name)] = Member(value, text[begin:at])
        token = text[at : at + 1]
        if token == "}":
            return members, at + 1
        if token != ",":
            raise _fault(text, at, "a comma or } is expected")
        at = _skip(text, at + 1)


def scan_array_item(text: str, at: int, *, first: bool) -> int | None:
    """Where the next item of an array begins, None behind the last one. Raises Problem bad-json.

    at: behind the opening bracket (first) or behind the item before.
    """
    at = _skip(text, at)
    token = text[at : at + 1]
    if token == "]":
        scan_end(text, at + 1)
        return None
    if first:
        return at
    if token != ",":
        raise _fault(text, at, "a comma or ] is expected")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # it matches the empty string
    return match.end()


def _fault(text: str, at: int, what: str) -> Problem:
    where = "at its end" if at >= len(text) else f"at character {at + 1}"
    return Problem(
        "bad-json",
        f"Not JSON {where}: {what[:1].lower() + what[1:]}.",
        value=text[at : at + 40] or None,
        remedy="Send what a JSON encoder writes.",
    )


def _too_deep() -> Problem:
    return Problem(
        "bad-json",
        f"Values are nested deeper than {MAX_DEPTH}.",
        remedy="Flatten the data, or send it as a string.",
    )
