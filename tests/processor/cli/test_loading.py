"""MODULE:TAIL as typed, right and wrong; which files a process has imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from processor.cli.exits import NotLoaded
from processor.cli.loading import load_app, load_tail, project_files

TASKS = """\
from tailrace import Tailrace

tail = Tailrace(imports=["{package}.more"])
other = 5


@tail.task
async def answer(run, prompt: str) -> str:
    return prompt
"""
MORE = """\
from {package}.tasks import tail


@tail.task
async def crawl(run) -> None: ...
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with tasks in the present folder, under a name of its own: modules stay imported."""
    name = f"shop{abs(hash(tmp_path))}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "tasks.py").write_text(TASKS.format(package=name))
    (folder / "more.py").write_text(MORE.format(package=name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def refused(target: str, load: object = load_tail) -> NotLoaded:
    with pytest.raises(NotLoaded) as caught:
        load(target)  # type: ignore[operator]
    return caught.value


def test_a_tailrace_with_its_imports(package: str) -> None:
    """The module comes from the present folder; what `imports` names registers its tasks too."""
    assert set(load_tail(f"{package}.tasks:tail").tasks) == {"answer", "crawl"}
    assert {path.name for path in project_files() if package in str(path)} == {"__init__.py", "tasks.py", "more.py"}
    assert not [path for path in project_files() if "site-packages" in str(path) or path.is_relative_to(sys.prefix)]


def test_no_module(package: str, tmp_path: Path) -> None:
    """A name that is not there is told with the folder, and with one that is nearly the same."""
    error = refused(f"{package}.taks:tail")
    assert error.message == f'there is no module "{package}.taks" in {tmp_path} or where Python looks (sys.path).'
    assert error.remedy == f"Perhaps {package}.tasks"
    assert "folder that holds" in refused("nothing_like_it:tail").remedy


def test_no_target(package: str) -> None:
    """What is no MODULE:TAIL is answered with one; a file's path with the module's name."""
    assert refused(f"{package}.tasks").remedy == f"For example {package}.tasks:tail"
    assert refused(":tail").remedy == "For example shop.tasks:tail"
    error = refused(f"./{package}/tasks.py:tail")
    assert error.remedy == f"Perhaps {package}.tasks:tail, from the folder that holds {package}."


def test_no_attribute(package: str) -> None:
    """What the module has instead is named."""
    error = refused(f"{package}.tasks:tial")
    assert (error.message, error.remedy) == (f'module {package}.tasks has no "tial".', f"Perhaps {package}.tasks:tail")
    assert refused(f"{package}:tail").remedy == "It has no Tailrace at all."
    error = refused(f"{package}.tasks:other")
    assert error.message == f"{package}.tasks:other is an int, no Tailrace."
    assert error.remedy == f"Perhaps {package}.tasks:tail"


def test_an_import_that_fails(package: str, tmp_path: Path) -> None:
    """The traceback begins in the user's module, and the files at fault are known."""
    more = tmp_path / package / "more.py"
    more.write_text("def go():\n    return 1 / 0\n\n\ngo()\n")
    error = refused(f"{package}.tasks:tail")
    stands = "; it stands in Tailrace(imports=…)"
    assert error.message == f"{package}.more cannot be imported{stands}: ZeroDivisionError: division by zero"
    lines = error.remedy.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{more}", line 5, in <module>'
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert error.files == {more}


def test_a_syntax_error(package: str, tmp_path: Path) -> None:
    """It is told by its place alone."""
    tasks = tmp_path / package / "tasks.py"
    tasks.write_text("def go(:\n")
    error = refused(f"{package}.tasks:tail")
    assert error.message.startswith(f"{package}.tasks cannot be imported: SyntaxError: ")
    assert error.remedy.splitlines()[0] == f'  File "{tasks}", line 1'
    assert error.files == {tasks}


@pytest.mark.parametrize(
    ("text", "kind"),
    [("import nothing_like_it", "ModuleNotFoundError"), ("raise SystemExit('no')", "SystemExit"), ("x", "NameError")],
)
def test_what_else_an_import_raises(package: str, tmp_path: Path, text: str, kind: str) -> None:
    """A missing library is not taken for a missing module, and no module ends the command."""
    (tmp_path / package / "tasks.py").write_text(text)
    assert f"{package}.tasks cannot be imported: {kind}: " in refused(f"{package}.tasks:tail").message


def test_an_application(package: str, tmp_path: Path) -> None:
    """MODULE:APP is anything that can be called; else what looks like an application is named."""
    (tmp_path / package / "web.py").write_text("from fastapi import FastAPI\n\napp = FastAPI()\nnumber = 1\n")
    assert callable(load_app(f"{package}.web:app"))
    assert refused(f"{package}.web:number", load_app).remedy == f"Perhaps {package}.web:app"
    assert refused(f"{package}.web:apps", load_app).remedy == f"Perhaps {package}.web:app"
