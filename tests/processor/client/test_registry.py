"""Tailrace as a registry: what the decorator takes, and the modules that bring tasks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FunctionType

import pytest

from processor import Depends, Limit, Rate, Retry, Run, Schedule, Tailrace
from processor.client.limiter import Limiter
from processor.client.task import Task
from processor.core.errors import BadInput


@pytest.fixture
def tail() -> Tailrace:
    """Nothing here asks a server."""
    return Tailrace("redis://127.0.0.1:1")


def test_short_forms_become_what_they_mean(tail: Tailrace) -> None:
    """A number of tries, a cron expression, a rate in words and a number at most are what the whole forms say."""

    @tail.task
    async def plain(run: Run) -> None: ...

    @tail.task(retry=5, timeout_seconds=1.5, concurrency=2, cron="0 7 * * *", rate="60/min", limit=4)
    async def short(run: Run) -> None: ...

    schedule, rate, limit = (
        Schedule("0 7 * * *", timezone="Europe/Berlin"),
        Rate("5/s", by="user"),
        Limit(1, name="gpu"),
    )

    @tail.task(retry=Retry(attempts=1, never=(ValueError,)), cron=schedule, rate=rate, limit=limit)
    async def long(run: Run) -> None: ...

    assert (plain.retry, plain.timeout_seconds, plain.concurrency) == (Retry(attempts=3), 600, 64)
    assert (plain.cron, plain.rate, plain.limit) == (None, None, None)
    assert (short.retry, short.timeout_seconds, short.concurrency) == (Retry(attempts=5), 1.5, 2)
    assert (short.cron, short.rate, short.limit) == (Schedule("0 7 * * *"), Rate("60/min"), Limit(4))
    assert (long.cron, long.rate, long.limit) == (schedule, rate, limit)
    assert list(tail.tasks) == ["plain", "short", "long"]
    assert short.options(id="x").limit == Limit(4)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"retry": 0}, "retry"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"concurrency": 0}, "concurrency"),
        ({"cron": "every day"}, "cron"),
        ({"rate": "often"}, "rate"),
        ({"limit": 0}, "limit"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_place(tail: Tailrace, arguments: dict[str, object], field: str) -> None:
    """A wrong argument of the decorator is an error that names it, when the module is imported."""
    with pytest.raises(BadInput) as refused:
        tail.task(**arguments)  # type: ignore[call-overload]
    assert refused.value.field == field
    assert not tail.tasks


def test_a_schedule_starts_its_task_without_arguments(tail: Tailrace) -> None:
    """A task with a schedule has defaults for its parameters; dependencies need none."""

    def made() -> int:
        return 1

    @tail.task(cron="@daily")
    async def fine(run: Run, pages: int = 3, number: int = Depends(made)) -> None: ...

    with pytest.raises(BadInput, match="pages has no default"):

        @tail.task(cron="@daily")
        async def wanting(run: Run, pages: int) -> None: ...

    assert list(tail.tasks) == ["fine"]


def test_two_functions_have_two_names(tail: Tailrace) -> None:
    """A second function under the name of a task is refused, from another module and from the same one."""

    @tail.task
    async def charge(run: Run) -> None: ...

    async def refund(run: Run) -> None: ...

    with pytest.raises(ValueError, match=r'task charge is defined twice: as .*charge and as .*refund; .*name="…"'):
        tail.task(name="charge")(refund)
    elsewhere = FunctionType(charge.function.__code__, {"__name__": "billing"}, "charge")
    with pytest.raises(ValueError, match=r"task charge is defined twice: as .*charge and as billing\..*charge;"):
        tail.task(elsewhere)
    assert tail.tasks["charge"] is charge


def test_a_function_that_is_defined_again_replaces_itself(tail: Tailrace) -> None:
    """A module that is loaded again brings its tasks anew."""

    def load() -> Task[[], None]:
        @tail.task
        async def charge(run: Run) -> None: ...

        return charge

    first, second = load(), load()
    assert tail.tasks["charge"] is second is not first


def test_a_limiter_is_made_without_asking_anybody(tail: Tailrace) -> None:
    """tail.limiter gives a Limiter of that name and rate."""
    limiter = tail.limiter("openai", "90000/min")
    assert isinstance(limiter, Limiter)
    assert (limiter.name, limiter.rate) == ("openai", Rate("90000/min"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for modules, which are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("shop_answers", "shop_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_imports_bring_tasks(folder: Path) -> None:
    """Modules that are named at the Tailrace are imported when a worker asks for it, once."""
    (folder / "shop_answers.py").write_text("import sys\nsys.shop_answers = getattr(sys, 'shop_answers', 0) + 1\n")
    tail = Tailrace("redis://127.0.0.1:1", imports=["shop_answers"])
    assert "shop_answers" not in sys.modules
    try:
        assert tail.load_imports() == ["shop_answers"] == tail.load_imports()
        assert sys.shop_answers == 1  # type: ignore[attr-defined]
    finally:
        del sys.shop_answers  # type: ignore[attr-defined]


def test_an_import_that_fails_is_raised(folder: Path) -> None:
    """What a module raises while it is imported is not hidden: a worker without its tasks would do nothing."""
    (folder / "shop_broken.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        Tailrace("redis://127.0.0.1:1", imports=["shop_broken"]).load_imports()
    with pytest.raises(ModuleNotFoundError, match="shop_missing"):
        Tailrace("redis://127.0.0.1:1", imports=["shop_missing"]).load_imports()
