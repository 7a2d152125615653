"""The examples do what they say: the agent, the application, the producer with its gateway."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from examples.findings import compare, measure, report, walk
from examples.review import review, tail
from processor.testing import sandbox
from tests.support.program import Program
from tests.support.servers import TestServer


def tree(folder: Path) -> Path:
    """A small source tree with one finding of each important kind, and what must be left alone."""
    body = "\n".join(f"    value_{n} = {n} if {n} else 0" for n in range(70))
    files = {
        "app/main.py": f"def big(a, b=[]):\n{body}\n    try:\n        pass\n    except:\n        pass\n",
        "app/broken.py": "def (:\n",
        "app/quiet.py": f"# {'TODO'}: say more\ntry:\n    x = 1\nexcept Exception:\n    pass\n",
        "web/page.js": "const line = '" + "x" * 200 + "'\n",
        "web/one.css": "".join(f"rule-{n} {{ color: red }}\n" for n in range(20)),
        "web/two.css": "".join(f"rule-{n} {{ color: red }}\n" for n in range(20)),
        ".git/hook.py": "import this\n",
        "node_modules/x/index.js": "x\n",
        "env/pyvenv.cfg": "",
        "env/lib.py": "x = 1\n",
        "data.bin": "\0",
        "binary.py": "\0\0",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "big.py").write_bytes(b"#" * 300_000)
    (folder / "link.py").symlink_to("/etc/hostname")
    (folder / "linked").symlink_to("/etc")
    return folder


def test_walk_keeps_to_source_files_of_the_tree(tmp_path: Path) -> None:
    """Hidden folders, environments, packages, links, binary and big files are not reviewed."""
    found = [path.relative_to(tmp_path).as_posix() for path in walk(tree(tmp_path))]
    assert found == [
        "app/broken.py", "app/main.py", "app/quiet.py", "binary.py", "web/one.css", "web/page.js", "web/two.css"
    ]  # fmt: skip


def test_findings_are_those_of_the_tree(tmp_path: Path) -> None:
    """Each kind of finding is made where it is, and nowhere else."""
    sources = [measure(path, tmp_path) for path in walk(tree(tmp_path))]
    doubled = compare(sources)
    rules = {source.path: {finding.rule for finding in source.findings} for source in sources}
    assert rules == {
        "app/broken.py": {"does not parse"},
        "app/main.py": {"bare except", "mutable default", "complex function", "long function", "no docstring"},
        "app/quiet.py": {"swallowed exception", "open mark"},
        "binary.py": set(),
        "web/one.css": set(),
        "web/page.js": {"long line"},
        "web/two.css": {"duplicate lines"},
    }
    assert doubled == 16
    assert "".join(report("x", sources, doubled)) == "".join(report("x", sources, doubled))


async def test_review_streams_the_report_that_it_returns_the_figures_of(tmp_path: Path) -> None:
    """The agent's run has steps, tool calls, log lines and state, and its text is the same for the same tree."""
    tree(tmp_path)
    async with sandbox(tail):
        runs = [await review.start_here(str(tmp_path), seconds=0.0) for _ in range(2)]
        results = [await run.result() for run in runs]
        texts = [await run.text() for run in runs]
        events = [event async for event in runs[0].follow()]
    assert results[0] == results[1]
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"# Review of {tmp_path.name}\n\nI read **7 files**")
    types = [event.type for event in events]
    assert types[0] == "run.started"
    assert types[-1] == "run.finished"
    assert {
        "step.started",
        "step.finished",
        "tool.started",
        "tool.result",
        "log",
        "state.patch",
        "message.delta",
    } <= set(types)
    assert [event.data["name"] for event in events if event.type == "step.started"] == [
        "walk",
        "measure",
        "read",
        "report",
    ]
    assert types.count("message.delta") > 50


async def test_review_of_an_empty_folder_is_about_tailrace(tmp_path: Path) -> None:
    """Where there is nothing to review, the agent reviews tailrace's own files and says so."""
    async with sandbox(tail):
        run = await review.start_here(str(tmp_path), seconds=0.0)
        await run.result()
        assert (await run.text()).startswith("# Review of tailrace\n")
        logs = [event.data["lines"][0] for event in [event async for event in run.follow()] if event.type == "log"]
    assert logs[0].startswith("no source files here")


async def test_application_starts_shows_and_protects_runs(tmp_path: Path) -> None:
    """The FastAPI example: a user's run can be read by that user, by route and by mount, and by nobody else."""
    from examples.fastapi_app import app

    tree(tmp_path)
    transport = httpx.ASGITransport(app=app)
    async with sandbox(tail), httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        ada, bob = {"x-user": "ada"}, {"x-user": "bob"}
        assert "EventSource" in (await client.get("/")).text
        started = await client.post("/reviews", params={"folder": str(tmp_path)}, headers=ada)
        run = started.json()["run"]
        assert started.status_code == 201
        assert (await client.get(f"/runs/{run}/events", headers=bob)).status_code == 403
        page = await client.get(f"/runs/{run}/events", headers=ada)
        assert page.json()["run"] == run
        assert (await client.get(f"/tail/runs/{run}", headers=ada)).json()["task"] == "review"
        assert (await client.get(f"/tail/runs/{run}", headers=bob)).status_code == 403
        cancelled = await client.post(f"/runs/{run}/cancel", headers=ada)
        assert cancelled.json() == {"asked": True}
        assert [event.type async for event in tail.run(run).follow()][-1] == "run.cancelled"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.timeout(60)
async def test_producer_writes_through_the_gateway_that_knows_its_token(
    server: TestServer, program: Callable[..., Program]
) -> None:
    """What docker-compose.yml starts works together: everybody reads, the producer writes, others do not."""
    port = free_port()
    env = {"TAILRACE_REDIS_URL": server.url, "PRODUCER_TOKEN": "secret", "TAILRACE_API": f"http://127.0.0.1:{port}"}
    gateway = program("python", "-m", "uvicorn", "examples.gateway_app:app", "--port", str(port), env=env)
    await gateway.says("Uvicorn running", 20)
    producer = program("python", "-m", "examples.producer", "--runs", "2", "--pause", "0", env=env)
    assert await producer.ended(30) == 0, producer.err
    run, last = producer.out.split()[:2]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        state = (await client.get(f"/runs/{run}")).json()
        assert (state["status"], state["tail"]) == ("succeeded", last)
        stream = await client.get(f"/runs/{run}/events", headers={"accept": "text/event-stream"})
        words = [json.loads(data)["data"]["text"] for data in re.findall(r"data: (.+message\.delta.+)", stream.text)]
        assert "".join(words).endswith("those follow. ")
        assert "event: tailrace.end" in stream.text
        refused = await client.post("/runs/other/events", json={"type": "x"})
        assert (refused.status_code, refused.json()["type"]) == (403, "denied")
        assert (await client.get("/healthz")).status_code == 200
    stranger = program("python", "-m", "examples.producer", "--runs", "1", env={**env, "PRODUCER_TOKEN": "wrong"})
    assert await stranger.ended(20) == 1
    assert "denied" in stranger.err
