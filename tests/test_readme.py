"""README's program and commands, as they stand there, in an empty folder with a server of their own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pages import check_tests, listings
from tests.support.program import ROOT, Program
from tests.support.until import until

README = (ROOT / "README.md").read_text()
# Commands that other tests run: the make targets as a whole, the wheel in test_repository.
ELSEWHERE = ("make demo", "make test", "pip install .")


def shown() -> list[str]:
    """Every command of README, without its comment, in order."""
    blocks = listings("README.md", "console")
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [re.sub(r"\s+# .*$", "", line) for line in lines]


def programs() -> dict[str, str]:
    """README's listings by the name in their first line."""
    return {text.partition("\n")[0].removeprefix("# "): text for text in listings("README.md")}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Shell:
    """Runs README's commands with the ports of this test in place of README's."""

    def __init__(self, folder: Path, gateway: int, web: int) -> None:
        self.folder, self.gateway, self.web = folder, gateway, web
        self.env = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "TAILRACE_PORT": str(gateway)}
        self.env["PATH"] = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        for name in ("TAILRACE_REDIS_URL", "REDIS_URL"):
            self.env.pop(name, None)

    def command(self, line: str) -> str:
        return line.replace("localhost:8600", f"127.0.0.1:{self.gateway}").replace(
            "localhost:8000", f"127.0.0.1:{self.web}"
        )

    async def run(self, line: str) -> tuple[int, str]:
        """Exit code and output."""
        done = await asyncio.to_thread(
            subprocess.run,
            ["sh", "-c", self.command(line)],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return done.returncode, done.stdout + (done.stderr if done.returncode else "")


def test_program_is_about_fifteen_lines() -> None:
    """The program that README shows stays as short as it says."""
    lines = [
        line
        for line in programs()["app.py"].splitlines()
        if line.strip() and not line.startswith(("#", "import", "from"))
    ]
    assert len(lines) <= 15


@pytest.mark.timeout(100)
async def test_every_command_of_readme_works_as_written(tmp_path: Path, program: Callable[..., Program]) -> None:
    """The program and all commands of README run in an empty folder and say what README says they do."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    open_ = [line for line in shown() if line not in ELSEWHERE]
    for name, text in programs().items():
        (tmp_path / name).write_text(text)
    shell = Shell(tmp_path, free_port(), free_port())
    tailrace = str(Path(sys.executable).with_name("tailrace"))
    env = {**shell.env, "TAILRACE_REDIS_URL": None, "REDIS_URL": None}

    def take(beginning: str) -> str:
        (line,) = [line for line in open_ if line.startswith(beginning)]
        open_.remove(line)
        return line

    assert take("tailrace up") == "tailrace up"
    up = program(tailrace, "up", "--no-open", env=env, cwd=tmp_path)
    await up.says(f":{shell.gateway}", 20)
    assert take("uvicorn") == "uvicorn app:app"
    web = program("python", "-m", "uvicorn", "app:app", "--port", str(shell.web), env=env, cwd=tmp_path)
    await web.says("Uvicorn running", 20)

    code, out = await shell.run(take("curl -sS -X POST"))
    assert code == 0, out
    id = json.loads(out)["id"]
    code, out = await shell.run(take("curl -sSN localhost:8000").replace("ID", id))
    assert code == 0, out
    assert "You " in out
    assert "event: tailrace.end" in out

    assert take("tailrace worker") == "tailrace worker jobs:tail"
    worker = program(tailrace, "worker", "jobs:tail", env=env, cwd=tmp_path)
    await worker.says("charge", 20)
    code, out = await shell.run(take('tailrace start charge \'{"order":"A1"'))
    assert code == 0, out
    assert "receipt-A1" in out
    code, out = await shell.run(take('tailrace start charge \'{"order":"A2"'))
    assert code == 0, out
    show = take("tailrace dead show")
    await until(lambda: _succeeds(shell, show), "its dead letter is there", 20)
    code, out = await shell.run(take("tailrace dead requeue"))
    assert code == 0, out

    # One's own Redis: the server that `tailrace up` started stands for it.
    export, doctor, gateway = take("export TAILRACE_REDIS_URL"), take("tailrace doctor"), take("tailrace gateway")
    assert export.startswith("export TAILRACE_REDIS_URL=redis://")
    url = json.loads((tmp_path / ".tailrace/server.json").read_text())["url"]
    code, out = await shell.run(f"export TAILRACE_REDIS_URL={url}; {doctor}")
    assert code == 0, out
    other = free_port()
    alone = program(
        *gateway.replace("tailrace", tailrace).split(),
        env={**env, "TAILRACE_REDIS_URL": url, "TAILRACE_PORT": str(other)},
        cwd=tmp_path,
    )
    await alone.says(f":{other}", 20)

    outputs: dict[str, str] = {}
    for line in open_:
        code, outputs[line] = await shell.run(line)
        cut = "--max-time" in line and code == 28  # curl was told to stop there
        assert code == 0 or cut, f"{line}: {code} {outputs[line]}"
    said = list(outputs.values())
    assert any('"appended"' in out and '"id"' in out for out in said)
    assert any("any program is a run" in out for out in said)
    assert any('"status":"running"' in out and "order-2" in out for out in said)
    assert said[-1].count("event: tailrace.end") == 1
    assert "on its way" in said[-1]

    (resent,) = [line for line in outputs if "Tailrace-Number" in line]
    code, out = await shell.run(resent)
    assert code == 0
    assert out.count('"duplicate"') == 2, out
    up.send(signal.SIGINT)
    assert await up.ended(5) in (0, 130)


async def _succeeds(shell: Shell, line: str) -> bool:
    code, out = await shell.run(line)
    return code == 0 and "nothing to charge" in out


def test_the_test_of_readme_passes(tmp_path: Path) -> None:
    """README's test of its own task passes, without a server."""
    for name, text in programs().items():
        (tmp_path / name).write_text(text)
    assert "1 passed" in check_tests(tmp_path, "test_jobs.py", seconds=60)


def test_curl_commands_use_the_documented_port() -> None:
    """README's addresses are those of the defaults."""
    assert {match for line in shown() for match in re.findall(r"localhost:(\d+)", line)} == {"8600", "8000"}
