"""What the documents say is what the code has."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import re
from pathlib import Path

import pytest
import typer.main

import processor.errors
import tailrace
from gateway.core.problems import STATUS
from processor.cli.main import app
from processor.core import errors
from processor.core.settings import Settings, variable_of
from tests.support.pages import as_module, listings, mypy
from tests.support.program import ROOT
from tests.support.servers import TestServer

DOCS = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
REFERENCE = (ROOT / "docs/reference.md").read_text()


def section(text: str, title: str) -> str:
    """What stands below a heading of the second level."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def kinds(error: type[errors.TailraceError]) -> set[str]:
    ours = (sub for sub in error.__subclasses__() if sub.__module__.startswith(("processor.", "gateway.")))
    return {error.code}.union(*(kinds(sub) for sub in ours))


def test_every_error_has_its_heading() -> None:
    """docs/errors.md has one heading for each slug of the library, the command line and HTTP, and for none that does not exist."""
    text = (ROOT / "docs/errors.md").read_text()
    headings = re.findall(r"^## (\S+)$", text, re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert set(headings) == kinds(errors.TailraceError) | set(STATUS)


def test_error_headings_name_class_and_status() -> None:
    """Below each heading stand the class of the library and the status of HTTP, where there are any."""
    text = (ROOT / "docs/errors.md").read_text()
    classes = {error.code: name for name in errors.__all__ if (error := getattr(errors, name))}
    for slug, status in STATUS.items():
        body = section(text, slug)
        assert str(status) in body.split("\n\n")[0], slug
    for slug, name in classes.items():
        assert f"`{name}`" in section(text, slug), slug


def test_every_setting_is_described_with_its_default() -> None:
    """docs/reference.md lists each variable with the default that the code has."""
    said = dict(re.findall(r"^\| `(TAILRACE_\w+)` \| (\S+) \|", section(REFERENCE, "Settings"), re.MULTILINE))
    fields = [field for field in dataclasses.fields(Settings) if field.name != "origins"]
    assert list(said) == [variable_of(field.name) for field in fields]
    for field in fields:
        value = said[variable_of(field.name)].strip("`")
        default = field.default
        if default is None or default == ():
            assert value == "–", field.name
        elif isinstance(default, (bool, int, float)):
            assert float(value) == float(default), field.name
        else:
            assert value == str(default), field.name


def commands() -> set[str]:
    group = typer.main.get_command(app)
    return set(group.commands)  # type: ignore[attr-defined]


def test_every_command_is_described() -> None:
    """docs/reference.md lists the commands that the command line has, and no others."""
    said = re.findall(r"^\| `tailrace (\S+)` \|", section(REFERENCE, "Command line"), re.MULTILINE)
    assert set(said) == commands()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_documents_name_only_commands_and_options_that_exist(path: Path) -> None:
    """No page shows a command, or an option of one, that the command line does not have."""
    group = typer.main.get_command(app)
    shown = re.findall(r"(?:\$ |`)tailrace ([a-z]+)([^`\n]*)", path.read_text())
    for name, rest in shown:
        assert name in commands(), f"tailrace {name}"
        command = group.commands[name]  # type: ignore[attr-defined]
        words = rest.split()
        if words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words[0]]
        known = {option for parameter in [*command.params, *group.params] for option in parameter.opts}
        for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest.split(" -- ")[0].split("#")[0].split("|")[0]):
            assert option in known or option.startswith("--log"), f"tailrace {name} {option}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_listings_are_valid_python_and_import_what_exists(path: Path) -> None:
    """Every Python listing can be parsed, and imports from the front door only what it has."""
    for text in listings(path):
        tree = compile(text, path.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "tailrace":
                assert {alias.name for alias in node.names} <= set(tailrace.__all__)


def test_errors_are_imported_from_where_the_documents_say() -> None:
    """processor.errors has each error of the core, and nothing else."""
    assert processor.errors.__all__ == errors.__all__
    assert all(getattr(processor.errors, name) is getattr(errors, name) for name in errors.__all__)


def test_reference_lists_the_public_names() -> None:
    """Each name of the front door stands in docs/reference.md."""
    text = section(REFERENCE, "Python")
    assert not [name for name in tailrace.__all__ if not re.search(rf"\b{name}\b", text)]


def test_guarantees_name_tests_that_exist() -> None:
    """Each promise of docs/guarantees.md names at least one test, and each test named is there."""
    table = section("\n## top\n" + (ROOT / "docs/guarantees.md").read_text(), "top")
    rows = [row for row in table.splitlines() if row.startswith("| ") and not row.startswith(("| promise", "| ---"))]
    assert len(rows) >= 8
    for row in rows:
        named = re.findall(r"\[(test_\w+)\]\(\.\./(tests/[^)]+\.py)\)", row)
        assert named, row
        for name, file in named:
            assert f"def {name}(" in (ROOT / file).read_text(), f"{name} of {file}"


PRELUDES = {  # what a page leaves to its reader, and where in the listing it belongs
    "# shop/tasks.py": ("tail =", "async def model(prompt: str) -> AsyncIterator[str]:\n    yield prompt\n\n\n"),
    "# shop/web.py": ("app =", "async def login() -> str:\n    return 'ada'\n\n\n"),
}


def test_listings_of_the_application_page_are_typed(tmp_path: Path) -> None:
    """Every Python listing of docs/in-your-app.md passes mypy --strict, each behind those before it."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").touch()
    texts = listings("docs/in-your-app.md")
    for name in ("tasks", "web"):
        text = next(text for text in texts if text.startswith(f"# shop/{name}.py"))
        texts.remove(text)
        place, prelude = PRELUDES[f"# shop/{name}.py"]
        text = text.replace("\n\n", "\n\nfrom collections.abc import AsyncIterator\n", 1).replace(
            f"\n{place}", f"\n{prelude}{place}", 1
        )
        (tmp_path / f"shop/{name}.py").write_text(text)
    imports = "from shop.tasks import answer, tail\nfrom shop.web import app\n"
    loose = [text for text in texts if "import " not in text]  # statements, which stand inside a function somewhere
    functions = [f"async def part_{n}(run_id: str, prompt: str) -> None:\n" for n in range(len(loose))]
    bodies = [
        "".join(f"    {line}\n" for line in text.replace("tail.run(run)", "tail.run(run_id)").splitlines())
        for text in loose
    ]
    whole = [text for text in texts if "import " in text]
    (tmp_path / "more.py").write_text(
        imports + "".join(whole) + "".join(map("".join, zip(functions, bodies, strict=True)))
    )
    done = mypy(tmp_path, "shop", "more.py")
    assert done.returncode == 0, done.stdout


async def test_rights_of_the_deploy_page_suffice(server: TestServer) -> None:
    """A user made as docs/deploy.md says can do everything in its namespace, and nothing in another."""
    (line,) = re.findall(r"^ACL SETUSER .*$", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE)
    words = line.split()
    with server.client() as admin:
        admin.execute_command(*words)
        url = server.url.replace("://", f"://{words[2]}:password@", 1)
        try:
            async with tailrace.Tailrace(url) as tail:
                async with tail.run("order-1") as run:
                    run.log("a line")
                assert [event.type async for event in tail.run("order-1").follow()][-1] == "run.finished"
                assert [state.run async for state in tail.runs()] == ["order-1"]
                await tail.run("order-2").emit("log", {"lines": ["x"]})
                assert await tail.run("order-2").cancel()
            with pytest.raises(errors.ServerDenied):
                async with tailrace.Tailrace(url, namespace="other") as tail:
                    await tail.run("order-3").emit("log", {"lines": ["x"]})
        finally:
            admin.execute_command("ACL", "DELUSER", words[2])


def test_example_of_the_first_run_does_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """hello.py of docs/first-run.md counts, and its result is what it counted to."""
    from processor.testing import sandbox

    (listing,) = [text for text in listings("docs/first-run.md") if "count" in text]
    hello = as_module(monkeypatch, "hello", listing.replace("0.5", "0"))

    async def counted() -> tuple[object, str]:
        async with sandbox(hello.tail):
            run = await hello.count.start_here(5)
            return await run.result(), await run.text()

    assert asyncio.run(counted()) == (5, "1 2 3 4 5 ")
