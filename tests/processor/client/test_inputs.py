"""A task's parameters: what a run's input becomes, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, computed_field
from typing_extensions import TypedDict

from processor import Depends, Run, SyncRun
from processor.client.hints import words
from processor.client.inputs import Inputs
from processor.core.errors import BadEvent, BadInput
from processor.core.json import loads


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cents: int = Field(alias="Cents", ge=0)
    due: date | None = None

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own advice
    @property
    def euros(self) -> Decimal:
        return Decimal(self.cents) / 100


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date


@dataclass
class Place:
    row: int
    seat: Literal["a", "b"] = "a"


class Point(TypedDict):
    x: float
    y: float


def inputs_of(fn: Callable[..., Any]) -> Inputs:
    return Inputs(fn.__name__, fn)


async def plain(
    run: Run, prompt: str, times: int = 2, *, share: float = 1.0, tags: list[str] | None = None
) -> None: ...


def test_builtins_become_arguments() -> None:
    """Members become arguments of their names, and what is missing has its default."""
    inputs = inputs_of(plain)
    assert inputs.parse({"prompt": "a"}) == {"prompt": "a", "times": 2, "share": 1.0, "tags": None}
    given = {"tags": ["x"], "share": 3, "prompt": "a", "times": 1}
    assert inputs.parse(given) == given


@pytest.mark.parametrize(
    ("input", "field", "said"),
    [
        ({}, "input.prompt", "prompt is missing"),
        (None, "input.prompt", "prompt is missing"),
        ([1], "input", "its input is list, not an object"),
        ("text", "input", "its input is str, not an object"),
        ({"prompt": 1}, "input.prompt", "prompt is int, not str"),
        ({"prompt": None}, "input.prompt", "prompt is None, not str"),
        ({"prompt": "a", "times": True}, "input.times", "times is bool, not int"),
        ({"prompt": "a", "times": "2"}, "input.times", "times is str, not int"),
        ({"prompt": "a", "tags": ["x", 1]}, "input.tags", r"tags is \['x', 1\], not list\[str\] | None"),
        ({"prompt": "a", "tmes": 2}, "input.tmes", "no parameter tmes"),
        ({"prompt": "a", "run": "x"}, "input.run", "no parameter run"),
    ],
)
def test_a_mismatch_is_refused_by_name(input: object, field: str, said: str) -> None:
    """What is missing, unknown or of another type is told with its name, and what the task takes."""
    with pytest.raises(BadInput, match=said) as refused:
        inputs_of(plain).parse(input)
    assert refused.value.field == field


def test_a_misspelt_parameter_is_guessed() -> None:
    """An unknown name that is nearly a known one is told beside it."""
    with pytest.raises(BadInput, match=r"Perhaps times was meant\."):
        inputs_of(plain).parse({"prompt": "a", "tmes": 2})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"promt": "a"}, "task plain: it has no parameter promt.\n  Perhaps prompt was meant."),
        ({"prompt": "a", "with space": 1}, "task plain: it has no parameter 'with space'."),
        ({"prompt": "a", "run": 1}, "task plain: it has no parameter run.\n  It takes (prompt: str"),
    ],
)
def test_an_argument_that_the_task_does_not_take_is_named(given: dict[str, object], said: str) -> None:
    """start names an unknown argument before one that is missing on its account, with what was perhaps meant."""
    with pytest.raises(BadInput) as refused:
        inputs_of(plain).bind((), given)
    assert str(refused.value).startswith(said)
    assert refused.value.field == f"input.{list(given)[-1]}"


async def typed(
    run: Run,
    order: Order,
    place: Place,
    point: Point,
    id: UUID,
    strict: Strict,
    row: Annotated[int, Field(ge=1)] = 1,
    days: tuple[date, ...] = (),
) -> None: ...


def test_types_of_data_arrive_as_what_was_given() -> None:
    """A model, a dataclass, a TypedDict and what pydantic knows besides come out of JSON as they went into it."""
    inputs = inputs_of(typed)
    values = inputs.bind(
        (),
        {
            "order": Order(Cents=5, due=date(2026, 11, 24)),
            "place": Place(1, "b"),
            "point": {"x": 1.5, "y": 2},
            "id": UUID(int=7),
            "strict": Strict(day=date(2026, 1, 2)),
            "days": (date(2026, 1, 1),),
        },
    )
    encoded = loads(inputs.to_json(values))
    assert encoded["order"] == {"cents": 5, "due": "2026-11-24"}
    assert inputs.parse(encoded) == values


def test_members_may_have_their_other_name() -> None:
    """Whoever starts a task over HTTP may name a model's member as its alias or as its attribute."""

    async def fn(run: Run, order: Order) -> None: ...

    for name in ("Cents", "cents"):
        assert inputs_of(fn).parse({"order": {name: 5}}) == {"order": Order(Cents=5)}


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"order": {"cents": -1}}, "input.order.cents", "greater than or equal to 0"),
        ({"place": {"row": 1, "seat": "z"}}, "input.place.seat", "seat"),
        ({"point": {"x": 1}}, "input.point.y", "y: Field required"),
        ({"row": 0}, "input.row", "row does not fit"),
        ({"days": ["2026-13-01"]}, "input.days.0", "days does not fit: 0:"),
    ],
)
def test_what_does_not_fit_a_model_is_told_with_its_place(change: dict[str, object], field: str, said: str) -> None:
    """A mismatch inside of a model names the member."""
    good = {
        "order": {"cents": 1},
        "place": {"row": 1},
        "point": {"x": 1, "y": 1},
        "id": str(UUID(int=1)),
        "strict": {"day": "2026-01-01"},
    }
    inputs = inputs_of(typed)
    inputs.parse(good)
    with pytest.raises(BadInput, match=said) as refused:
        inputs.parse(good | change)
    assert refused.value.field == field


def test_a_default_of_none_permits_none() -> None:
    """A parameter whose default is None takes null, whatever its hint."""

    async def fn(run: Run, a: str = None, place: Place = None, b: Place | None = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    inputs = inputs_of(fn)
    nothing = {"a": None, "place": None, "b": None}
    assert inputs.parse(loads(inputs.to_json(inputs.bind((), {})))) == nothing


def test_parameters_without_hints_take_anything() -> None:
    """Who annotates nothing gets what the JSON has."""

    async def fn(run, value, other=3): ...  # type: ignore[no-untyped-def]

    assert inputs_of(fn).parse({"value": {"a": [None]}}) == {"value": {"a": [None]}, "other": 3}


def test_what_is_no_data_is_told_with_the_remedy() -> None:
    """A parameter that no JSON can become is an error of the task, which says that it might be a dependency."""

    class Connection: ...

    async def fn(run: Run, db: Any) -> None: ...

    fn.__annotations__["db"] = Connection
    with pytest.raises(TypeError, match=r"parameter db is Connection.*Depends"):
        inputs_of(fn).parse({"db": {}})
    with pytest.raises(TypeError, match="no JSON becomes"):
        inputs_of(fn).prepare()


def test_what_cannot_be_written_is_refused() -> None:
    """An argument without a form in JSON is refused at start."""

    async def fn(run: Run, value: object, place: Place | None = None) -> None: ...

    inputs = inputs_of(fn)
    with pytest.raises(BadEvent):
        inputs.to_json(inputs.bind((object(),), {}))


def connection() -> int:
    return 1


Db = Annotated[int, Depends(connection)]


def test_dependencies_are_no_input() -> None:
    """A dependency is neither taken by start nor from JSON; behind it arguments have names only."""

    async def fn(run: Run, a: int, db: int = Depends(connection), other: Db = 0, b: int = 2) -> None: ...

    inputs = inputs_of(fn)
    assert list(inputs.dependencies) == ["db", "other"]
    assert inputs.parse({"a": 1}) == {"a": 1, "b": 2} == inputs.bind((1,), {})
    assert inputs.bind((1,), {"b": 5}) == {"a": 1, "b": 5}
    for args, kwargs in (((1, 2), {}), ((1,), {"db": 2})):
        with pytest.raises(BadInput):
            inputs.bind(args, kwargs)
    with pytest.raises(BadInput, match="no parameter db"):
        inputs.parse({"a": 1, "db": 1})


class Handle(Run): ...


def _first(annotation: object) -> Callable[..., Any]:
    async def a(x, y: int = 3): ...  # type: ignore[no-untyped-def]

    a.__annotations__["x"] = annotation
    return a


@pytest.mark.parametrize("annotation", [int, "int", "list[str]", int | None, Place, "Order", "Place"])
def test_a_task_that_forgot_its_run_is_told(annotation: object) -> None:
    """A first parameter that is clearly no run is refused where the task is defined, with what is right."""
    written = annotation if isinstance(annotation, str) else words(annotation)
    with pytest.raises(TypeError) as refused:
        inputs_of(_first(annotation))
    said = f"task a: its first parameter is the run, as in `async def a(run: Run, x: {written}, y: int = 3)`"
    assert str(refused.value) == said


def test_a_run_in_the_wrong_place_is_told() -> None:
    """What is right has the run once; a plain function takes another one."""

    def a(x: str, run: SyncRun) -> None: ...

    with pytest.raises(TypeError, match=r"as in `def a\(run: SyncRun, x: str\)`"):
        inputs_of(a)


@pytest.mark.parametrize(
    "annotation",
    [
        Run,
        Run[str],
        "Run[str]",
        SyncRun,
        Run | None,
        Handle,
        "Handle",
        Any,
        "Any",
        Any | None,
        object,
        "Elsewhere",
        TypeVar("T"),
    ],
)
def test_what_may_be_a_run_is_let_be(annotation: object) -> None:
    """Runs by any name, and what cannot be told: a name that only type checkers know is not held against a task."""
    inputs_of(_first(annotation))


@pytest.mark.parametrize(
    "fn",
    [lambda: None, lambda *args: None, lambda run, *rest: None, lambda run, **rest: None],
)
def test_a_function_whose_parameters_have_no_names_is_no_task(fn: Callable[..., Any]) -> None:
    """The first parameter is the run, and each other has a name."""
    with pytest.raises(TypeError, match="task t"):
        Inputs("t", fn)


def test_the_depends_of_fastapi_is_told_apart() -> None:
    """Whoever imported the other Depends is told so where the task is defined."""
    import fastapi

    async def fn(run: Run, db: int = fastapi.Depends(connection)) -> None: ...

    with pytest.raises(TypeError, match=r"parameter db has FastAPI's Depends.*from tailrace import Depends"):
        Inputs("fn", fn)


@given(
    prompt=st.text(st.characters(codec="utf-8")),
    times=st.integers(-(2**70), 2**70),
    share=st.floats(allow_nan=False, allow_infinity=False),
    tags=st.none() | st.lists(st.text(st.characters(codec="utf-8"))),
)
def test_what_start_takes_arrives(prompt: str, times: int, share: float, tags: list[str] | None) -> None:
    """Whatever start takes is what the function gets from the JSON in between."""
    inputs = inputs_of(plain)
    values = inputs.bind((prompt, times), {"share": share, "tags": tags})
    assert inputs.parse(loads(inputs.to_json(values))) == {
        "prompt": prompt,
        "times": times,
        "share": share,
        "tags": tags,
    }


def test_builtins_need_no_pydantic() -> None:
    """A task of builtins imports no pydantic, whose import takes longer than a worker's start."""
    program = (
        "import sys\n"
        "from processor.client.inputs import Inputs\n"
        "async def fn(run, a: str, b: 'list[int] | None' = None, c: float = 1): ...\n"
        "inputs = Inputs('fn', fn)\n"
        "assert inputs.parse({'a': 'x', 'b': [1]}) == inputs.bind(('x', [1]), {})\n"
        "inputs.to_json({'a': 'x'})\n"
        "assert 'pydantic' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
