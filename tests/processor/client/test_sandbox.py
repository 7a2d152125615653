"""The sandbox that users test with."""

from __future__ import annotations

import pytest

from processor import Run, Tailrace
from processor.core.errors import NotConfigured, RunNotFound
from processor.testing import sandbox

tail = Tailrace()


@tail.task
async def answer(run: Run, prompt: str) -> str:
    run.write(f"because {prompt}")
    return "because"


@pytest.mark.parametrize("server", [False, True])
async def test_a_task_runs_in_it(server: bool) -> None:
    """The same program runs on the fake and on a real server."""
    async with sandbox(tail, server=server):
        run = await answer.start_here("why?")
        assert await run.result() == "because"
        assert await run.text() == "because why?"


async def test_time_is_virtual() -> None:
    """advance() lets days pass at once: runs expire with their tombstones."""
    async with sandbox(tail) as box:
        run = await answer.start_here("why?")
        await run.result()
        await box.advance(47 * 3600)
        assert (await run.state()).status == "succeeded"
        await box.advance(2 * 3600)
        with pytest.raises(RunNotFound):
            await run.state()


async def test_silent_runs_end() -> None:
    """A log source that nobody heard of for a week ends as silent."""
    async with sandbox(tail) as box:
        await tail.run("source").log("last words")
        await box.advance(6 * 86_400)
        assert (await tail.run("source").state()).status == "running"
        await box.advance(2 * 86_400)
        state = await tail.run("source").state()
        assert (state.status, state.error) == ("failed", "nothing was heard of it")


async def test_real_time_cannot_be_advanced() -> None:
    """With a real server advance is refused in words."""
    async with sandbox(tail, server=True) as box:
        with pytest.raises(RuntimeError, match="time is real"):
            await box.advance(1)


async def test_outside_it_nothing_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Behind the block `tail` is what it was."""
    monkeypatch.delenv("TAILRACE_REDIS_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.chdir(str(tmp_path))
    async with sandbox(tail):
        await tail.run("r").log("x")
    with pytest.raises(NotConfigured, match="no server is known"):
        await tail.run("r").log("x")
