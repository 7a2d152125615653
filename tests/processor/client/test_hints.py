"""Type hints that are checked without pydantic."""

from __future__ import annotations

from typing import Any, Literal, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, TypeAdapter, ValidationError

from processor.client.hints import plain_check, words

HINTS: list[Any] = [
    str,
    int,
    float,
    bool,
    None,
    list,
    dict,
    str | None,
    int | str,
    list[int],
    list[str | None],
    dict[str, int],
    dict[str, list[bool]],
    Literal["a", "b"],
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(hint=st.sampled_from(HINTS), value=JSON)
def test_what_fits_is_what_pydantic_takes_strictly(hint: Any, value: object) -> None:
    """A value fits exactly where pydantic, converting nothing, takes it and gives it back as it was."""
    check = plain_check(hint)
    assert check is not None
    try:
        TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        assert not check(value)
    else:
        assert check(value)


@pytest.mark.parametrize(
    ("value", "fits"), [("a", True), (1, True), (None, True), ("b", False), (True, False), (1.0, False)]
)
def test_a_literal_is_what_json_tells_apart(value: object, fits: bool) -> None:
    """True is no 1, and 1.0 is none either."""
    check = plain_check(Literal["a", 1, None])
    assert check is not None
    assert check(value) is fits
    assert not check([])


@pytest.mark.parametrize("hint", [Any, object])
def test_anything_fits_any(hint: Any) -> None:
    """Any and object are no condition."""
    check = plain_check(hint)
    assert check is not None
    assert check({"a": [1]})


@pytest.mark.parametrize("hint", [list[bytes], tuple[int, ...], dict[int, str], bytes, int | bytes, Literal[b"x"]])
def test_other_hints_are_not_for_it(hint: Any) -> None:
    """What JSON has no word for is left to pydantic."""
    assert plain_check(hint) is None


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (str, "str"),
        (None, "None"),
        (Optional[int], "int | None"),  # noqa: UP045
        (Union[int, str], "int | str"),  # noqa: UP007
        (list[int] | None, "list[int] | None"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Any, "Any"),
    ],
)
def test_hints_are_said_as_they_are_written(hint: Any, said: str) -> None:
    """Messages name a hint as its author would."""
    assert words(hint) == said
