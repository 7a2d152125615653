"""JSON as bytes in one line. orjson does the work; what only JSON allows goes through the standard library."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, is_dataclass
from typing import Any

import orjson

from processor.core.errors import BadEvent

__all__ = ["dumps", "loads"]

_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def _default(value: object) -> object:
    """pydantic models and a few containers; orjson knows dataclasses, datetimes, enums and UUIDs."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    raise TypeError(f"{type(value).__name__} is not JSON")


def dumps(value: object) -> bytes:
    """One line, no CR or LF. Raises BadEvent if the value is not JSON."""
    try:
        return orjson.dumps(value, default=_default)
    except TypeError as error:
        # Lone surrogates (broken text of a model) and integers above 64 bits are JSON, though not orjson's.
        try:
            return json.dumps(value, default=_default, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError):
            raise BadEvent(
                f"data cannot be written as JSON: {error}",
                remedy="Give dicts, lists, strings, numbers, dataclasses or pydantic models.",
                field="data",
            ) from error


def loads(data: bytes | str) -> Any:
    """Raises ValueError."""
    if _LONG_NUMBER.search(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")):
        return json.loads(data)  # orjson takes integers above 64 bits for floats, and says nothing
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)  # lone surrogates, 1e400, deep nesting: stored as they came
