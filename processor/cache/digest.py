"""Arguments of a call as a short text: equal for equal arguments, in every process and release."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import inspect
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from processor.core.errors import BadInput

__all__ = ["Digests"]

_TEXTS: Final = (datetime.date, datetime.time, datetime.timedelta, Decimal, UUID, PurePath)


class Digests:
    """Of one function's calls."""

    def __init__(self, name: str, fn: Any, version: object) -> None:
        self._name, self._version = name, str(version)
        self._signature = inspect.signature(fn)

    def of(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """32 hex digits of the version and all arguments by name, defaults filled in.

        Raises TypeError as the call itself would, BadInput for arguments without a fixed form.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        shaped = {name: self._shaped(name, value) for name, value in bound.arguments.items()}
        text = json.dumps([self._version, shaped], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _shaped(self, name: str, value: object) -> object:
        try:
            return _shape(value)
        except (TypeError, RecursionError) as error:
            raise BadInput(
                f"{self._name}: argument {name} is {type(value).__name__}, and the arguments are the cache's key: {error}.",
                remedy="Give builtins, dates, enums, dataclasses or pydantic models; what is no part of the question, such as "
                "a connection, belongs outside of the function's arguments.",
                field=name,
                value=repr(value)[:200],
            ) from error


def _shape(value: Any) -> Any:
    """As JSON that tells kinds apart: 1, 1.0, "1" and b"1" are four. Raises TypeError."""
    kind = type(value)
    if value is None or kind in (str, int, bool):
        return value
    if kind is float:
        return value if math.isfinite(value) else _tagged("float", repr(value))
    if kind in (list, tuple):
        return [_shape(item) for item in value]
    if kind is dict:
        if all(type(name) is str for name in value):
            return {name: _shape(item) for name, item in value.items()}
        return _tagged("dict", sorted(([_shape(name), _shape(item)] for name, item in value.items()), key=json.dumps))
    if kind in (set, frozenset):
        return _tagged(
            "set", sorted((_shape(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
        )
    if kind in (bytes, bytearray):
        return _tagged("bytes", bytes(value).hex())
    return _shape_of_class(value, kind)


def _shape_of_class(value: Any, kind: type) -> Any:
    if isinstance(value, Enum):
        return _tagged(kind.__qualname__, value.name)
    if isinstance(value, _TEXTS):
        return _tagged(kind.__qualname__, str(value))
    if dataclasses.is_dataclass(value):
        fields = {one.name: _shape(getattr(value, one.name)) for one in dataclasses.fields(value)}
        return _tagged(kind.__qualname__, fields)
    dump = getattr(kind, "model_dump", None)
    if dump is not None:
        return _tagged(kind.__qualname__, _shape(dump(value)))
    builtins: tuple[Any, ...] = (str, int, float, list, tuple, dict)
    for builtin in builtins:  # a subclass, such as a NamedTuple
        if isinstance(value, builtin):
            return _tagged(kind.__qualname__, _shape(builtin(value)))
    raise TypeError(f"a {kind.__name__} has no fixed form")


def _tagged(kind: str, value: object) -> dict[str, object]:
    return {"\0": kind, "of": value}
