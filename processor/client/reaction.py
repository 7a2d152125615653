"""Reactions: functions that handle events of any run, and the groups that they belong to."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal

from processor.client.annotations import Annotations
from processor.client.calling import executing
from processor.client.depends import Dependency, is_async, marker_of
from processor.client.run import Run
from processor.client.threads import in_thread
from processor.core.backoff import Retry
from processor.core.errors import BadInput, SettingsError
from processor.core.events import Event
from processor.core.names import check_name
from processor.core.routing import Binding
from processor.store.groups import Declared, Mode, WhenBehind

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["Group", "OnDead", "Reaction", "ReactionPolicy"]

OnDead = Literal["go_on", "stop"]
MAX_BATCH: Final = 200  # what one settlement acknowledges


@dataclass(frozen=True, slots=True)
class ReactionPolicy:
    """How a reaction's events are handled. Raises BadInput for what makes no sense."""

    ordered: bool = False  # of its group: events of a run one after the other
    batch: int = 1  # events of a call
    concurrency: int = 64  # calls at once in one process
    timeout_seconds: float = 60  # of one call
    retry: Retry = field(default_factory=Retry)
    start: Literal["first", "now"] = "first"  # of its group: where it begins when it is new
    when_behind: WhenBehind = "detach"  # of its group
    on_dead: OnDead = "go_on"  # ordered: whether a run's later events are handled behind one that is a dead letter

    def __post_init__(self) -> None:
        is_number = isinstance(self.batch, int) and not isinstance(self.batch, bool)
        _check("batch", self.batch, is_number and 1 <= self.batch <= MAX_BATCH, f"give 1 to {MAX_BATCH}")
        _check("concurrency", self.concurrency, self.concurrency >= 1, "give 1 or more")
        _check("timeout_seconds", self.timeout_seconds, self.timeout_seconds > 0, "give more than 0")
        _check("start", self.start, self.start in ("first", "now"), 'give "first" or "now"')
        _check("when_behind", self.when_behind, self.when_behind in ("detach", "refuse"), 'give "detach" or "refuse"')
        _check("on_dead", self.on_dead, self.on_dead in ("go_on", "stop"), 'give "go_on" or "stop"')
        if self.on_dead == "stop" and not self.ordered:
            raise BadInput(
                'on_dead="stop" keeps a run\'s order, which needs ordered=True.', field="on_dead", value="stop"
            )

    @property
    def mode(self) -> Mode:
        return "ordered" if self.ordered else "shared"


def _check(name: str, value: object, is_right: bool, remedy: str) -> None:
    if not is_right:
        raise BadInput(f"{name} is {value!r}; {remedy}.", field=name, value=repr(value)[:200])


class Reaction:
    """A function with what it is for. Its events come one by one, or with `batch` as a list."""

    def __init__(
        self,
        tail: Tailrace,
        fn: Callable[..., Any],
        binding: Binding,
        policy: ReactionPolicy,
        *,
        group: str | None = None,
        frame: FrameType | None = None,
    ) -> None:
        """frame: where it is defined. Raises BadName, TypeError for a function that cannot be called with an event."""
        self.tail, self.function, self.binding, self.policy = tail, fn, binding, policy
        self.name = str(getattr(fn, "__name__", "reaction"))
        self.group = check_name(group or self.name, "group")
        self._shape = _Shape(self.name, fn, Annotations(fn, frame), is_batch=policy.batch > 1)
        self.takes_run = self._shape.run is not None or not self._shape.is_direct  # whether `call` needs one

    def __repr__(self) -> str:
        return f"<Reaction {self.name} on {self.binding.text}>"

    def prepare(self) -> None:
        """Looks at the annotations now. Raises TypeError, NameError, SettingsError for what is wrong with them."""
        _ = self._shape.adapter

    def event(self, event: Event[Any]) -> Event[Any]:
        """As the function gets it: `Event[Model]` with its data checked. Raises BadInput."""
        adapter = self._shape.adapter
        return event if adapter is None else _Typed.of(event, adapter, self.name)

    def call(self, events: Sequence[Event[Any]], run: Run[Any] | None) -> Awaitable[Any]:
        """Awaited it handles them: one, or a batch. run: of the first event, where it `takes_run`.

        Raises what the function raises, BadInput for data that do not fit, both at once or when it is awaited.
        """
        shape = self._shape
        typed = events if shape.adapter is None else [self.event(event) for event in events]
        given: Any = list(typed) if shape.is_batch else typed[0]
        if run is None:
            handled: Awaitable[Any] = self.function(given)
            return handled
        return self.function(given, run) if shape.is_direct else self._with_dependencies(given, run)

    async def _with_dependencies(self, given: Any, run: Run[Any]) -> None:
        shape = self._shape
        made: dict[object, object] = {}
        async with AsyncExitStack() as stack:
            named = {name: await one.value(run, made, stack) for name, one in shape.dependencies.items()}
            await self._call(given, run, named)

    async def _call(self, given: Any, run: Run[Any], named: Mapping[str, object]) -> None:
        handle: Any = run
        if not self._shape.is_async:
            from processor.client.sync import Portal, SyncRun

            handle = SyncRun(run, Portal.of_running_loop())
        args = (given,) if self._shape.run is None else (given, handle)
        if self._shape.is_async:
            await self.function(*args, **named)
            return
        here = executing()
        try:
            await in_thread(self.function, *args, **named)
        except BaseException:
            if here is not None:
                here.cancel_waits()
            raise


class _Shape:
    """What a function's parameters say."""

    def __init__(self, name: str, fn: Callable[..., Any], annotations: Annotations, *, is_batch: bool) -> None:
        self._name, self._annotations = name, annotations
        self.is_batch, self.is_async = is_batch, is_async(fn)
        parameters = [one for one in inspect.signature(fn).parameters.values() if one.kind is not one.VAR_KEYWORD]
        plain = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        first = "events: list[Event]" if is_batch else "event: Event"
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"reaction {name} yields, and nothing would run it; it emits, or returns what it likes")
        if not plain:
            raise TypeError(f"reaction {name}: it takes no event, as `async def {name}({first}, run: Run)`")
        self.first = plain[0].name
        written = {one.name: one for one in parameters[1:]}
        hints = annotations.of(one for one in written if "Depends" in str(written[one].annotation))
        self.dependencies = {
            one.name: Dependency(marker.fn)
            for one in written.values()
            if (marker := marker_of(hints.get(one.name), one.default)) is not None
        }
        rest = [one.name for one in parameters[1:] if one.name not in self.dependencies and one.default is one.empty]
        if len(rest) > 1 or (rest and plain[1:2] and rest[0] != plain[1].name):
            raise TypeError(
                f"reaction {name}: nothing gives {', '.join(rest[1:] or rest)}; it takes `{first}`, `run: Run` and Depends(…)"
            )
        self.run = rest[0] if rest else None
        self.is_direct = self.is_async and not self.dependencies
        self._adapter: Any = None
        self._looked = False

    @property
    def adapter(self) -> Any:
        """pydantic's, of the model in `Event[Model]`; None where data are taken as they come."""
        if not self._looked:
            self._adapter, self._looked = self._make_adapter(), True
        return self._adapter

    def _make_adapter(self) -> Any:
        hint = self._annotations.of([self.first]).get(self.first, Any)
        is_list = typing.get_origin(hint) in (list, Sequence, tuple)
        if is_list and typing.get_args(hint):
            hint = typing.get_args(hint)[0]
        what = typing.get_origin(hint) or hint
        if what is Run or (what is Event and is_list != self.is_batch):
            written = f"{'list of ' if is_list else ''}{what.__name__}"
            wanted = "events: list[Event]" if self.is_batch else "event: Event"
            more = "since it has batch=…" if self.is_batch else "lists come with batch=…"
            raise TypeError(
                f"reaction {self._name}: its first parameter, {self.first}, is {written}; write `{wanted}`, {more}"
            )
        if typing.get_origin(hint) is not Event:
            return None
        [model] = typing.get_args(hint)
        if model in (Any, object, dict):
            return None
        try:
            from pydantic import TypeAdapter
        except ImportError as error:
            raise SettingsError(
                f"reaction {self._name}: its event's data are {model}, which pydantic checks, and pydantic is not installed.",
                remedy='pip install "tailrace[typed]"',
            ) from error
        return TypeAdapter(model)


class _Typed(Event[Any]):
    """An event whose data are a model."""

    __slots__ = ("_data",)
    _data: Any

    @classmethod
    def of(cls, event: Event[Any], adapter: Any, reaction: str) -> _Typed:
        typed = cls(event.run, event.feed_id, event.payload)
        try:
            typed._data = adapter.validate_python(event.data)
        except ValueError as error:  # pydantic's ValidationError is one
            raise BadInput(
                f"{reaction}: data of {event.type} do not fit: {error}",
                field="input.data",
                value=repr(event.data)[:200],
            ) from error
        return typed

    @property
    def data(self) -> Any:
        return self._data


class Group:
    """Reactions that share one position in the log: an event goes to the first of them that it fits."""

    def __init__(self, name: str, first: Reaction) -> None:
        self.name = name
        self.reactions: list[Reaction] = []
        self.policy = first.policy  # mode, start and when_behind are the group's

    @property
    def mode(self) -> Mode:
        return self.policy.mode

    def add(self, reaction: Reaction) -> None:
        """A reaction that is defined again replaces itself. Raises BadInput where it says of the group what another denies."""
        for name in ("ordered", "start", "when_behind", "on_dead"):
            mine, theirs = getattr(reaction.policy, name), getattr(self.policy, name)
            if self.reactions and mine != theirs:
                raise BadInput(
                    f"group {self.name}: {reaction.name} has {name}={mine!r}, and {self.reactions[0].name} {name}={theirs!r}.",
                    remedy="All reactions of a group agree on it; give one of them a group of its own: group=…",
                    field=name,
                )
        place = _place(reaction.function)
        for one in self.reactions:
            if one.binding.text == reaction.binding.text and _place(one.function) != place:
                raise BadInput(
                    f"group {self.name}: {'.'.join(_place(one.function))} is on {one.binding.text} already, so that "
                    f"{'.'.join(place)} would get nothing.",
                    remedy="Of a group one reaction handles an event; give this one a group of its own: group=…",
                    field="pattern",
                )
        kept = [
            one for one in self.reactions if (_place(one.function), one.binding.text) != (place, reaction.binding.text)
        ]
        self.reactions = [*kept, reaction]

    @property
    def declared(self) -> Declared:
        """What is told of it."""
        bindings = list({one.binding.text: one.binding for one in self.reactions}.values())
        return Declared(self.name, self.mode, bindings, self.policy.start, self.policy.when_behind)


def _place(function: Callable[..., Any]) -> tuple[str, str]:
    return str(function.__module__), str(getattr(function, "__qualname__", type(function).__qualname__))
