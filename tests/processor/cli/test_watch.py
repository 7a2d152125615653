"""runs, show, cancel, answer, tail."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processor.cli.conftest import Cli, Terminal

ANSWER: list[dict[str, Any]] = [
    {"type": "run.started", "data": {"task": "answer", "input": {}}},
    {"type": "step.started", "data": {"step": "s", "name": "look"}},
    {"type": "tool.started", "data": {"tool": "t", "name": "search"}},
    {"type": "tool.ready", "data": {"tool": "t", "args": {"q": "why"}}},
    {"type": "tool.result", "data": {"tool": "t", "value": "because"}},
    {"type": "log", "data": {"level": "warning", "lines": ["slow", "slower"]}},
    {"type": "step.finished", "data": {"step": "s"}},
    {"type": "message.started", "data": {"message": "m", "role": "assistant"}},
    {"type": "message.delta", "data": {"text": "Be", "message": "m"}},
    {"type": "message.delta", "data": {"text": "cause.\nSo ", "message": "m"}},
    {"type": "message.delta", "data": {"text": "it is.", "message": "m"}},
    {"type": "message.finished", "data": {"message": "m"}},
    {"type": "state.patch", "data": [{"op": "add", "path": "/progress", "value": 1}]},
    {"type": "run.finished", "data": {"result": 42}},
]
SEEN = """\
● look
  ⚙ search {"q":"why"}
    → because
  slow
  slower
Because.
So it is.
state progress=1
succeeded 42
"""


async def _answer(cli: Cli, run: str) -> None:
    ended = await cli.here("emit", run, "-", stdin="\n".join(map(json.dumps, ANSWER)).encode())
    assert ended.code == 0, ended.err


async def test_tail_in_a_pipe(cli: Cli) -> None:
    """A finished run is played to its end: envelopes as they are stored, one a line."""
    await _answer(cli, "r")
    ended = await cli("tail", "r")
    assert (ended.code, ended.err) == (0, "")
    assert [(e["type"], e["data"]) for e in ended.records] == [(e["type"], e["data"]) for e in ANSWER]
    third = ended.records[2]["id"]
    after = await cli("tail", "r", "--after", third)
    assert [e["id"].split("-")[0] for e in after.records] == [str(n) for n in range(4, 15)]


async def test_tail_filters(cli: Cli) -> None:
    """--type takes patterns; --text gives the text alone, in a pipe too."""
    await _answer(cli, "r")
    tools = await cli("tail", "r", "--type", "tool.*", "--type", "log")
    assert [e["type"] for e in tools.records] == ["tool.started", "tool.ready", "tool.result", "log"]
    assert (await cli("tail", "r", "--text")).out == "Because.\nSo it is."


AGAIN = """\
import asyncio
from pathlib import Path

from tailrace import Retry, Run, Tailrace

tail = Tailrace()


@tail.task(retry=Retry(base_seconds=0.1))
async def again(run: Run) -> None:
    run.write(f"attempt {run.attempt}")
    if run.attempt == 1:
        while not Path("go").exists():
            await asyncio.sleep(0.02)
        raise ValueError
"""


async def test_text_of_an_attempt_that_is_over_is_void(cli: Cli, tmp_path: Path) -> None:
    """--text leaves out what is void when it begins; where an attempt ends later, a line says so on stderr."""
    (tmp_path / "tasks.py").write_text(AGAIN)
    await cli.here("start", "again", "--id", "r")
    live = cli.begin("tail", "r", "--text")
    worker = cli.begin("worker", "tasks:tail")
    await live.says("attempt 1", 20)
    (tmp_path / "go").touch()
    assert await live.ended() == 0
    assert live.out == "attempt 1\nattempt 2"
    assert live.err == "r: attempt 2 begins again; the text before this line is void\n"
    assert (await cli("tail", "r", "--text")).out == "attempt 2"
    worker.process.terminate()
    assert await worker.ended() == 0


async def test_tail_at_a_terminal(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """Text is assembled, steps and tools are indented, the end says how."""
    await _answer(cli, "r")
    seen = terminal("tail", "r", env={"TAILRACE_REDIS_URL": cli.url})
    assert await seen.ended() == 0
    assert seen.seen == SEEN


async def test_tail_follows_live(cli: Cli) -> None:
    """What is appended while it follows comes at once; a failed run is exit code 1."""
    await cli.here("emit", "r", "a.b")
    program = cli.begin("tail", "r")
    await program.says('"a.b"')
    await cli.here("emit", "r", "c.d")
    await program.says('"c.d"')
    await cli.here("emit", "r", "run.failed", '{"error": "broken", "reason": "error"}')
    assert await program.ended() == 1


async def test_tail_waits_for_a_run(cli: Cli) -> None:
    """--wait gives a run time to appear."""
    program = cli.begin("tail", "later", "--wait", "30s")
    await cli.here("emit", "later", "-", stdin=b'{"type":"a.b"}\n{"type":"run.finished"}\n')
    assert await program.ended() == 0
    assert '"a.b"' in program.out
    assert (await cli("tail", "never", "--wait", "100ms")).code == 3


async def test_tail_of_several(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """Several runs are followed to the end of all of them, at a terminal with whole lines under their names."""
    for run in ("first-run", "second-run"):
        await _answer(cli, run)
    ended = await cli("tail", "first-run", "second-run")
    assert sorted(e["run"] for e in ended.records) == ["first-run"] * 14 + ["second-run"] * 14
    seen = terminal("tail", "first-run", "second-run", env={"TAILRACE_REDIS_URL": cli.url})
    assert await seen.ended() == 0
    lines = seen.seen.splitlines()
    assert lines.count("st-run │ Because.") == 1
    assert lines.count("nd-run │ So it is.") == 1


async def test_abbreviated_ids(cli: Cli) -> None:
    """The beginning or the end of an ID suffices when it is the only one; a whole ID is never an abbreviation."""
    for run in ("abc", "abc-1", "xyz-1"):
        await cli.here("emit", run, "a.b")
    assert [(await cli.here("show", text)).records[0]["run"] for text in ("abc", "abc-", "xy", "z-1")] == [
        "abc",
        "abc-1",
        "xyz-1",
        "xyz-1",
    ]
    ended = await cli.here("show", "1")
    assert ended.code == 2
    assert ended.err == "error[ambiguous-run]: 2 runs begin or end with '1': abc-1, xyz-1.\n  Give more of the ID.\n"
    assert (await cli.here("show", "b")).code == 3


async def test_runs(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """Newest change first, with filters; a table at a terminal."""
    await cli.here("start", "answer", "--id", "queued-run", "--label", "user=ada")
    await _answer(cli, "done-run")
    assert [r["run"] for r in (await cli("runs")).records] == ["done-run", "queued-run"]
    assert [r["run"] for r in (await cli.here("runs", "--status", "queued")).records] == ["queued-run"]
    assert [r["run"] for r in (await cli.here("runs", "--task", "answer", "--label", "user=ada")).records] == [
        "queued-run"
    ]
    assert [r["run"] for r in (await cli.here("runs", "--limit", "1")).records] == ["done-run"]
    assert (await cli.here("runs", "--since", "2999-01-01")).out == ""
    none = terminal("runs", "--task", "nobody", env={"TAILRACE_REDIS_URL": cli.url})
    assert await none.ended() == 0
    assert "no such runs" in none.seen
    assert len((await cli.here("runs", "--since", "1h")).records) == 2
    table = terminal("runs", env={"TAILRACE_REDIS_URL": cli.url})
    assert await table.ended() == 0
    head, first, second = table.seen.splitlines()
    assert head.split() == ["RUN", "STATUS", "TASK", "EVENTS", "CHANGED", "TOOK", "LABELS", "WAITS", "FOR"]
    assert first.split()[:4] == ["done-run", "succeeded", "answer", "14"]
    assert second.split()[:4] == ["queued-run", "queued", "answer", "1"]
    assert second.endswith('user=ada  a worker: none that has task "answer" is alive')


async def test_runs_watch(cli: Cli) -> None:
    """--watch stays and tells each change of a lifecycle."""
    await cli.here("start", "answer", "--id", "x")
    program = cli.begin("runs", "--watch")
    await program.says('"queued"')
    await cli.here("cancel", "x")
    await program.says('"cancelled"')
    assert program.process.poll() is None


async def test_runs_watch_at_a_terminal(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """The table is drawn anew with each change; Ctrl-C ends it."""
    await cli.here("start", "answer", "--id", "x")
    seen = terminal("runs", "--watch", env={"TAILRACE_REDIS_URL": cli.url})
    await seen.shows("queued")
    await cli.here("cancel", "x")
    await seen.shows("cancelled")
    seen.press("\x03")
    assert await seen.ended() == 130


async def test_show(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """The state as HTTP gives it; exit code 1 for a run that failed."""
    await cli.here("emit", "r", "-", stdin=b'{"type":"a.b"}\n{"type":"run.failed","data":{"error":"it broke"}}\n')
    ended = await cli("show", "r")
    assert ended.code == 1
    assert (ended.records[0]["status"], ended.records[0]["error"]) == ("failed", "it broke")
    seen = terminal("show", "r", env={"TAILRACE_REDIS_URL": cli.url})
    assert await seen.ended() == 1
    assert seen.seen.startswith("r  failed ")
    assert seen.seen.splitlines()[0].endswith(" s ago")
    assert "  error    it broke\n" in seen.seen


async def test_show_tells_input_and_result(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """Whole in JSON; at a terminal one line each, cut at 200 characters."""
    given = {"type": "run.started", "data": {"task": "t", "input": {"q": "why"}}}
    lines = [given, {"type": "a.b"}, {"type": "run.finished", "data": {"result": "x" * 300}}]
    await cli.here("emit", "r", "-", stdin="\n".join(map(json.dumps, lines)).encode())
    (record,) = (await cli.here("show", "r")).records
    assert (record["input"], record["result"]) == ({"q": "why"}, "x" * 300)
    seen = terminal("show", "r", env={"TAILRACE_REDIS_URL": cli.url})
    assert await seen.ended() == 0
    assert '  input    {"q":"why"}\n' in seen.seen
    assert f"{'x' * 200}… (300 characters)\n" in seen.seen


async def test_show_of_a_run_that_waits_for_a_person(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """It shows the question and how to answer it; a question too far back is where tail shows it."""
    lines = b'{"type":"run.started"}\n{"type":"run.waiting","data":{"ask":"a1","question":"Go on?"}}\n'
    assert (await cli.here("emit", "r", "-", stdin=lines)).code == 0
    seen = terminal("show", "r", env={"TAILRACE_REDIS_URL": cli.url})
    assert await seen.ended() == 0
    assert seen.seen.splitlines()[1:3] == [
        "  Go on?",
        "  Answer: `tailrace answer r VALUE`, run.answer(...), or in the console",
    ]
    more = "\n".join(['{"type":"a.b"}'] * 100).encode()
    assert (await cli.here("emit", "r", "-", stdin=more)).code == 0
    seen = terminal("show", "r", env={"TAILRACE_REDIS_URL": cli.url})
    assert await seen.ended() == 0
    assert "`tailrace tail r` shows the question." in seen.seen


async def test_a_link_of_the_console_names_its_run(cli: Cli) -> None:
    """The address that the console's `Copy link` gives will do for an ID."""
    await cli.here("emit", "a~b", "a.b")
    shown = await cli.here("show", "http://127.0.0.1:8600/#run=a~b")
    assert (shown.code, shown.records[0]["run"]) == (0, "a~b")
    assert (await cli.here("show", "http://127.0.0.1:8600/")).code == 2


async def test_cancel(cli: Cli) -> None:
    """A queued run ends at once; one that had ended is told so, both with exit code 0."""
    await cli.here("start", "answer", "--id", "x")
    first = await cli("cancel", "x", "--reason", "enough")
    again = await cli.here("cancel", "x")
    assert [(e.code, e.records) for e in (first, again)] == [
        (0, [{"run": "x", "asked": True, "status": "cancelled"}]),
        (0, [{"run": "x", "asked": False, "status": "cancelled"}]),
    ]
    assert (await cli.here("cancel", "nobody")).code == 3


WAITS = b'{"type":"run.started"}\n{"type":"run.waiting","data":{"ask":"a1","question":"Go on?"}}\n'


@pytest.mark.parametrize(
    ("given", "value"),
    [("true", True), ('{"go":1}', {"go": 1}), ("yes, do", "yes, do"), ("NaN", "NaN"), ('"7"', "7"), ("", "")],
)
async def test_answer(cli: Cli, given: str, value: object) -> None:
    """The open ask gets the value, JSON or else text, and the run goes on."""
    await cli.here("emit", "r", "-", stdin=WAITS)
    ended = await cli.here("answer", "r", given)
    assert (ended.code, ended.records) == (0, [{"run": "r", "ask": "a1", "value": value}])
    last = (await cli.here("replay", "r", "--speed", "max")).records[-1]
    assert (last["type"], last["data"]) == ("run.resumed", {"ask": "a1", "value": value})


async def test_answer_at_a_terminal(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """It says what the answer was taken for; --ask names the open one."""
    await cli.here("emit", "r", "-", stdin=WAITS)
    seen = terminal("answer", "r", "yes", "--ask", "a1", env={"TAILRACE_REDIS_URL": cli.url})
    assert await seen.ended() == 0
    assert seen.seen == 'r  answered: "yes"\n'


async def test_answer_that_nobody_waits_for(cli: Cli) -> None:
    """An unknown run is 3; another ask, nothing asked and a run that has ended are 4, in words that tell them apart."""
    await cli.here("emit", "r", "-", stdin=WAITS)
    assert (await cli.here("answer", "nobody", "yes")).code == 3
    other = await cli.here("answer", "r", "yes", "--ask", "a2")
    assert (other.code, 'waits for an answer to ask "a1", not to "a2"' in other.err) == (4, True)
    assert (await cli.here("answer", "r", "yes")).code == 0
    nothing = await cli.here("answer", "r", "yes")
    assert (nothing.code, "run r asks nothing: it is running." in nothing.err) == (4, True)
    await cli.here("emit", "r", "run.finished")
    late = await cli.here("answer", "r", "yes", "--ask", "a1")
    assert (late.code, "run r ended as succeeded " in late.err) == (4, True)


async def test_a_closed_pipe_ends_it_quietly(cli: Cli) -> None:
    """`tailrace tail … | head` says nothing and is no failure."""
    lines = "".join(f'{{"text":"{n}"}}\n' for n in range(3000)).encode()
    await cli.here("emit", "r", "message.delta", "-", stdin=lines)
    command = f"{{ {sys.executable} -m processor.cli.main replay r --speed max; echo code $? >&2; }} | head -n 1"
    shell = cli._start("sh", "-c", command, env={"TAILRACE_REDIS_URL": cli.url}, cwd=cli.folder)
    assert await shell.ended() == 0
    assert shell.out.count("\n") == 1
    assert shell.err == "code 0\n"


async def test_ctrl_c(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """Ctrl-C ends a command with 130 and without a traceback."""
    await cli.here("emit", "r", "a.b")
    seen = terminal("tail", "r", env={"TAILRACE_REDIS_URL": cli.url})
    await seen.shows("a.b")
    seen.press("\x03")
    assert await seen.ended() == 130
    assert "Traceback" not in seen.seen
