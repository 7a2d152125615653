"""Names: what is allowed, and what is said if not."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.core.errors import BadEvent, BadInput, BadName
from processor.core.names import check_labels, check_name, check_namespace, check_producer, check_run, check_type

PART = string.ascii_letters + string.digits + "._:-"
part = st.text(PART, min_size=1, max_size=64).filter(lambda name: name not in (".", ".."))


@given(part, part)
def test_runs(root: str, name: str) -> None:
    """A run is `root` or `root~name`, each of 1 to 64 of the allowed characters; a part is also a name."""
    assert check_run(root) == root
    assert check_run(f"{root}~{name}") == f"{root}~{name}"
    assert check_name(name, "task") == name


BAD_RUNS = [
    "",
    ".",
    "..",
    "a~",
    "~a",
    "a~b~c",
    "a/b",
    "a b",
    "a\n",
    "é",
    "a" * 65,
    "a~" + "b" * 65,
    "a~.",
    "a{b}",
    "a%2Fb",
    "a\x00",
    "İ",
]


@pytest.mark.parametrize("name", BAD_RUNS)
def test_bad_runs(name: str) -> None:
    """Anything else is refused; the message says what is wrong and what is allowed."""
    with pytest.raises(BadName, match="Allowed: 1 to 64 of") as caught:
        check_run(name)
    assert caught.value.field == "run"
    assert caught.value.remedy


def test_a_strange_character_is_shown() -> None:
    """The message names the characters and their places, and the remedy offers a name that is allowed."""
    with pytest.raises(BadName) as caught:
        check_run("ticket/42 x")
    assert '"/" (7th character) and " " (10th character)' in caught.value.message
    assert 'Perhaps "ticket:42-x"' in caught.value.remedy
    assert check_run("ticket:42-x")


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_told(name: str) -> None:
    """No check lets through what does not fit its characters, whatever text comes."""
    checks: list[tuple[Callable[[str], str], str]] = [
        (check_run, PART + "~"),
        (lambda name: check_name(name, "task"), PART),
        (check_namespace, string.ascii_lowercase + string.digits + "-"),
        (check_producer, PART),
        (check_type, string.ascii_letters + string.digits + "._-"),
    ]
    for check, characters in checks:
        try:
            assert check(name) == name
        except BadInput:
            continue
        assert name
        assert set(name) <= set(characters)


@pytest.mark.parametrize("name", ["default", "a", "0", "team-a", "a" * 41])
def test_namespaces(name: str) -> None:
    """A namespace is 1 to 41 of a-z 0-9 -, not beginning with -."""
    assert check_namespace(name) == name


@pytest.mark.parametrize("name", ["", "-a", "A", "a:b", "a" * 42, "a.b", "a_b", "a\n", "{a}"])
def test_bad_namespaces(name: str) -> None:
    """A colon above all is refused: the ACL of one namespace would match another."""
    with pytest.raises(BadName, match="namespace"):
        check_namespace(name)


@pytest.mark.parametrize("name", ["log", "a.b", "order.paid", "A_b-c.D", "x" * 128])
def test_types(name: str) -> None:
    """An event type is dotted words, at most 128 characters."""
    assert check_type(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "é", "x" * 129, "tailrace.gap", "tailrace.", "a\n", 'a"b']
)
def test_bad_types(name: str) -> None:
    """Anything else is refused, and so is what begins with `tailrace.`."""
    with pytest.raises(BadEvent):
        check_type(name)


@pytest.mark.parametrize("name", ["", "a" * 129, "a b", "a~b", "é", "a\n"])
def test_bad_producers(name: str) -> None:
    """A producer is 1 to 128 of the characters of a run's part."""
    with pytest.raises(BadName):
        check_producer(name)
    assert check_producer("a" * 128)


def test_labels() -> None:
    """At most 32 labels, names of at most 62, values of at most 64 bytes, which half a surrogate pair has none of."""
    assert check_labels({"user": "é" * 32, "x" * 62: ""})
    for bad in (
        {"user": "é" * 33},
        {"": "x"},
        {"x" * 63: "x"},
        {"a b": "x"},
        {str(n): "" for n in range(33)},
        {"a": 1},
        {"a": "\ud800"},
    ):
        with pytest.raises(BadEvent, match="labels"):
            check_labels(bad)  # type: ignore[arg-type]
