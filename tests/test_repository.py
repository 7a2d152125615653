"""What stands around the code: lock, image, compose file, make targets, packages, links."""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-build.lock", "requirements-dev.lock")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
OURS = {"tailrace", "processor", "gateway", "examples", "bench", "tests"}
# Packages that a user's own application brings: examples and tests may import them, the wheel may not.
OPTIONAL = {"fakeredis", "pydantic", "lupa"}


def run(*command: str | Path, cwd: Path = ROOT, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )


def tool(name: str) -> Path:
    """A program of the environment that runs the tests."""
    return Path(sys.executable).with_name(name)


def tracked() -> list[Path]:
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed.returncode:
        pytest.skip("not a git work tree")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue


# The lock


def locked(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    found = (Requirement(line.split("--hash")[0].strip()) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@pytest.mark.parametrize("name", LOCKS)
def test_lock_pins_every_package_by_version_and_hash_and_names_no_address(name: str) -> None:
    """A lock can be installed from any index and from no other files than those that were locked."""
    text = (ROOT / name).read_text()
    assert not re.search(r"://|--index|--find-links|--trusted|@ ", text)
    for line in text.replace("\\\n", " ").splitlines():
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+( ; [^-]+)?\s+--hash=sha256:[0-9a-f]{64}", line), line[:100]


def test_extras_that_packages_ask_for_are_locked_as_such() -> None:
    """pip takes `coverage[toml]` for another requirement than `coverage`: unlocked, a new release breaks the installation."""
    pinned = locked("requirements-dev.lock")
    for distribution in importlib.metadata.distributions():
        if canonicalize_name(distribution.metadata["Name"]) not in pinned:
            continue
        for requirement in map(Requirement, distribution.requires or ()):
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if requirement.extras and wanted:
                assert requirement.extras <= pinned[canonicalize_name(requirement.name)].extras, requirement


def test_locks_agree_with_each_other() -> None:
    """The tests run with exactly the versions that the runtime's lock installs."""
    everything = {name: str(found.specifier) for name, found in locked("requirements-dev.lock").items()}
    for name in LOCKS[:2]:
        for package, found in locked(name).items():
            assert everything.get(package) == str(found.specifier), f"{package} of {name}"


def wanted(requirements: list[str | dict[str, str]], groups: dict[str, list[Any]]) -> Iterator[Requirement]:
    for entry in requirements:
        if isinstance(entry, dict):
            yield from wanted(groups[entry["include-group"]], groups)
        else:
            yield Requirement(entry)


def test_lock_is_what_pyproject_asks_for() -> None:
    """Every declared package is locked in an allowed version; `make lock` was not forgotten."""
    groups, project = PROJECT["dependency-groups"], PROJECT["project"]
    extras = project["optional-dependencies"]
    asked = {
        "requirements.lock": project["dependencies"],
        "requirements-build.lock": groups["build"],
        "requirements-dev.lock": groups["dev"] + extras["testing"] + extras["typed"] + project["dependencies"],
    }
    for name, requirements in asked.items():
        found = locked(name)
        for requirement in wanted(requirements, groups):
            version = str(found[canonicalize_name(requirement.name)].specifier).removeprefix("==")
            assert requirement.specifier.contains(version, prereleases=True), f"{name}: {requirement}"


def test_runtime_lock_contains_what_its_packages_need() -> None:
    """Nothing that an installed tailrace imports comes from the tests' packages only."""
    found, open_ = locked("requirements.lock"), list(locked("requirements.lock"))
    while open_:
        name = open_.pop()
        marker = found[name].marker
        if marker and not marker.evaluate():
            continue
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if not needed.marker or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in found, f"{needed.name}, needed by {name}"


def imported(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((alias.name.split(".")[0], path) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.split(".")[0], path


@pytest.mark.parametrize("folder", ["processor", "gateway", "tailrace.py", "tests", "bench"])
def test_imported_packages_are_declared(folder: str) -> None:
    """Every package that the code imports stands in pyproject.toml, so no import works by accident."""
    groups, project = PROJECT["dependency-groups"], PROJECT["project"]
    asked = list(wanted(project["dependencies"], groups))
    if folder in ("tests", "bench"):
        asked += wanted(groups["dev"], groups)
    else:
        asked += wanted([text for extra in project["optional-dependencies"].values() for text in extra], groups)
    declared = {canonicalize_name(requirement.name) for requirement in asked} | {"hiredis", "packaging"}
    packages = importlib.metadata.packages_distributions()
    for module, path in imported(ROOT / folder):
        if module in sys.stdlib_module_names or module in OURS or path.with_name(f"{module}.py").exists():
            continue
        pins = path.with_suffix(".txt")
        if pins.exists():  # a program with an environment of its own
            pinned = {canonicalize_name(line.partition("==")[0]) for line in pins.read_text().splitlines()}
            assert canonicalize_name(module) in pinned, f"{module}, imported by {path.relative_to(ROOT)}"
            continue
        owners = {canonicalize_name(owner) for owner in packages.get(module, [])}
        assert owners & declared or module in OPTIONAL, f"{module}, imported by {path.relative_to(ROOT)}"


# Image and compose file


def test_dockerfile_passes_the_linter() -> None:
    """hadolint finds nothing to say about the Dockerfile."""
    if not tool("hadolint").exists():
        pytest.skip("hadolint has no build for this platform")
    done = run(tool("hadolint"), "--failure-threshold", "style", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in lines]


def test_image_is_built_in_stages_and_runs_without_rights() -> None:
    """The last stage has a user of its own, a health check, and only what the first one built."""
    lines = instructions()
    starts = [number for number, (word, _) in enumerate(lines) if word == "FROM"]
    assert len(starts) == 2
    last = dict(lines[starts[-1] :])
    assert last["USER"] not in ("root", "0")
    assert "/healthz" in last["HEALTHCHECK"]
    assert last["COPY"].startswith("--from=build ")
    assert last["ENTRYPOINT"] == '["tailrace"]'
    assert all(":" in text and ":latest" not in text for word, text in lines if word == "FROM")


def test_image_gets_every_file_that_it_copies() -> None:
    """What the Dockerfile copies exists and is not held back by .dockerignore; the packages' data comes along."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [
        part for word, text in instructions() if word == "COPY" and "--from" not in text for part in text.split()[:-1]
    ]
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    for needed in [
        *wheel["only-include"],
        *wheel["force-include"],
        PROJECT["project"]["readme"],
        *PROJECT["project"]["license-files"],
    ]:
        assert any(needed == source or needed.startswith(f"{source}/") for source in sources), needed


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def test_compose_file_follows_the_specification() -> None:
    """The compose file is valid under the schema of the Compose Specification."""
    done = run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_server_keeps_what_it_is_given() -> None:
    """Valkey writes an AOF into a named volume, evicts nothing, and says when it is ready."""
    file = compose()
    server = file["services"]["valkey"]
    options = " ".join(server["command"])
    assert "--appendonly yes" in options
    assert "--maxmemory-policy noeviction" in options
    volume, folder = server["volumes"][0].split(":")
    assert volume in file["volumes"]
    assert folder == "/data"
    assert server["healthcheck"]["test"] == ["CMD", "valkey-cli", "ping"]


def test_compose_services_wait_for_each_other_and_run_without_rights() -> None:
    """Gateway and producer start when what they need is healthy, and write nowhere."""
    services = compose()["services"]
    for name in ("gateway", "producer"):
        service = services[name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert all(need["condition"] == "service_healthy" for need in service["depends_on"].values())
    assert all(port.startswith("127.0.0.1:") for port in services["gateway"]["ports"])
    assert not any(str(service.get("image", "")).endswith(":latest") for service in services.values())


# Commands


def test_makefile_describes_every_target() -> None:
    """`make` alone says what there is, and leaves nothing out."""
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert phony is not None
    said = run("make", "--no-print-directory").stdout
    assert set(re.findall(r"^make (\w+)", said, re.MULTILINE)) == set(phony[1].split()) - {"help"}


def test_makefile_refuses_an_old_python_in_words() -> None:
    """Without a Python that is new enough, make says which one is needed."""
    done = run("make", "--no-print-directory", "PYTHON=", "VENV=build/none", "demo")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr


def test_scripts_of_the_repository_are_valid_bash() -> None:
    """bash can read .ci/run, which may be executed."""
    assert run("bash", "-n", ".ci/run").returncode == 0
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_hooks_before_a_commit_are_local() -> None:
    """pre-commit fetches no repository, and its commands are those of the environment."""
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    for hook in repos[0]["hooks"]:
        assert hook["language"] == "system"
        assert tool(Path(shlex.split(hook["entry"])[0]).name).exists()


# Text


def test_no_file_names_this_machine_or_an_index() -> None:
    """What is committed holds on every machine."""
    here = [str(ROOT), sys.prefix, socket.gethostname() + "/"]
    strange = re.compile("|".join([r"pythonhosted\.org", r"pypi\.org/simple", r"/root/", *map(re.escape, here)]))
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path, text in texts()
        if path != Path(__file__).resolve() and (match := strange.search(text))
    ]
    assert not found


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown file's headings, as they are made for links."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link of a Markdown file names a file, and a heading where it has an anchor."""
    broken = []
    for path, text in texts():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
            name, _, anchor = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert not broken


# The package


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in an environment of its own; the packages it needs are those of the tests, which the lock pins.

    Returns that environment's folder of programs. Nothing of the repository can be imported there.
    """
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, ROOT)
    assert built.returncode == 0, built.stderr
    venv = folder / "venv"
    assert run(sys.executable, "-m", "venv", "--without-pip", venv).returncode == 0
    python = venv / "bin/python"
    wheel = next(folder.glob("tailrace-*.whl"))
    done = run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    packages = next(venv.glob("lib/python*/site-packages"))
    (packages / "needed.pth").write_text(f"{Path(yaml.__file__).resolve().parent.parent}\n")
    return python.parent


def test_wheel_brings_scripts_agent_types_and_page(installed: Path) -> None:
    """Everything that is read at run time is inside the packages, and nothing else is installed beside them."""
    packages = next(installed.parent.glob("lib/python*/site-packages"))
    for name in (
        "processor/store/lua/append.lua",
        "processor/examples/review.py",
        "processor/py.typed",
        "gateway/py.typed",
        "gateway/console/index.html",
        "gateway/tailrace.js",
        "tailrace-stubs/__init__.pyi",
        "tailrace.py",
    ):
        assert (packages / name).is_file(), name
    top = {
        path.name
        for path in packages.iterdir()
        if not path.name.startswith(("tailrace-0", "__pycache__", "_", "needed"))
    }
    assert top == {"processor", "gateway", "tailrace.py", "tailrace-stubs"}
    assert len(list((packages / "processor/store/lua").rglob("*.lua"))) == len(
        list((ROOT / "scripts/lua").rglob("*.lua"))
    )


def test_installed_demo_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """`tailrace demo --once` of the wheel needs nothing of the repository, and loses and doubles nothing."""
    done = run(installed / "tailrace", "demo", "--once", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    figures = dict(re.findall(r"([a-z_]+)=(\S+)", last))
    assert (figures["lost"], figures["duplicated"]) == ("0", "0"), last
    assert int(figures["events"]) > 50, last


def test_installed_package_is_typed(installed: Path, tmp_path: Path) -> None:
    """mypy --strict knows the types of `from tailrace import …` in a user's project."""
    (tmp_path / "program.py").write_text(
        "from tailrace import Run, Tailrace\n\n"
        "tail = Tailrace()\n\n\n"
        "@tail.task\n"
        "async def answer(run: Run, prompt: str) -> int:\n"
        "    run.write(prompt)\n"
        "    return 1\n\n\n"
        "async def main() -> None:\n"
        "    reveal_type(await (await answer.start('why?')).result())\n"
        "    await answer.start(1)\n"
    )
    done = run(tool("mypy"), "--strict", "--python-executable", installed / "python", "program.py", cwd=tmp_path)
    assert 'Revealed type is "int"' in done.stdout.replace("builtins.", ""), done.stdout
    assert done.stdout.count("error:") == 1, done.stdout
    assert 'expected "str"' in done.stdout


def test_make_is_here() -> None:
    """The tests of the make targets did not pass for want of make."""
    assert shutil.which("make")
