"""cached: the decorator, and the functions that it makes."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, cast, overload

from typing_extensions import TypeVar

from processor.cache.codec import Codec
from processor.cache.digest import Digests
from processor.cache.engine import Claim, Engine, Found
from processor.cache.policy import Policy
from processor.client.annotations import Annotations
from processor.client.depends import is_async

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["Cached", "Hit", "SyncCached", "cached"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hit(Generic[R]):
    """What `peek` found. error: the exception that is cached in place of a value."""

    value: R
    left_seconds: float
    error: Exception | None = None


class _Decorator(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]], /) -> Cached[P, R]: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncCached[P, R]: ...


def cached(
    tail: Tailrace,
    *,
    ttl_seconds: float,
    negative_seconds: float = 5.0,
    negative: Sequence[type[Exception]] = (),
    jitter: float = 0.1,
    early: float = 1.0,
    max_kib: int = 256,
    claim_seconds: float = 10.0,
    version: object = "",
    name: str | None = None,
) -> _Decorator:
    """Keeps a function's results on the server of `tail`, for all processes; each is computed by one caller at a time.

    Arguments and results are JSON, or of types that pydantic knows where they are annotated so.
    ttl_seconds: what a result is kept at most. jitter: which part of that it may be less, at random.
    negative: exceptions that are answers, kept as None is, for negative_seconds; 0: neither is kept.
    early: how eagerly a result that ends soon is computed anew by one caller; 0: never. max_kib: larger ones are not kept.
    claim_seconds: after which another process computes what a dead one had begun.
    version: another one knows nothing of what was kept before. name: the function's module and name by default.
    Raises BadInput, TypeError.
    """
    policy = Policy(ttl_seconds, negative_seconds, negative, jitter, early, max_kib, claim_seconds)
    frame = sys._getframe(1)

    def decorate(fn: Callable[..., Any]) -> Any:
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"{fn.__qualname__} yields; a cached function returns its result")
        named = name or f"{fn.__module__}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"
        codec = Codec(Annotations(fn, frame), policy.negative)
        engine, digests = Engine(tail, named, policy, codec), Digests(named, fn, version)
        return Cached(fn, engine, digests) if is_async(fn) else SyncCached(fn, engine, digests, tail)

    return cast("_Decorator", decorate)


class _Result:
    """Of one flight; each of its callers gets a value of his own. Raises ValueError for what cannot be read here."""

    def __init__(self, codec: Codec, found: Found) -> None:
        self._codec, self._found = codec, found
        self._error: Exception | None = None
        self._first: list[Any] = []  # what was decoded to see whether it can be
        if found.frame is not None:
            if codec.is_error(found.frame):
                self._error = codec.decode_error(found.frame)
            else:
                self._first.append(codec.decode(found.frame))

    def get(self) -> Any:
        """Raises the exception that is cached."""
        if self._error is not None:
            raise self._error
        if self._found.frame is None:
            return self._found.value
        return self._first.pop() if self._first else self._codec.decode(self._found.frame)


@dataclass(slots=True, eq=False)
class _Flight:
    task: asyncio.Task[_Result]
    callers: int = 0


class Cached(Generic[P, R]):
    """An async function whose results are cached."""

    def __init__(self, fn: Callable[P, Awaitable[R]], engine: Engine, digests: Digests) -> None:
        functools.update_wrapper(self, fn)
        self._fn, self._engine, self._digests = fn, engine, digests
        self._flights: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Flight]] = (
            weakref.WeakKeyDictionary()
        )

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Raises what the function raises, BadInput for arguments that are no key.

        It is computed once for all who wait; cancelled only when nobody waits any more.
        """
        digest = self._digests.of(args, kwargs)
        flights = self._flights.setdefault(asyncio.get_running_loop(), {})
        flight = flights.get(digest)
        if flight is None or flight.task.done():
            task = asyncio.get_running_loop().create_task(self._fly(digest, args, kwargs))
            flight = flights[digest] = _Flight(task)
        flight.callers += 1
        try:
            result = await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.callers == 1 and not flight.task.done():
                flight.task.cancel()
                await asyncio.wait([flight.task])
            raise
        finally:
            flight.callers -= 1
            if flight.callers == 0 and flights.get(digest) is flight:
                del flights[digest]
        return cast("R", result.get())

    async def _fly(self, digest: str, args: Any, kwargs: Any) -> _Result:
        engine = self._engine
        begun = await engine.begin(digest)
        if isinstance(begun, Found):
            try:
                return _Result(engine.codec, begun)
            except ValueError as error:
                begun = await _anew(engine, digest, error)
        return _Result(engine.codec, await self._compute(begun, args, kwargs))

    async def _compute(self, claim: Claim, args: Any, kwargs: Any) -> Found:
        try:
            value = await self._fn(*args, **kwargs)
        except BaseException as error:
            good = await self._engine.failed(claim, error)
            if good is None:
                raise
            return good
        return await self._engine.computed(claim, value)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forgets the result; what is being computed right now is not kept either. False if there was none.

        Raises ServerError.
        """
        return await self._engine.drop(self._digests.of(args, kwargs))

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> Hit[R] | None:
        """What is cached, without computing anything. Raises ServerError."""
        found = await self._engine.peek(self._digests.of(args, kwargs))
        return cast("Hit[R] | None", _hit(self._engine, found))


class SyncCached(Generic[P, R]):
    """A plain function whose results are cached. It computes in the thread that calls it; waiting blocks that one."""

    def __init__(self, fn: Callable[P, R], engine: Engine, digests: Digests, tail: Tailrace) -> None:
        functools.update_wrapper(self, fn)
        self._fn, self._engine, self._digests, self._tail = fn, engine, digests, tail

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Raises what the function raises, BadInput for arguments that are no key."""
        if self._tail.background.is_here:  # which cannot wait for what it would have to do
            return self._fn(*args, **kwargs)
        engine, digest = self._engine, self._digests.of(args, kwargs)
        begun = self._call(engine.begin(digest))
        result: _Result | None = None
        if isinstance(begun, Found):
            try:
                result = _Result(engine.codec, begun)
            except ValueError as error:
                begun = self._call(_anew(engine, digest, error))
        if isinstance(begun, Claim):
            result = _Result(engine.codec, self._compute(begun, args, kwargs))
        assert result is not None
        return cast("R", result.get())

    def _compute(self, claim: Claim, args: Any, kwargs: Any) -> Found:
        try:
            value = self._fn(*args, **kwargs)
        except BaseException as error:
            good = self._call(self._engine.failed(claim, error))
            if good is None:
                raise
            return good
        return self._call(self._engine.computed(claim, value))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """In a task's thread by its loop, so that a cancel ends the wait; else by the background thread, also where the
        caller holds a loop."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._tail.portal.call(coroutine)
        return contextvars.Context().run(self._tail.background.call, coroutine)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """As Cached.invalidate."""
        return self._call(self._engine.drop(self._digests.of(args, kwargs)))

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> Hit[R] | None:
        """As Cached.peek."""
        return cast("Hit[R] | None", _hit(self._engine, self._call(self._engine.peek(self._digests.of(args, kwargs)))))


async def _anew(engine: Engine, digest: str, error: ValueError) -> Claim:
    """What is cached cannot be read here: it is dropped, and computed by the caller."""
    engine.unreadable(error)
    with engine._server_may_fail():
        await engine.drop(digest)
    again = await engine.begin(digest)
    return again if isinstance(again, Claim) else Claim()


def _hit(engine: Engine, found: tuple[bytes, float] | None) -> Any:
    if found is None:
        return None
    frame, left = found
    try:
        if engine.codec.is_error(frame):
            return Hit(None, left, engine.codec.decode_error(frame))
        return Hit(engine.codec.decode(frame), left)
    except ValueError:
        return None
