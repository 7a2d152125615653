"""gateway, up, demo."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.processor.cli.conftest import Cli, Terminal
from tests.support.program import Program
from tests.support.until import until


@asynccontextmanager
async def _http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield client


async def _url(program: Program) -> str:
    """Where a gateway or `up` listens, from what it says."""
    await program.says("http://127.0.0.1:", 20)
    found = re.search(r"http://127\.0\.0\.1:\d+", program.out + program.err)
    assert found is not None
    return found[0]


def _ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


async def test_gateway(cli: Cli) -> None:
    """It says where it listens and that nobody is asked; runs go in and come out; SIGTERM ends it with 0."""
    program = cli.begin("gateway", "--port", "0")
    url = await _url(program)
    await program.says('"access": "everybody on this machine"')
    async with _http(url) as client:
        posted = await client.post("/api/default/runs/r/events", json={"type": "a.b", "data": 1})
        assert posted.status_code == 200
        assert [e["type"] for e in (await client.get("/api/default/runs/r/events")).json()["events"]] == ["a.b"]
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/")).status_code == 404
    program.send(signal.SIGTERM)
    assert await program.ended() == 0


async def test_gateway_at_a_terminal(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """A person is told in a sentence; Ctrl-C ends it."""
    seen = terminal("gateway", "--port", "0", env={"TAILRACE_REDIS_URL": cli.url})
    await seen.shows("tailrace gateway at http://127.0.0.1:", 20)
    await seen.shows("nobody is asked who they are: it serves this machine only")
    seen.press("\x03")
    assert await seen.ended() == 130


async def test_gateway_with_console(cli: Cli) -> None:
    """--console serves the page at /, with the API of the namespace."""
    program = cli.begin("gateway", "--port", "0", "--console", "--namespace", "default")
    async with _http(await _url(program)) as client:
        page = await client.get("/")
    assert page.status_code == 200
    assert 'content="api/default"' in page.text


async def test_gateway_with_a_key_for_others(cli: Cli) -> None:
    """With a key it may listen for others: links read, everything else is refused."""
    program = cli.begin("gateway", "--host", "0.0.0.0", "--port", "0", env={"TAILRACE_JWT_KEY": "k" * 32})
    url = await _url(program)
    await program.says('"access": "links only"')
    async with _http(url) as client:
        assert (await client.get("/api/default/runs")).status_code in (401, 403)
        assert (await client.get("/healthz")).status_code == 200


async def test_gateway_workers(cli: Cli) -> None:
    """--workers N: several processes on one port; one that is killed is replaced; all end together."""
    await cli.here("emit", "r", "a.b")
    program = cli.begin("gateway", "--port", "0", "--workers", "2")
    url = await _url(program)

    def workers() -> set[int]:
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        return {int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}

    await until(lambda: len(workers()) == 2, "two processes", 20)
    async with _http(url) as client:
        assert (await client.get("/api/default/runs")).json()["runs"][0]["run"] == "r"
    first = workers()
    os.kill(min(first), signal.SIGKILL)
    await until(lambda: len(workers()) == 2 and workers() != first, "a new process", 20)
    last = workers()
    program.send(signal.SIGINT)
    await program.ended()
    await until(lambda: all(map(_ended, last)), "no process is left")


async def test_up_brings_everything(lone_cli: Cli, tmp_path: Path) -> None:
    """A server, the gateway and the console, found by commands of this folder and below; all gone after SIGTERM."""
    program = lone_cli.begin("up", "--port", "0")
    url = await _url(program)
    assert json.loads(program.out) == {"url": url}
    said = json.loads((tmp_path / ".tailrace" / "server.json").read_text())
    below = Cli(tmp_path / "a" / "b", lone_cli._start, None)
    below.folder.mkdir(parents=True)
    assert (await below("emit", "r", "a.b")).code == 0
    async with _http(url) as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/api/default/runs")).json()["runs"][0]["run"] == "r"
    program.send(signal.SIGTERM)
    assert await program.ended() == 0
    await until(lambda: _ended(said["server"]), "the server is gone")
    assert not (tmp_path / ".tailrace" / "server.json").exists()


async def test_up_keeps_its_runs_and_its_key(lone_cli: Cli, tmp_path: Path) -> None:
    """A second start shows the runs of the first, and links stay valid."""
    program = lone_cli.begin("up", "--port", "0")
    await _url(program)
    await lone_cli.here("emit", "r", "a.b")
    key = (tmp_path / ".tailrace" / "key").read_text()
    program.send(signal.SIGTERM)
    await program.ended()
    program = lone_cli.begin("up", "--port", "0")
    await _url(program)
    assert [r["run"] for r in (await lone_cli.here("runs")).records] == ["r"]
    assert (tmp_path / ".tailrace" / "key").read_text() == key


async def test_up_ends_at_once_with_open_streams(lone_cli: Cli) -> None:
    """Ctrl-C ends it within a second, with a hundred tabs open, as 130."""
    program = lone_cli.begin("up", "--port", "0")
    url = await _url(program)
    await lone_cli.here("emit", "r", "a.b")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(_http(url))
        client.timeout = httpx.Timeout(30)
        headers = {"accept": "text/event-stream"}
        path = "/api/default/runs/r/events"
        for _ in range(100):
            stream = client.stream("GET", path, headers=headers)
            answer = await stack.enter_async_context(stream)
            assert answer.status_code == 200
        began = time.monotonic()
        program.send(signal.SIGINT)
        assert await program.ended() == 130
        assert time.monotonic() - began < 2  # a second on a machine that does nothing else


async def test_up_uses_a_given_server(cli: Cli, tmp_path: Path) -> None:
    """With an address in the environment no server is started, and it is said whose it is."""
    program = cli.begin("up", "--port", "0")
    await _url(program)
    await program.says(f"server    {cli.url}, from TAILRACE_REDIS_URL")
    assert not (tmp_path / ".tailrace" / "valkey.log").exists()


async def test_two_ups_in_a_folder(lone_cli: Cli) -> None:
    """The second uses the server of the first and says so."""
    first = lone_cli.begin("up", "--port", "0")
    await _url(first)
    second = lone_cli.begin("up", "--port", "0")
    assert await _url(second) != await _url(first)
    await second.says(".tailrace/server.json")


async def test_two_ups_at_the_same_time(lone_cli: Cli) -> None:
    """Whoever comes second, however closely, uses the other's server."""
    both = [lone_cli.begin("up", "--port", "0") for _ in range(2)]
    for program in both:
        await _url(program)
    said = "".join(program.err for program in both)
    assert said.count("Valkey in .tailrace/") == 1


async def test_up_starts_its_server_again(lone_cli: Cli, tmp_path: Path) -> None:
    """A server that dies comes back, and runs go on."""
    program = lone_cli.begin("up", "--port", "0")
    await _url(program)
    await lone_cli.here("emit", "r", "a.b")

    def server() -> int:
        pid: int = json.loads((tmp_path / ".tailrace" / "server.json").read_text())["server"]
        return pid

    before = server()
    os.kill(before, signal.SIGKILL)
    await until(lambda: server() != before, "another server")
    ended = await lone_cli.here("emit", "r", "c.d")
    assert (ended.code, ended.records[0]["type"]) == (0, "c.d")


async def test_data_dir(lone_cli: Cli, tmp_path: Path) -> None:
    """--data-dir keeps everything elsewhere."""
    program = lone_cli.begin("up", "--port", "0", "--data-dir", "elsewhere")
    await _url(program)
    assert (tmp_path / "elsewhere" / "server.json").exists()
    assert not (tmp_path / ".tailrace").exists()
    assert (await lone_cli.here("runs", env={"TAILRACE_DATA_DIR": "elsewhere"})).code == 0


async def test_up_at_a_terminal(lone_cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """A person reads the console's address; Ctrl-C at the keyboard ends server and gateway."""
    seen = terminal("up", "--port", "0")
    await seen.shows("console   http://127.0.0.1:", 20)
    await seen.shows("Ctrl-C ends it")
    seen.press("\x03")
    assert await seen.ended() == 130
    assert "Traceback" not in seen.seen


@pytest.mark.parametrize("given", [[], ["--json"]])
async def test_demo_once(lone_cli: Cli, tmp_path: Path, given: list[str]) -> None:
    """A subscriber that was cut and resumed has followed the whole run: nothing lost, nothing twice."""
    (tmp_path / "code.py").write_text("def f(a):\n    return a\n" * 40)
    ended = await lone_cli("demo", "--once", *given, deadline=60)
    assert ended.code == 0, ended.err
    last = ended.out.splitlines()[-1]
    if given:
        told = json.loads(last)
    else:
        found = re.fullmatch(r"run=\S+ events=\d+ first_increment_ms=\d+ lost=0 duplicated=0", last)
        assert found, last
        told = dict(pair.split("=") for pair in last.split())
    assert int(told["events"]) > 20
    assert not (tmp_path / ".tailrace" / "server.json").exists()


async def test_demo_stays(lone_cli: Cli) -> None:
    """It shows the console with its run; Ctrl-C ends agent, gateway and server at once."""
    program = lone_cli.begin("demo", "--port", "0")
    await _url(program)
    run = re.search(r"#run=([0-9a-z]+)", program.out)
    assert run is not None
    assert (await lone_cli.here("show", run[1][:20])).records[0]["task"] == "review"
    began = time.monotonic()
    program.send(signal.SIGINT)
    assert await program.ended() == 130
    assert time.monotonic() - began < 2
    again = lone_cli.begin("up", "--port", "0")
    await _url(again)
    state = (await lone_cli.here("show", run[1])).records[0]
    assert state["status"] in ("failed", "succeeded")


async def test_version(lone_cli: Cli) -> None:
    """--version prints name and version and ends."""
    ended = await lone_cli("--version")
    assert (ended.code, ended.out.split()[0]) == (0, "tailrace")
