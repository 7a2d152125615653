from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from processor import Tailrace
from processor.core.schedule import Schedule
from processor.store.connection import execute
from processor.store.schedules import Registered, read_schedule, register
from tests.processor.cli.conftest import Cli, Terminal


async def registered(cli: Cli, name: str, schedule: Schedule, **changes: object) -> Registered:
    """As a worker registers it; changes: what became of its record since."""
    async with Tailrace(cli.url) as tail:
        session = await tail.session()
        record = await register(session, name, name, schedule, first=True)
        record = replace(record, **changes)  # type: ignore[arg-type]
        await execute(session.redis, "HSET", session.keys.schedules, name, record.json())
        return record


async def stored(cli: Cli, name: str) -> Registered | None:
    async with Tailrace(cli.url) as tail:
        return await read_schedule(await tail.session(), name)


async def test_list(cli: Cli) -> None:
    """Each schedule with its times, by name; `next` only where something will be started."""
    assert (await cli.here("schedules", "list")).records == []
    daily = await registered(cli, "clean", Schedule("30 4 * * *", timezone="Europe/Berlin", misfire="once"))
    await registered(cli, "beat", Schedule(every_seconds=90), seen=daily.seen - 86_400_001, last=daily.seen - 60_000)
    beat, clean = (await cli("schedules", "list")).records
    assert (beat["schedule"], beat["every_seconds"], beat["state"]) == ("beat", 90.0, "abandoned")
    assert "next" not in beat
    assert beat["last"] < beat["last"].replace("Z", "") + "~"
    assert {name: clean[name] for name in ("schedule", "task", "cron", "timezone", "misfire", "state")} == {
        "schedule": "clean",
        "task": "clean",
        "cron": "30 4 * * *",
        "timezone": "Europe/Berlin",
        "misfire": "once",
        "state": "on",
    }
    assert clean["next"][13:] in (":30:00.000Z",)
    assert "last" not in clean


async def test_pause_and_resume(cli: Cli) -> None:
    """A paused schedule has no next time; resumed it has, and what passed meanwhile is not made up for."""
    daily = await registered(cli, "clean", Schedule("@daily", misfire="all"), next=1000)
    assert daily.seen > 1000
    paused = await cli.here("schedules", "pause", "clean")
    again = await cli.here("schedules", "pause", "clean")
    assert paused.code == again.code == 0
    assert paused.records == again.records
    assert (paused.records[0]["state"], paused.records[0].get("next")) == ("paused", None)
    resumed = await cli.here("schedules", "resume", "clean")
    assert resumed.records[0]["state"] == "on"
    record = await stored(cli, "clean")
    assert record is not None
    assert record.next is not None
    assert record.next > daily.seen


async def test_fire(cli: Cli) -> None:
    """An extra run is queued though the schedule is paused, with the schedule as its label; its times stay."""
    record = await registered(cli, "clean", Schedule("@daily"), paused=True)
    fired = await cli.here("schedules", "fire", "clean")
    (state,) = fired.records
    assert (fired.code, state["status"], state["task"], state["labels"]) == (
        0,
        "queued",
        "clean",
        {"schedule": "clean"},
    )
    assert state["run"].startswith("clean~fired-")
    assert "waits for a worker" in fired.err
    assert await stored(cli, "clean") == record


async def test_unknown(cli: Cli) -> None:
    """A name that no worker registered is told as such, exit code 3."""
    for command in ("pause", "resume", "fire"):
        ended = await cli.here("schedules", command, "weekly")
        assert ended.code == 3
        assert ended.err.startswith(
            'error[unknown-schedule]: there is no schedule "weekly".\n  tailrace schedules list'
        )


async def test_unreadable_here(cli: Cli) -> None:
    """A time zone that this machine does not have is told; pausing works all the same, going on does not."""
    await registered(cli, "clean", Schedule("@daily"), timezone="Mars/Base")
    (listed,) = (await cli.here("schedules", "list")).records
    assert (listed["state"], listed["timezone"]) == ("unreadable", "Mars/Base")
    assert (await cli.here("schedules", "pause", "clean")).code == 0
    ended = await cli.here("schedules", "resume", "clean")
    assert (ended.code, "timezone is 'Mars/Base'" in ended.err) == (2, True)


async def test_at_a_terminal(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """A table with local times and how far they are, a word for each that is not started, and a hint where there is none."""
    env = {"TAILRACE_REDIS_URL": cli.url, "TZ": "UTC"}
    empty = terminal("schedules", "list", env=env)
    await empty.ended()
    assert "no schedules: a worker registers those of its tasks" in empty.seen
    hour = 3_600_000
    one = await registered(cli, "clean", Schedule("0 * * * *"), last=0)
    await registered(cli, "gone", Schedule("* * * * *"), seen=one.seen - 49 * hour)
    await registered(cli, "over", Schedule("* * * * *"), next=None)
    await registered(cli, "mars", Schedule("* * * * *"), timezone="Mars/Base")
    await registered(cli, "still", Schedule(every_seconds=5), paused=True)
    listed = terminal("schedules", "list", env=env)
    await listed.ended()
    rows = listed.seen.splitlines()
    assert rows[0].split() == ["SCHEDULE", "TASK", "WHEN", "NEXT", "LAST", "STATE"]
    assert ":00:00, in " in rows[1]
    assert rows[1].endswith(" d ago  on")
    assert rows[2].endswith("not started: no worker has had it for 2 d")
    assert rows[3].endswith("not started: its time or time zone cannot be read here")
    assert rows[4].endswith("over: no time is left")
    assert rows[5].split() == ["still", "still", "every", "5", "s", "paused"]
    for command, words in (("pause", "clean: paused"), ("resume", "clean: on, next "), ("fire", "clean~fired-")):
        said = terminal("schedules", command, "clean", env=env)
        assert await said.ended() == 0
        assert said.seen.startswith(words)
