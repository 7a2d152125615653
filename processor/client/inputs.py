"""A task's parameters: arguments become JSON by name, JSON becomes typed arguments, a mismatch is refused where it happens."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from processor.core.errors import BadInput, SettingsError
from processor.core.json import dumps

__all__ = ["Inputs"]

_PLAIN = (str, int, float, bool, type(None), dict, list)


class Inputs:
    """Of one function whose first parameter is the run."""

    def __init__(self, name: str, fn: Callable[..., Any]) -> None:
        self.name = name
        signature = inspect.signature(fn)
        parameters = list(signature.parameters.values())
        if not parameters or parameters[0].kind not in (
            parameters[0].POSITIONAL_ONLY,
            parameters[0].POSITIONAL_OR_KEYWORD,
        ):
            raise TypeError(f"task {name}: its first parameter is the run, as in `async def {name}(run: Run, …)`")
        for parameter in parameters[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(
                    f"task {name}: parameter {parameter} has no name of its own; its input is a JSON object"
                )
        self._signature = signature.replace(parameters=parameters[1:])
        self._fn = fn
        self._adapters: dict[str, Any] | None = None

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
        """Arguments by name, defaults filled in, checked. Raises BadInput."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadInput(
                f"task {self.name}: {error}.", remedy=f"It takes {self._signature}.", field="input"
            ) from error
        bound.apply_defaults()
        return self._check(dict(bound.arguments))

    def to_json(self, values: Mapping[str, object]) -> bytes:
        """The input as the run carries it."""
        return dumps(dict(values))

    def _check(self, values: dict[str, object]) -> dict[str, object]:
        if self._adapters is None:
            self._adapters = self._make_adapters()
        for name, adapter in self._adapters.items():
            if isinstance(adapter, type):
                self._check_plain(name, adapter, values[name])
            else:
                values[name] = self._validate(name, adapter, values[name])
        return values

    def _make_adapters(self) -> dict[str, Any]:
        """A builtin type, checked here, or pydantic's adapter for everything else."""
        hints = self._hints()
        adapters: dict[str, Any] = {}
        for name in self._signature.parameters:
            hint = hints.get(name, Any)
            if hint is Any or hint is object:
                continue
            adapters[name] = hint if hint in _PLAIN else _adapter(self.name, name, hint)
        return adapters

    def _hints(self) -> dict[str, Any]:
        """Of the parameters alone: what the run's own names may be imported for type checkers only."""
        written = getattr(self._fn, "__annotations__", {})
        probe = types.FunctionType((lambda: None).__code__, getattr(inspect.unwrap(self._fn), "__globals__", {}))
        probe.__annotations__ = {name: written[name] for name in self._signature.parameters if name in written}
        return typing.get_type_hints(probe, include_extras=True)

    def _check_plain(self, name: str, wanted: type, value: object) -> None:
        fits = isinstance(value, wanted) and not (isinstance(value, bool) and wanted in (int, float))
        if not fits and not (wanted is float and isinstance(value, int) and not isinstance(value, bool)):
            raise BadInput(
                f"{self.name}: {name} is {type(value).__name__}, not {wanted.__name__}.",
                remedy=f"It takes {self._signature}.",
                field=f"input.{name}",
                value=repr(value)[:200],
            )

    def _validate(self, name: str, adapter: Any, value: object) -> object:
        try:
            return adapter.validate_python(value)
        except ValueError as error:  # pydantic's ValidationError is one
            raise BadInput(
                f"{self.name}: {name} does not fit: {_short(error)}", field=f"input.{name}", value=repr(value)[:200]
            ) from error


def _adapter(task: str, name: str, hint: Any) -> Any:
    try:
        from pydantic import TypeAdapter
    except ImportError as error:
        raise SettingsError(
            f"task {task}: parameter {name} is {hint!r}, which pydantic checks, and pydantic is not installed.",
            remedy='pip install "tailrace[typed]"',
        ) from error
    return TypeAdapter(hint)


def _short(error: ValueError) -> str:
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where + ': ' if where else ''}{first['msg']}"
