"""A task's parameters: arguments become JSON by name, JSON becomes typed arguments, a mismatch is refused where it happens.

Builtins, unions, lists and dicts of them are checked here; everything else by pydantic, which is imported when the first
task that needs it is started or executed.
"""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

from processor.client.annotations import Annotations
from processor.client.depends import Dependency, is_async, marker_of
from processor.client.handles import may_be_run
from processor.client.hints import Check, plain_check, words
from processor.core.errors import BadEvent, BadInput, SettingsError
from processor.core.json import dumps

__all__ = ["Inputs"]

_EMPTY: Final = inspect.Parameter.empty
_EXACT: Final = (str, int, float, bool, list, dict)  # a value of exactly this type needs no further look


class _Parameter:
    """One member of the input."""

    __slots__ = ("_adapter", "check", "default", "exact", "hint", "name", "task")

    def __init__(self, task: str, name: str, hint: Any, default: object) -> None:
        if default is None and hint is not _EMPTY:
            hint = hint | None if isinstance(hint, (type, types.UnionType)) else typing.Optional[hint]  # noqa: UP045
        self.task, self.name, self.hint, self.default = task, name, hint, default
        self.exact = hint if hint in _EXACT else None
        self.check: Check | None = plain_check(Any if hint is _EMPTY else hint)
        self._adapter: Any = None

    def given(self, value: object) -> object:
        """An argument of start, as it is passed on. Raises BadInput."""
        if self.check is not None:
            if not self.check(value):
                raise self._refused(value)
            return value
        return self._validated(lambda: self.adapter.validate_python(value, by_alias=True, by_name=True), value)

    def parsed(self, value: object) -> object:
        """A member of the input as JSON has it, as the function gets it. Raises BadInput."""
        if self.check is not None:
            if not self.check(value):
                raise self._refused(value)
            return value
        # As JSON and not as Python values: a strict model takes a date from a string in JSON alone.
        return self._validated(lambda: self.adapter.validate_json(dumps(value), by_alias=True, by_name=True), value)

    def to_json(self, value: object) -> bytes:
        """Raises BadEvent."""
        if self.check is not None:
            return dumps(value)
        try:
            # By names, and without what is computed: what is read again must be what was written.
            encoded: bytes = self.adapter.dump_json(value, by_alias=False, round_trip=True)
        except ValueError as error:
            raise BadEvent(
                f"task {self.task}: {self.name} cannot be written as JSON: {error}", field=f"input.{self.name}"
            ) from error
        return encoded

    @property
    def adapter(self) -> Any:
        """pydantic's, of the hint. Raises SettingsError without pydantic, TypeError for what is no type of data."""
        if self._adapter is None:
            self._adapter = _adapter(self.task, self.name, self.hint)
        return self._adapter

    def _validated(self, validate: Callable[[], object], value: object) -> object:
        try:
            return validate()
        except ValueError as error:  # pydantic's ValidationError is one
            where, what = _first(error)
            raise BadInput(
                f"{self.task}: {self.name} does not fit: {where + ': ' if where else ''}{what}",
                field=f"input.{self.name}{'.' + where if where else ''}",
                value=repr(value)[:200],
            ) from error

    def _refused(self, value: object) -> BadInput:
        return BadInput(
            f"{self.task}: {self.name} is {_called(value, self.hint)}, not {words(self.hint)}.",
            field=f"input.{self.name}",
            value=repr(value)[:200],
        )


class Inputs:
    """Of one function whose first parameter is the run."""

    def __init__(self, name: str, fn: Callable[..., Any], annotations: Annotations | None = None) -> None:
        self.name = name
        parameters = list(inspect.signature(fn).parameters.values())
        if not parameters or parameters[0].kind not in (
            parameters[0].POSITIONAL_ONLY,
            parameters[0].POSITIONAL_OR_KEYWORD,
        ):
            raise TypeError(f"task {name}: its first parameter is the run, as in `async def {name}(run: Run, …)`")
        self._annotations = annotations or Annotations(fn)
        if not may_be_run(self._annotations, parameters[0]):
            raise _no_run(name, fn, parameters)
        for parameter in parameters[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(
                    f"task {name}: parameter {parameter} has no name of its own; its input is a JSON object"
                )
            if type(parameter.default).__module__.partition(".")[0] == "fastapi":
                raise TypeError(
                    f"task {name}: parameter {parameter.name} has FastAPI's {type(parameter.default).__name__}, which "
                    "knows of requests and not of tasks; `from tailrace import Depends`"
                )
        self._declared = parameters[1:]
        self._shape: _Shape | None = None

    @property
    def dependencies(self) -> Mapping[str, Dependency]:
        """The parameters that are no input, each with what makes it."""
        return self._known.dependencies

    @property
    def required(self) -> list[str]:
        """The parameters that have no default."""
        return [parameter.name for parameter in self._known.parameters.values() if parameter.default is _EMPTY]

    def prepare(self) -> None:
        """Looks at the annotations now. Raises TypeError, NameError, SettingsError for what is wrong with them."""
        for parameter in self._known.parameters.values():
            if parameter.check is None:
                _ = parameter.adapter

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
        """Arguments by name, defaults filled in, checked. Raises BadInput."""
        bound = self._bound(self._known.signature.bind, args, kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
        for name, parameter in self._known.parameters.items():
            values[name] = parameter.given(values[name])
        return values

    def bind_some(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], later: object
    ) -> tuple[dict[str, object], list[str], list[str]]:
        """As bind, where arguments may be missing: (values, names whose argument is `later`, names that have none).

        Raises BadInput.
        """
        bound = self._bound(self._known.signature.bind_partial, args, kwargs)
        left = [name for name in self._known.parameters if name not in bound.arguments]
        bound.apply_defaults()
        given = {name: value for name, value in bound.arguments.items() if value is not later}
        marked = [name for name in bound.arguments if name not in given]
        missing = [name for name in left if name not in bound.arguments]
        return {name: self._known.parameters[name].given(value) for name, value in given.items()}, marked, missing

    def _bound(
        self,
        bind: Callable[..., inspect.BoundArguments],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> inspect.BoundArguments:
        shape = self._known
        for name, value in kwargs.items():
            if name not in shape.parameters:  # told before what is missing on its account
                raise self._unknown(f"task {self.name}", name, value)
        try:
            return bind(*args, **kwargs)
        except TypeError as error:
            raise BadInput(
                f"task {self.name}: {error}.", remedy=f"It takes {shape.signature}.", field="input"
            ) from error

    def to_json(self, values: Mapping[str, object]) -> bytes:
        """The input as the run carries it. values: of `bind`. Raises BadEvent."""
        parameters = self._known.parameters
        if self._known.is_plain:
            return dumps(values)
        members = (b"%b:%b" % (dumps(name), parameters[name].to_json(value)) for name, value in values.items())
        return b"{%b}" % b",".join(members)

    def parse(self, input: object) -> dict[str, Any]:
        """The input of a run.queued as typed arguments, defaults filled in.

        input: JSON as Python has it; None is no argument. Raises BadInput for what is missing, unknown or does not fit.
        """
        shape = self._known
        if input is None:
            input = {}
        if not isinstance(input, dict):
            raise BadInput(
                f"{self.name}: its input is {_called(input, dict)}, not an object with a member for each parameter.",
                remedy=f"It takes {shape.signature}.",
                field="input",
                value=repr(input)[:200],
            )
        values: dict[str, Any] = {}
        left = len(input)
        for name, parameter in shape.parameters.items():
            if name in input:
                left -= 1
                value = input[name]
                values[name] = value if type(value) is parameter.exact else parameter.parsed(value)
            elif parameter.default is _EMPTY:
                raise self._missing(name)
            else:
                values[name] = parameter.default
        if left:
            raise next(self._unknown(self.name, name, input[name]) for name in input if name not in shape.parameters)
        return values

    @property
    def _known(self) -> _Shape:
        # Looked at when first needed and not by the decorator: types may be defined below the task.
        if self._shape is None:
            self._shape = _Shape(self.name, self._annotations, self._declared)
        return self._shape

    def _missing(self, name: str) -> BadInput:
        return BadInput(
            f"{self.name}: {name} is missing.", remedy=f"It takes {self._known.signature}.", field=f"input.{name}"
        )

    def _unknown(self, who: str, name: str, value: object) -> BadInput:
        near = difflib.get_close_matches(name, self._known.parameters, 1)
        perhaps = f"Perhaps {near[0]} was meant. " if near else ""
        return BadInput(
            f"{who}: it has no parameter {name if name.isidentifier() else repr(name)}.",
            remedy=f"{perhaps}It takes {self._known.signature}.",
            field=f"input.{name}",
            value=repr(value)[:200],
        )


class _Shape:
    """What the annotations say: which parameters are the input's and which are dependencies."""

    def __init__(self, task: str, annotations: Annotations, declared: list[inspect.Parameter]) -> None:
        hints = annotations.of(one.name for one in declared if marker_of(None, one.default) is None)
        self.dependencies: dict[str, Dependency] = {}
        self.parameters: dict[str, _Parameter] = {}
        kept: list[inspect.Parameter] = []
        for one in declared:
            hint = hints.get(one.name, _EMPTY)
            marker = marker_of(hint, one.default)
            if marker is not None:
                self.dependencies[one.name] = Dependency(marker.fn)
                continue
            self.parameters[one.name] = _Parameter(task, one.name, hint, one.default)
            # Behind a dependency positions are those of the function, which start does not have: names only.
            kept.append(_shown(one.replace(kind=one.KEYWORD_ONLY) if self.dependencies else one))
        self.signature = inspect.Signature(kept)
        self.is_plain = all(parameter.check is not None for parameter in self.parameters.values())


class _Text(str):
    """An annotation that is shown as it is written, without the quotes of a text."""

    __slots__ = ()
    __repr__ = str.__str__


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    hint = parameter.annotation
    if hint is _EMPTY:
        return parameter
    return parameter.replace(annotation=_Text(hint if isinstance(hint, str) else words(hint)))


def _no_run(name: str, fn: Callable[..., Any], parameters: list[inspect.Parameter]) -> TypeError:
    word, handle = ("async def", "Run") if is_async(fn) else ("def", "SyncRun")
    run = inspect.Parameter("run", parameters[0].kind, annotation=_Text(handle))
    right = inspect.Signature([run, *(_shown(one) for one in parameters if one.name != "run")])
    return TypeError(f"task {name}: its first parameter is the run, as in `{word} {name}{right}`")


def _adapter(task: str, name: str, hint: Any) -> Any:
    try:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticSchemaGenerationError
    except ImportError as error:
        raise SettingsError(
            f"task {task}: parameter {name} is {words(hint)}, which pydantic checks, and pydantic is not installed.",
            remedy='pip install "tailrace[typed]"',
        ) from error
    try:
        return TypeAdapter(hint)
    except PydanticSchemaGenerationError as error:
        raise TypeError(
            f"task {task}: parameter {name} is {words(hint)}, which no JSON becomes: give a builtin, dataclass, "
            f"TypedDict or pydantic model, or make it a dependency: {name}: {words(hint)} = Depends(…)"
        ) from error


def _called(value: object, wanted: Any) -> str:
    """The value's type; the value itself where its type is not what is wrong."""
    kind = "None" if value is None else type(value).__name__
    return repr(value)[:100] if kind in words(wanted).replace("[", " ").split() or "Literal" in words(wanted) else kind


def _first(error: ValueError) -> tuple[str, str]:
    """Where, and what does not fit."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return "", str(error)
    first = errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"]
