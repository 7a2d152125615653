"""A function's annotations as objects, when they are needed, also where they are written as text."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Annotations"]

_WORD = re.compile(r"[^\W\d]\w*")


class Annotations:
    """Of one function. Names are looked up when first needed, so that types may be defined below it."""

    def __init__(self, fn: Callable[..., Any], frame: types.FrameType | None = None) -> None:
        """frame: where it is defined. A function inside of a function may name what is known there alone, a model of a test
        for example; what has no such name is not held."""
        self._written: dict[str, Any] = getattr(fn, "__annotations__", {})
        self._globals: dict[str, Any] = getattr(inspect.unwrap(fn), "__globals__", {})
        self._locals: dict[str, Any] = {}
        if frame is not None and frame.f_locals is not frame.f_globals:
            texts = " ".join(text for text in self._written.values() if isinstance(text, str))
            there = frame.f_locals
            self._locals = {name: there[name] for name in set(_WORD.findall(texts)) if name in there}

    def of(self, names: Iterable[str]) -> dict[str, Any]:
        """Of these parameters (`return` is one) alone: what others name may be imported for type checkers only. Raises NameError."""
        probe = types.FunctionType((lambda: None).__code__, self._globals)
        probe.__annotations__ = {name: self._written[name] for name in names if name in self._written}
        return typing.get_type_hints(probe, localns=self._locals or None, include_extras=True)
