"""MODULE:NAME, as it was typed, becomes the object; what is wrong with it is said in words."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from processor.cli.exits import NotLoaded

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["load_app", "load_imports", "load_tail", "module_of", "project_files"]

_ROOT: Final = Path(__file__).parents[2]
_OURS: Final = (f"{_ROOT}/processor/", f"{_ROOT}/gateway/", f"{_ROOT}/tailrace.py")  # say nothing of the user's module
_SKIPPED: Final = {"site-packages", "dist-packages", ".venv", "node_modules"}


def module_of(target: str) -> str:
    return target.partition(":")[0]


def load_tail(target: str) -> Tailrace:
    """The Tailrace that `shop.tasks:tail` names, its `imports` loaded. Raises NotLoaded."""
    from processor.client.tailrace import Tailrace  # late: who only keeps such a process does without

    module, name = _parts(target, "MODULE:TAIL", "tail")
    found = _attribute(module, name, target, "Tailrace", lambda value: isinstance(value, Tailrace))
    if not isinstance(found, Tailrace):
        kind = type(found).__name__
        raise NotLoaded(
            f"{target} is {'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}, no Tailrace.",
            remedy=_perhaps(module, (name for name, value in vars(module).items() if isinstance(value, Tailrace))),
        )
    load_imports(found)
    return found


def load_app(target: str) -> Any:
    """The ASGI application that `shop.web:app` names. Raises NotLoaded."""
    module, name = _parts(target, "MODULE:APP", "app")
    found = _attribute(module, name, target, "application", _may_be_app)
    if not callable(found):
        raise NotLoaded(
            f"{target} is a {type(found).__name__}, which cannot be called as an application.",
            remedy=_perhaps(module, (name for name, value in vars(module).items() if _may_be_app(value))),
        )
    return found


def load_imports(tail: Tailrace) -> None:
    """The modules that its `imports` names: their tasks register themselves. Raises NotLoaded."""
    for name in tail.imports:
        _import(name, "; it stands in Tailrace(imports=…)")


def project_files() -> set[Path]:
    """Files of all imported modules that are neither Python's nor installed: what a reload watches."""
    installed = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    found = set()
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if not isinstance(name, str):
            continue
        path = Path(name)
        inside = any(path.is_relative_to(prefix) for prefix in installed) and not path.is_relative_to(Path.cwd())
        if not inside and not _SKIPPED.intersection(path.parts) and not name.startswith(_OURS):
            found.add(path)
    return found


def _parts(target: str, form: str, usual: str) -> tuple[ModuleType, str]:
    """The module, imported, and the attribute's name. Raises NotLoaded."""
    name, colon, attribute = target.partition(":")
    if name.endswith(".py") or "/" in name:
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        raise NotLoaded(
            f"{target!r} names a file; {form} names a module, as an import does.",
            remedy=f"Perhaps {dotted}:{attribute or usual}, from the folder that holds {dotted.partition('.')[0]}.",
        )
    if not colon or not attribute or not name:
        raise NotLoaded(f"{target!r} is no {form}.", remedy=f"For example {name or 'shop.tasks'}:{attribute or usual}")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return _import(name), attribute


def _import(name: str, where: str = "") -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing and (name == missing or name.startswith(f"{missing}.")):
            raise NotLoaded(
                f'there is no module "{missing}" in {Path.cwd()} or where Python looks (sys.path){where}.',
                remedy=_close(missing) or "Start it in the folder that holds the module, or set PYTHONPATH.",
            ) from error
        raise _failed(name, error, where) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error, where) from error


def _failed(name: str, error: BaseException, where: str) -> NotLoaded:
    """It is there and its import fails: with the traceback, from the first line that is not Python's or ours."""
    told = traceback.TracebackException.from_exception(error)
    while told.stack and _is_ours(told.stack[0].filename):
        del told.stack[0]
    files = {frame.filename for frame in told.stack if not _is_ours(frame.filename)}
    if isinstance(error, SyntaxError):  # its place says it all
        files.add(error.filename or "")
    whole = told.stack and not isinstance(error, SyntaxError)
    lines = told.format(chain=False) if whole else told.format_exception_only()
    return NotLoaded(
        f"{name} cannot be imported{where}: {type(error).__name__}: {error}",
        remedy="".join(lines).rstrip(),
        files=(file for file in files if os.path.isabs(file)),
    )


def _is_ours(filename: str) -> bool:
    return filename.startswith((*_OURS, "<")) or "/importlib/" in filename


def _attribute(module: ModuleType, name: str, target: str, what: str, fits: Any) -> Any:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise NotLoaded(
                f'module {module.__name__} has no "{name}".',
                remedy=_perhaps(module, (key for key, value in vars(module).items() if fits(value)))
                or f"It has no {what} at all.",
            ) from None
    return found


def _perhaps(module: ModuleType, names: Iterable[str]) -> str:
    found = sorted(set(names))
    return f"Perhaps {' or '.join(f'{module.__name__}:{name}' for name in found[:3])}" if found else ""


def _may_be_app(value: Any) -> bool:
    """Whether it looks like an instance of one of the ASGI frameworks."""
    return callable(value) and not isinstance(value, type) and hasattr(value, "router")


def _close(missing: str) -> str:
    """A module beside the one that is missing whose name is nearly its name."""
    package, _, last = missing.rpartition(".")
    folders = [Path.cwd()]
    if package:
        spec = importlib.util.find_spec(package)
        folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    names = {
        path.stem
        for folder in folders
        for path in folder.glob("*")
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    return "".join(
        f"Perhaps {f'{package}.' if package else ''}{name}" for name in difflib.get_close_matches(last, names, n=1)
    )
