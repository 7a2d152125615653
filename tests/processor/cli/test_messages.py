"""Mistakes and what is said to them: API.md 2, word for word, with the exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from processor.cli.words import in_local_time
from processor.client.tailrace import Tailrace
from processor.store.workers import announce, tell_stopped, worker_here
from tests.processor.cli.conftest import Cli, Terminal
from tests.support.impostor import REDIS_6, impostor
from tests.support.servers import TestServer, running
from tests.support.until import until


async def test_not_configured(lone_cli: Cli) -> None:
    """Without any address the three places are named where one would be found."""
    ended = await lone_cli("runs")
    assert ended.code == 5
    assert ended.err == (
        "error[not-configured]: no server is known: TAILRACE_REDIS_URL and REDIS_URL are not set, "
        "and no `tailrace up` runs for this folder or one above it.\n"
        "  Set TAILRACE_REDIS_URL=redis://localhost:6379, or run `tailrace up` here.\n"
    )
    assert ended.out == ""


async def test_server_unreachable(lone_cli: Cli) -> None:
    """A dead address is told with its reason, its origin and two ways on."""
    ended = await lone_cli("emit", "r", "a.b", env={"TAILRACE_REDIS_URL": "redis://localhost:1"})
    assert ended.code == 5
    assert ended.err == (
        "error[server-unreachable]: nothing answers at redis://localhost:1 (connection refused). "
        "The address comes from TAILRACE_REDIS_URL.\n"
        "  For development: unset it and run `tailrace up`, which brings a server.   "
        "For your Redis: start it, or correct the variable: redis://user:password@host:port/0\n"
    )


async def test_server_too_old(lone_cli: Cli) -> None:
    """Redis 6 is named with what is needed and why."""
    async with impostor(REDIS_6) as url:
        ended = await lone_cli.here("start", "answer", env={"REDIS_URL": url})
    assert ended.code == 5
    assert ended.err == (
        f"error[server-too-old]: {url} is Redis 6.0.16; tailrace needs Redis 7.0 or Valkey 8 (it uses sharded PubSub).\n"
        "  Debian 12 and Ubuntu 24.04 carry Redis 7. To try tailrace without it: `tailrace up`.\n"
    )


async def test_server_evicting(lone_cli: Cli) -> None:
    """An evicting server is refused in full words; accepted, it is used."""
    with running("valkey", ["--maxmemory", "2gb", "--maxmemory-policy", "allkeys-lru"]) as server:
        ended = await lone_cli.here("emit", "r", "a.b", env={"TAILRACE_REDIS_URL": server.url})
        assert ended.code == 5
        assert ended.err == (
            f"error[server-evicting]: {server.url} has maxmemory-policy allkeys-lru and 2.0 GiB: "
            "when full it deletes runs nobody has read. Not started.\n"
            "  CONFIG SET maxmemory-policy noeviction (and in its configuration), or use a server of its own. "
            "To accept the loss: TAILRACE_ALLOW_EVICTION=1; readers then see `gap`.\n"
        )
        accepted = {"TAILRACE_REDIS_URL": server.url, "TAILRACE_ALLOW_EVICTION": "1"}
        assert (await lone_cli.here("emit", "r", "a.b", env=accepted)).code == 0


async def test_server_full(lone_cli: Cli) -> None:
    """A full server takes nothing and is read all the same."""
    with running("valkey") as server:
        env = {"TAILRACE_REDIS_URL": server.url}
        assert (await lone_cli.here("emit", "r", "a.b", env=env)).code == 0
        client = server.client()
        client.config_set("maxmemory", 1 << 20)
        client.close()
        refused = await lone_cli.here("emit", "r", "a.b", env=env)
        assert refused.code == 5
        assert refused.err.startswith("error[server-full]: ")
        assert "of its 1.0 MiB (maxmemory) and refuses writes.\n  Raise maxmemory" in refused.err
        assert [r["run"] for r in (await lone_cli.here("runs", env=env)).records] == ["r"]


async def test_port_taken(cli: Cli) -> None:
    """Who holds the port is named: the process, its command, since when, and what to do."""
    before = datetime.now()
    holder = cli.begin("gateway", "--port", "0")
    await holder.says("gateway_listening")
    port = int(holder.err.split("http://127.0.0.1:")[1].split('"')[0])
    ended = await cli("up", "--port", str(port))
    since = {f"{moment:%H:%M}" for moment in (before, datetime.now())}
    assert ended.code == 4
    assert ended.err in {
        f"error[port-taken]: 127.0.0.1:{port} is in use by process {holder.pid} (`tailrace gateway --port 0`, since {at}).\n"
        f"  Open http://127.0.0.1:{port}, or stop it (Ctrl-C there), or choose another port: tailrace up --port {port + 1}\n"
        for at in since
    }


async def test_run_closed(cli: Cli) -> None:
    """A run that has ended takes nothing, and says how it ended."""
    await cli.here("emit", "r", "-", stdin=b'{"type":"a.b"}\n{"type":"run.finished","data":{"result":1}}\n')
    ended = await cli.here("emit", "r", "message.delta", '{"text": "x"}')
    assert ended.code == 4
    assert ended.err.startswith("error[closed]: run r ended as succeeded")
    assert (
        "message.delta was not added. A run that has ended takes no more events.\n  The next turn is a new run: "
        in ended.err
    )


async def test_bad_name(cli: Cli) -> None:
    """What is wrong with a run's ID is told by character and place, with a name that would do."""
    ended = await cli.here("emit", "acme/shop#12", "a.b")
    assert ended.code == 2
    assert ended.err == (
        'error[bad-name]: run ID "acme/shop#12" has "/" (5th character) and "#" (10th character). '
        "Allowed: 1 to 64 of A-Z a-z 0-9 . _ : -\n"
        '  Perhaps "acme:shop-12". Free text belongs in a label: options(labels={"ticket": "acme/shop#12"})\n'
    )


async def test_why_it_waits(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """A queued run says for whom it waits, in show and at its start."""
    started = await cli.here("start", "answer", '{"prompt": "why?"}', "--id", "01k9x4")
    assert (started.code, started.records[0]["status"]) == (0, "queued")
    assert started.err == '01k9x4  queued, waits for a worker: none that has task "answer" is alive\n'
    shown = terminal("show", "01k9x4", env={"TAILRACE_REDIS_URL": cli.url})
    assert await shown.ended() == 0
    first, second = shown.seen.splitlines()[:2]
    assert first.startswith("01k9x4  queued ")
    assert first.endswith(' s  waits for a worker: none that has task "answer" is alive')
    assert second == "  Start one: `tailrace worker MODULE:TAIL`.   To need none: `answer.start_here(...)`"


async def test_who_was_the_last_worker(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """Where workers had the task, the last one is named with when it stopped: UTC in a pipe, local time for eyes."""
    await cli.here("start", "answer", "--id", "01k9x4")
    async with Tailrace(cli.url) as tail:
        session = await tail.session()
        worker = await announce(session, worker_here("web-1-aaaaaa", ["answer"], places=1))
        await tell_stopped(session, worker)
    why = (await cli.here("show", "01k9x4")).records[0]["waiting_for"]
    found = re.fullmatch(rf"a worker: none .* is alive \(last: {worker.name}, stopped (20[0-9T:-]+Z)\)", why)
    assert found is not None, why
    local = in_local_time(found[1], datetime.now(UTC))
    for args in (["show", "01k9x4"], ["runs"]):
        shown = terminal(*args, env={"TAILRACE_REDIS_URL": cli.url})
        assert await shown.ended() == 0
        assert f"is alive (last: {worker.name}, stopped {local})" in shown.seen


async def test_settings_error(lone_cli: Cli) -> None:
    """All wrong settings at once."""
    ended = await lone_cli("settings", env={"TAILRACE_PORT": "x", "TAILRACE_LOG": "xml"})
    assert ended.code == 2
    assert ended.err == (
        "error[settings-error]: 2 settings are wrong:\n"
        "  TAILRACE_PORT is 'x': give a whole number from 0 to 65535\n"
        "  TAILRACE_LOG is 'xml': give auto, console or json\n"
    )


async def test_unknown_run_and_namespace(cli: Cli) -> None:
    """What is not there is exit code 3."""
    run = await cli.here("show", "nobody")
    assert (run.code, run.err.split(":")[0]) == (3, "error[unknown-run]")
    namespace = await cli.here("runs", "--namespace", "nobody")
    assert namespace.code == 3
    assert namespace.err == (
        "error[unknown-namespace]: there is no namespace 'nobody' at this server.\n"
        "  Create it: tailrace namespaces create nobody\n"
    )


async def test_denied(lone_cli: Cli) -> None:
    """A wrong password is exit code 6."""
    with running("valkey") as server:
        admin = server.client()
        admin.config_set("requirepass", "right")
        ended = await lone_cli.here("runs", env={"TAILRACE_REDIS_URL": server.url})
        admin.config_set("requirepass", "")
        admin.close()
    assert (ended.code, ended.err.split(":")[0]) == (6, "error[server-denied]")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["runs", "--nonsense"], "No such option"),
        (["show"], "Missing argument"),
        (["tail", "r", "--wait"], "Option '--wait' requires an argument.\n  tailrace tail --help\n"),
        (["runs", "--status", "asleep"], "--status is 'asleep'.\n  One of queued, running, waiting, "),
        (["runs", "--since", "yesterday"], "--since is 'yesterday', which is no time.\n  Give how long ago"),
        (["runs", "--label", "x"], "--label is 'x'.\n  Give name=value"),
        (["start", "t", "[1]"], "input is [1], which is no object."),
        (["start", "t", "{'a': 1}"], "input is no JSON"),
        (["start", "t", "--delay", "soon"], "--delay is 'soon', which is no duration."),
        (["start", "a/b"], 'task "a/b" has "/"'),
        (["emit", "r", "a b"], "type is 'a b', which is no event type."),
        (["emit", "r", "a.b", "{"], "data"),
        (["replay", "r", "--speed", "1000"], "--speed is '1000'.\n  Give 0.1 to 100, or max."),
        (["replay", "r", "--from", "x"], "--from is 'x', which is no place."),
        (["replay", "r", "--step"], "--step waits for keys"),
        (["tail", "a", "b", "--after", "1-1"], "--after belongs to one run."),
        (["tail", "a", "--after", "x"], "--after is 'x', which is no cursor."),
        (["namespaces", "create", "A"], 'namespace "A" is not allowed.'),
        (["gateway", "--host", "0.0.0.0"], "0.0.0.0 is reached by other machines"),
    ],
)
async def test_wrong_usage(lone_cli: Cli, args: list[str], said: str) -> None:
    """What cannot be understood is exit code 2, whether a server is there or not, and says what to give."""
    ended = await lone_cli.here(*args, env={"TAILRACE_REDIS_URL": "redis://localhost:1"})
    assert ended.code == (2 if args[:3] != ["emit", "r", "a.b"] else 5), ended.err
    if ended.code == 2:
        assert said in ended.err
        assert ended.err.startswith("error[")


async def test_errors_as_json(lone_cli: Cli) -> None:
    """With --json an error is one object on stderr, before or behind the command's name."""
    for args in (("--json", "runs"), ("runs", "--json")):
        ended = await lone_cli(*args)
        told = json.loads(ended.err)
        assert (ended.code, told["error"]) == (5, "not-configured")
        assert set(told) == {"error", "message", "remedy"}


async def test_words_that_are_no_utf_8_are_told_as_json_too(cli: Cli) -> None:
    """A byte of the command line that is none comes back escaped."""
    ended = await cli("--json", "show", "a\udcffb")
    assert (ended.code, json.loads(ended.err)["error"]) == (2, "bad-name")


async def test_address_of_an_up_that_was_killed(cli: Cli, tmp_path: Path) -> None:
    """kill -9 of `up` leaves a server.json that misleads nobody."""
    cli.url = None
    up = cli.begin("up", "--port", "0")
    await up.says('"url"')
    up.kill()
    assert (tmp_path / ".tailrace" / "server.json").exists()
    ended = await cli.here("runs")
    assert (ended.code, ended.err.split(":")[0]) == (5, "error[not-configured]")
    again = cli.begin("up", "--port", "0")
    await again.says('"url"')
    assert (await cli.here("runs")).code == 0
    await until(lambda: again.process.poll() is None, "it stays")


async def test_no_password_is_told(lone_cli: Cli, server: TestServer) -> None:
    """Neither messages nor settings show a password."""
    ended = await lone_cli.here("runs", "--redis-url", "redis://user:secret@localhost:1/0")
    assert "redis://user:***@localhost:1/0" in ended.err
    assert "--redis-url" in ended.err
    shown = await lone_cli("settings", "--redis-url", "redis://user:secret@localhost:1/0")
    assert "secret" not in ended.err + shown.out
