"""Arguments as a key."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel

from processor.cache.digest import Digests
from processor.core.errors import BadInput


def f(a: Any = None, *rest: Any, b: Any = 1, **more: Any) -> None:
    """Its calls are told apart."""


def digest(*args: Any, version: object = "", **kwargs: Any) -> str:
    return Digests("f", f, version).of(args, kwargs)


class Colour(Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


@dataclass
class Order:
    number: int


class Other(NamedTuple):
    number: int


class Model(BaseModel):
    number: int


def test_equal_calls() -> None:
    """By name or position, with defaults or without, in any order of names: one call is one key."""
    assert digest() == digest(None, b=1) == digest(a=None)
    assert digest(1, b=2) == digest(a=1, b=2)
    assert digest({"x": 1, "y": 2}, p=1, q=2) == digest({"y": 2, "x": 1}, q=2, p=1)
    assert digest((1, 2)) == digest([1, 2])
    assert digest({1, 2, 3}) == digest({3, 2, 1})


def test_other_calls() -> None:
    """Values of other kinds are other keys, and so is another version."""
    values: list[Any] = [
        *(None, 1, 1.0, True, "1", b"1", "None", float("nan"), float("inf"), 1 << 70, "\ud800", b"\xff", b"\xfe"),
        *(
            [1],
            {"1": 1},
            {1: 1},
            {1},
            {"number": 1},
            Order(1),
            Other(1),
            Model(number=1),
            Colour.RED,
            "red",
            Text("red"),
        ),
        *(Decimal("1"), UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1), "2026-01-01 00:00:00"),
    ]
    digests = [digest(value) for value in values]
    assert len(set(digests)) == len(values)
    assert digest(1, version=2) != digest(1, version=3)
    assert digest(1) != digest(1, 1) != digest(1, b=2)


@pytest.mark.parametrize("value", [object(), [open], {"x": {"y": iter(())}}, Digests])
def test_what_is_no_key(value: object) -> None:
    """Whatever has no fixed form is refused, with its name."""
    with pytest.raises(BadInput, match="f: argument a is"):
        digest(value)
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(BadInput, match="argument more is"):
        digest(x=deep)


def test_all_processes_agree() -> None:
    """Whatever Python's hashes are, the key is the same."""
    code = "from tests.processor.cache.test_digest import digest; print(digest({'a', 'b', 'c'}, x=frozenset('xyz')))"

    def elsewhere(seed: str) -> str:
        env: Mapping[str, str] = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout

    assert elsewhere("1") == elsewhere("2") == digest({"a", "b", "c"}, x=frozenset("xyz")) + "\n"
