"""Type hints that are checked without pydantic: builtins, unions of them, literals, lists and dicts of them.

Nothing is converted: what has another type does not fit. An int fits where a float is wanted, as in Python; a bool is no int.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any, Literal, Union

__all__ = ["Check", "data_adapter", "plain_check", "words"]

Check = Callable[[object], bool]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_float(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_none(value: object) -> bool:
    return value is None


def _is_anything(value: object) -> bool:
    return True


_BUILTINS: dict[Any, Check] = {
    str: lambda value: isinstance(value, str),
    int: _is_int,
    float: _is_float,
    bool: lambda value: isinstance(value, bool),
    type(None): _is_none,
    None: _is_none,
    list: lambda value: isinstance(value, list),
    dict: lambda value: isinstance(value, dict),
    Any: _is_anything,
    object: _is_anything,
}


def plain_check(hint: Any) -> Check | None:
    """Whether a value fits the hint; None where that takes pydantic."""
    try:
        known = _BUILTINS.get(hint)
    except TypeError:  # Annotated with something that has no hash
        return None
    if known is not None:
        return known
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _any_of([plain_check(arg) for arg in args])
    if origin is Literal:
        # In Python True == 1, in JSON it is not.
        allowed = {(type(arg), arg) for arg in args}
        plain = all(type(arg) in (str, int, bool, type(None)) for arg in args)
        return (lambda value: _hashable(value) and (type(value), value) in allowed) if plain else None
    if origin is list and len(args) == 1:
        return _list_of(plain_check(args[0]))
    if origin is dict and len(args) == 2 and args[0] is str:
        return _dict_of(plain_check(args[1]))
    return None


def _hashable(value: object) -> bool:
    return value is None or isinstance(value, (str, int))


def _any_of(checks: list[Check | None]) -> Check | None:
    found = [check for check in checks if check is not None]
    if len(found) < len(checks):
        return None
    return lambda value: any(check(value) for check in found)


def _list_of(check: Check | None) -> Check | None:
    if check is None:
        return None
    return lambda value: isinstance(value, list) and all(map(check, value))


def _dict_of(check: Check | None) -> Check | None:
    if check is None:
        return None
    return lambda value: (
        isinstance(value, dict) and all(isinstance(key, str) for key in value) and all(map(check, value.values()))
    )


def words(hint: Any) -> str:
    """A hint as it is written: `str`, `list[int] | None`."""
    if hint is None or hint is type(None):
        return "None"
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " | ".join(words(arg) for arg in typing.get_args(hint))
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "")


def data_adapter(hint: Any) -> Any:
    """pydantic's adapter of a type; None without pydantic, and for what is no type of data."""
    try:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
    except ImportError:
        return None
    try:
        return TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None
