"""An agent that reviews the source tree it is started in. It needs no API key, and its findings are real.

    tailrace demo                       starts it and shows it in the browser

It does what most agents do: it works in steps, calls tools, writes log lines, keeps a state, and streams its answer
word by word. Whoever follows the run sees all of it, from the beginning, whenever they come.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tailrace import Run, Tailrace

from .findings import MAX_FILES, Source, compare, measure, report, walk, worst_of

__all__ = ["review", "tail"]

tail = Tailrace()


@tail.task
async def review(run: Run, folder: str = ".", seconds: float = 10.0) -> dict[str, object]:
    """Review the source files below `folder`. seconds: how long the telling may take; 0 for as fast as it goes."""
    async with run.step("walk"):
        name, root, paths = await find(run, folder)
    async with run.step("measure"):
        sources = await measure_all(run, root, paths, seconds * 0.3)
        doubled = await asyncio.to_thread(compare, sources)
    async with run.step("read"):
        await read_worst(run, sources, seconds * 0.1)
    async with run.step("report"):
        words = re.findall(r"\S+\s*", "".join(report(name, sources, doubled)))
        await tell(run, words, seconds * 0.6)
    return {"files": len(sources), "findings": sum(len(source.findings) for source in sources), "words": len(words)}


async def find(run: Run, folder: str) -> tuple[str, Path, list[Path]]:
    """The tree's name, its root and its files; tailrace's own where the folder has none."""
    root = await asyncio.to_thread(Path(folder).resolve)
    name = root.name or "/"
    async with run.tool("list_files", {"folder": folder}) as tool:
        paths = await asyncio.to_thread(walk, root)
        if not paths:
            run.log("no source files here: tailrace's own are reviewed instead", level="warning", folder=folder)
            root, name = await asyncio.to_thread(Path(__file__).resolve), "tailrace"
            root = root.parent.parent
            paths = await asyncio.to_thread(walk, root)
        tool.result({"files": len(paths), "left_out": max(0, len(paths) - MAX_FILES)})
    return name, root, paths[:MAX_FILES]


async def measure_all(run: Run, root: Path, paths: list[Path], seconds: float) -> list[Source]:
    """Look at all files, one tool call a folder, with a log line for what is worst in it."""
    sources: list[Source] = []
    folders = sorted({path.parent for path in paths})
    for number, parent in enumerate(folders, 1):
        inside = [path for path in paths if path.parent == parent]
        where = parent.relative_to(root).as_posix()
        async with run.tool("measure", {"folder": where, "files": len(inside)}) as tool:
            measured = [await asyncio.to_thread(measure, path, root) for path in inside]
            lines = sum(len(source.lines) for source in measured)
            tool.result({"lines": lines, "findings": sum(len(source.findings) for source in measured)})
        for finding in worst_of(measured, 3):
            run.log(f"{finding.path}:{finding.line} {finding.rule}", level="warning", detail=finding.detail)
        sources += measured
        run.set(progress=round(0.4 * number / len(folders), 2), files=len(sources), folder=where)
        await asyncio.sleep(seconds / len(folders))
    return sources


async def read_worst(run: Run, sources: list[Source], seconds: float) -> None:
    """Read the lines around the three worst findings."""
    lines = {source.path: source.lines for source in sources}
    for finding in worst_of(sources, 3):
        first, last = max(1, finding.line - 1), finding.line + 3
        async with run.tool("read_lines", {"path": finding.path, "first": first, "last": last}) as tool:
            tool.result("\n".join(lines[finding.path][first - 1 : last]))
        await asyncio.sleep(seconds / 3)


async def tell(run: Run, words: list[str], seconds: float) -> None:
    """Stream the report. `write` sends when called, so a subscriber has each word at once."""
    async with run.message() as message:
        for number, word in enumerate(words, 1):
            message.write(word)
            if number % 20 == 0 or number == len(words):
                run.set(progress=round(0.4 + 0.6 * number / len(words), 2))
            await asyncio.sleep(seconds / len(words))
