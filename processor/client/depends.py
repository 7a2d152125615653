"""Dependencies: what a task needs besides its input, made when an execution begins and cleaned up when it ends.

async def connection(run: Run) -> AsyncIterator[Connection]:
    async with pool.acquire() as connection:
        yield connection

@tail.task
async def charge(run: Run, order: Order, db: Connection = Depends(connection)) -> str: ...
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from processor.client.threads import in_thread

if TYPE_CHECKING:
    from processor.client.run import Run

__all__ = ["Dependency", "Depends", "is_async", "marker_of"]

_Made = dict[object, object]


@dataclass(frozen=True, slots=True)
class _Marker:
    fn: Callable[..., Any]


def Depends(fn: Callable[..., Any]) -> Any:
    """As a parameter's default, or in Annotated: the parameter is what fn returns or yields, and no part of the input.

    fn: a function, plain (then it runs in a thread) or async, or a generator, whose rest is executed when the execution has
    ended, with its exception raised at the `yield`. It is called once an execution, however many ask for it. Its own
    parameters are dependencies, the run (by the annotation Run) or have defaults.
    """
    if not callable(fn):
        raise TypeError(f"Depends takes a function, not {fn!r}")
    return _Marker(fn)


def marker_of(hint: object, default: object) -> _Marker | None:
    """What Depends left at a parameter."""
    if isinstance(default, _Marker):
        return default
    if typing.get_origin(hint) is Annotated:
        return next((extra for extra in typing.get_args(hint)[1:] if isinstance(extra, _Marker)), None)
    return None


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: a function, a partial of one, or an object with such a __call__."""
    return _is(inspect.iscoroutinefunction, fn)


def _is(kind: Callable[[Any], bool], fn: Any) -> bool:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return kind(fn) or (not inspect.isroutine(fn) and not inspect.isclass(fn) and kind(getattr(fn, "__call__", None)))  # noqa: B004


_Handle = Literal["run", "sync_run"]


class Dependency:
    """One function of Depends, with those that it needs itself."""

    def __init__(self, fn: Callable[..., Any], within: tuple[Callable[..., Any], ...] = ()) -> None:
        """within: whose parameters lead to it. Raises TypeError for a parameter that nothing gives, and for a circle."""
        if fn in within:
            raise TypeError(f"dependency {_name(fn)} needs itself: {' → '.join(map(_name, (*within, fn)))}")
        self._fn = fn
        self._key: object = fn if isinstance(fn, Hashable) else id(fn)
        self._sources = _sources(fn, (*within, fn))
        self._make = _maker(fn)

    async def value(self, run: Run[Any], made: _Made, stack: AsyncExitStack) -> object:
        """Its value for this execution. made: what was made already. stack: where its end is entered."""
        if self._key not in made:
            arguments = {name: await self._given(source, run, made, stack) for name, source in self._sources.items()}
            made[self._key] = await self._make(arguments, stack)
        return made[self._key]

    async def _given(self, source: Dependency | _Handle, run: Run[Any], made: _Made, stack: AsyncExitStack) -> object:
        if isinstance(source, Dependency):
            return await source.value(run, made, stack)
        if source == "run":
            return run
        from processor.client.sync import Portal, SyncRun

        return SyncRun(run, Portal.of_running_loop())


def _name(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__qualname__", fn))


def _sources(fn: Callable[..., Any], within: tuple[Callable[..., Any], ...]) -> dict[str, Dependency | _Handle]:
    found: dict[str, Dependency | _Handle] = {}
    for parameter in _parameters(fn):
        hint = _hint(fn, parameter.annotation)
        marker = marker_of(hint, parameter.default)
        handle = _handle(hint)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is not parameter.POSITIONAL_ONLY and marker is not None:
            found[parameter.name] = Dependency(marker.fn, within)
        elif parameter.kind is not parameter.POSITIONAL_ONLY and handle is not None:
            found[parameter.name] = handle
        elif parameter.default is parameter.empty:
            raise TypeError(
                f"dependency {_name(fn)}: nothing gives its parameter {parameter.name}. "
                "Annotate it with Run if it is the run, or give it a default: = Depends(…)"
            )
    return found


def _parameters(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(fn).parameters.values())
    except ValueError:  # some builtins have no signature
        return []


def _hint(fn: Callable[..., Any], written: object) -> object:
    """An annotation as an object; as it is written where its names are imported for type checkers only."""
    if not isinstance(written, str):
        return written
    while isinstance(fn, functools.partial):
        fn = fn.func
    code: Any = fn.__init__ if inspect.isclass(fn) else fn if inspect.isroutine(fn) else type(fn).__call__
    probe = types.FunctionType((lambda: None).__code__, getattr(inspect.unwrap(code), "__globals__", {}))
    probe.__annotations__ = {"value": written}
    try:
        return typing.get_type_hints(probe, include_extras=True)["value"]
    except (NameError, AttributeError):
        return written


def _handle(hint: object) -> _Handle | None:
    """Whether the annotation is Run or SyncRun, with or without its result's type."""
    name = hint if isinstance(hint, str) else getattr(typing.get_origin(hint) or hint, "__name__", "")
    name = str(name).partition("[")[0].rpartition(".")[2]
    return "run" if name == "Run" else "sync_run" if name == "SyncRun" else None


_Maker = Callable[[dict[str, object], AsyncExitStack], Awaitable[object]]


def _maker(fn: Callable[..., Any]) -> _Maker:
    """How its value is made, by the kind of function it is."""
    if _is(inspect.isasyncgenfunction, fn):
        opened = asynccontextmanager(fn)
        return lambda arguments, stack: stack.enter_async_context(_Firm(opened(**arguments)))
    if _is(inspect.isgeneratorfunction, fn):
        blocking = contextmanager(fn)
        return lambda arguments, stack: stack.enter_async_context(_Firm(_Threaded(blocking(**arguments))))
    if is_async(fn):
        return lambda arguments, stack: fn(**arguments)

    async def call(arguments: dict[str, object], stack: AsyncExitStack) -> object:
        value = await in_thread(fn, **arguments)
        return await value if inspect.isawaitable(value) else value  # a lambda around an async function

    return call


class _Threaded(AbstractAsyncContextManager[object]):
    """A generator that blocks: each of its parts in a thread."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> object:
        value: object = await in_thread(self._context.__enter__)
        return value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await in_thread(self._context.__exit__, kind, error, trace)


class _Firm(AbstractAsyncContextManager[object]):
    """A generator may clean up after an exception or raise another one. That it swallows it changes nothing: the task failed."""

    def __init__(self, context: AbstractAsyncContextManager[object]) -> None:
        self._context = context

    async def __aenter__(self) -> object:
        return await self._context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._context.__aexit__(kind, error, trace)
