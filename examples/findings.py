"""What can be said about source files without running them: the part of the review that needs no tailrace.

`walk` lists the files, `measure` looks at one (Python by its syntax tree, the rest by its lines), `compare` looks for
lines that stand twice, `report` tells all of it in Markdown. Equal trees give equal text.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

__all__ = ["MAX_FILES", "Finding", "Source", "compare", "measure", "report", "walk", "worst_of"]

SKIPPED = {".git", ".venv", "venv", "node_modules", "__pycache__", "build", "dist", "target", "vendor", "site-packages"}
SUFFIXES = {
    ".py",
    ".pyi",
    ".js",
    ".ts",
    ".jsx",
    ".tsx",
    ".lua",
    ".go",
    ".rs",
    ".c",
    ".h",
    ".cc",
    ".cpp",
    ".java",
    ".kt",
}
SUFFIXES |= {".rb", ".php", ".sh", ".sql", ".css", ".html", ".swift", ".cs", ".ex", ".scala"}
MAX_FILES = 500
MAX_BYTES = 256 * 1024  # longer files are generated or data
BLOCK = 8  # so many equal lines in two places are a duplicate
WEIGHTS = {  # what to look at first
    "does not parse": 9,
    "bare except": 8,
    "swallowed exception": 7,
    "mutable default": 7,
    "complex function": 6,
    "long function": 5,
    "duplicate lines": 4,
    "long file": 3,
    "open mark": 2,
    "no docstring": 1,
    "long line": 1,
}
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.IfExp, ast.ExceptHandler, ast.comprehension, ast.match_case)
MARK = re.compile(r"(?:#|//|--|/\*)\s*(?:TODO|FIXME|XXX|HACK)\b.{0,80}")


@dataclass(order=True)
class Finding:
    """One place worth a look; in a sorted list the worst comes first."""

    rank: tuple[int, int]  # minus the rule's weight, minus the size
    path: str
    line: int
    rule: str
    detail: str


@dataclass
class Source:
    """One file, and what was found in it."""

    path: str  # relative to the tree, with slashes
    lines: list[str]
    functions: list[int] = field(default_factory=list)  # their lengths in lines
    findings: list[Finding] = field(default_factory=list)

    def found(self, rule: str, line: int, detail: str, size: int = 0) -> None:
        self.findings.append(Finding((-WEIGHTS[rule], -size), self.path, line, rule, detail))


def walk(folder: Path) -> list[Path]:
    """Source files below the folder in the order of their names; no links, no hidden folders, no big files."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=False):
        if "pyvenv.cfg" in names:  # a virtual environment, whatever its name
            folders.clear()
            continue
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith(".")]
        paths = (Path(parent, name) for name in names if Path(name).suffix in SUFFIXES and ".min." not in name)
        found += [path for path in paths if not path.is_symlink() and path.is_file() and os.access(path, os.R_OK)]
    return sorted(path for path in found if path.stat().st_size <= MAX_BYTES)


def measure(path: Path, folder: Path) -> Source:
    """Read one file and look at it."""
    text = path.read_bytes().decode("utf-8", "replace")
    source = Source(path.relative_to(folder).as_posix(), text.splitlines())
    if "\0" in text:  # a binary file under a source file's name
        return Source(source.path, [])
    if len(source.lines) > 800:
        source.found("long file", 1, f"{len(source.lines)} lines", len(source.lines))
    for number, line in enumerate(source.lines, 1):
        if len(line) > 160:
            source.found("long line", number, f"{len(line)} characters", len(line))
        if mark := MARK.search(line):
            source.found("open mark", number, mark[0].strip("#/-* "))
    if path.suffix == ".py":
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what the compiler says about the file's escapes
                tree = ast.parse(text)
            _look(tree, source)
        except (SyntaxError, ValueError, RecursionError) as error:
            source.found("does not parse", getattr(error, "lineno", None) or 1, str(error))
    return source


def _look(tree: ast.Module, source: Source) -> None:
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(type=None):
                source.found("bare except", node.lineno, "It also catches KeyboardInterrupt and cancellation")
            case ast.ExceptHandler(type=ast.Name(id="Exception" | "BaseException" as name), body=[ast.Pass()]):
                source.found("swallowed exception", node.lineno, f"except {name}: pass")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                _look_at_function(node, source)
            case ast.ClassDef() if not node.name.startswith("_") and not ast.get_docstring(node):
                source.found("no docstring", node.lineno, f"class {node.name}")
            case _:
                pass


def _look_at_function(node: ast.FunctionDef | ast.AsyncFunctionDef, source: Source) -> None:
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    source.functions.append(length)
    inside = list(ast.walk(node))
    paths = 1 + sum(isinstance(part, BRANCHES) for part in inside)
    paths += sum(len(part.values) - 1 for part in inside if isinstance(part, ast.BoolOp))
    if paths > 12:
        source.found("complex function", node.lineno, f"{node.name} has {paths} paths", paths)
    if length > 60:
        source.found("long function", node.lineno, f"{node.name} has {length} lines", length)
    defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
    if any(isinstance(default, (ast.List, ast.Dict, ast.Set)) for default in defaults):
        source.found("mutable default", node.lineno, f"{node.name} keeps it from call to call")
    if not node.name.startswith("_") and length >= 10 and not ast.get_docstring(node):
        source.found("no docstring", node.lineno, f"{node.name} has {length} lines", length)


def compare(sources: Sequence[Source]) -> int:
    """Find blocks of lines that stood in an earlier place already; returns how many lines they have in all."""
    seen: dict[tuple[str, ...], tuple[str, int]] = {}
    doubled = 0
    for source in sources:
        code = [(number, text) for number, line in enumerate(source.lines, 1) if len(text := line.strip()) > 3]
        start = 0
        while start + BLOCK <= len(code):
            here = (source.path, code[start][0])
            first = seen.setdefault(tuple(text for _, text in code[start : start + BLOCK]), here)
            if first == here:
                start += 1
            else:
                source.found("duplicate lines", here[1], f"{BLOCK} lines as in {first[0]}:{first[1]}", BLOCK)
                doubled, start = doubled + BLOCK, start + BLOCK
    return doubled


def worst_of(sources: Sequence[Source], most: int = 7) -> list[Finding]:
    """What to look at first: the worst findings, at most two of a kind, and one a place."""
    taken: Counter[str] = Counter()
    worst: dict[tuple[str, int], Finding] = {}
    for finding in sorted(finding for source in sources for finding in source.findings):
        place = (finding.path, finding.line)
        if taken[finding.rule] < 2 and place not in worst:
            taken[finding.rule] += 1
            worst[place] = finding
    return list(worst.values())[:most]


def report(name: str, sources: Sequence[Source], doubled: int) -> Iterator[str]:
    """The report in Markdown, piece by piece."""
    lines = sum(len(source.lines) for source in sources)
    functions = [length for source in sources for length in source.functions]
    counts = Counter(finding.rule for source in sources for finding in source.findings)
    yield f"# Review of {name}\n\nI read **{len(sources)} files** with {lines:,} lines"
    yield f" and found {counts.total()} places worth a look.\n"
    if functions:
        yield f"Half of the {len(functions)} Python functions have {median(functions):.0f} lines or fewer;"
        yield f" the longest has {max(functions)}.\n"
    if doubled:
        yield f"{doubled} lines ({100 * doubled / lines:.1f} %) stood in another place already.\n"
    if not counts:
        yield "\nNothing stands out. That is rare, and worth keeping.\n"
        return
    worst = worst_of(sources)
    yield "\n## Look at these first\n\n"
    for number, finding in enumerate(worst, 1):
        yield f"{number}. `{finding.path}:{finding.line}` **{finding.rule}**: {finding.detail}.\n"
    yield "\n## All findings\n\n| what | how often |\n| --- | --- |\n"
    for rule, count in sorted(counts.items(), key=lambda item: (-WEIGHTS[item[0]], item[0])):
        yield f"| {rule} | {count} |\n"
    yield "\n## The longest files\n\n"
    for source in sorted(sources, key=lambda source: (-len(source.lines), source.path))[:5]:
        yield f"- `{source.path}`: {len(source.lines)} lines, {len(source.findings)} findings\n"
    rule, count = counts.most_common(1)[0]
    yield f"\nMost frequent is **{rule}** ({count}). I would begin with `{worst[0].path}`.\n"
