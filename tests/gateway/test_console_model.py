"""The console's pure modules in Node: what events add up to, JSON Patch, blocks of Markdown."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "gateway" / "console"
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed: the console's modules are not run")


def run(source: str, given: object) -> Any:
    """What `source`, the body of a function of `given`, returns. Modules are imported as `load(name)`."""
    assert NODE is not None
    script = (
        f"const load = (name) => import({json.dumps(FOLDER.as_uri() + '/')} + name)\n"
        "let text = ''; for await (const chunk of process.stdin) text += chunk\n"
        f"const answer = await (async (given) => {{ {source} }})(JSON.parse(text))\n"
        "process.stdout.write(JSON.stringify(answer ?? null))"
    )
    command = [NODE, "--input-type=module", "-e", script]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def model(*events: tuple[str, object] | tuple[str, object, int]) -> Any:
    """The model after these events, its open spans and raw rows left out."""
    given = []
    for seq, (type_, data, *attempt) in enumerate(events, 1):
        event = {"type": type_, "data": data}
        if not type_.startswith("tailrace."):
            event |= {"id": f"{seq}-{1000 * seq}", **({"attempt": attempt[0]} if attempt else {})}
        given.append(event)
    return run(
        "const { RunModel } = await load('model.js'); const m = new RunModel(); given.forEach((e) => m.add(e));"
        "return { ...m, open: m.open.length, rows: m.rows.length, usage: [...m.usage],"
        "  texts: m.texts.map((t) => ({ ...t, void: m.isVoid(t) })) }",
        given,
    )


def test_steps_and_tools_are_spans() -> None:
    """Spans nest by the steps that are open, keep arguments and results, and end at the latest with their run."""
    seen = model(
        ("run.started", {}, 1),
        ("step.started", {"step": "a", "name": "outer"}, 1),
        ("tool.started", {"tool": "t", "name": "grep"}, 1),
        ("tool.args", {"tool": "t", "text": '{"q":'}, 1),
        ("tool.ready", {"tool": "t", "args": {"q": 1}}, 1),
        ("tool.result", {"tool": "t", "value": None}, 1),
        ("tool.error", {"tool": "u", "error": "no"}, 1),
        ("step.finished", {"step": "a"}, 1),
        ("step.started", {"step": "b", "name": "last"}, 1),
        ("run.failed", {"error": "x", "reason": "error"}, 1),
    )
    spans = [(s["kind"], s["name"], s["depth"], s["to"] - s["from"], s.get("error")) for s in seen["spans"]]
    assert spans == [
        ("step", "outer", 0, 6000, None),
        ("tool", "grep", 1, 3000, None),
        ("tool", "tool", 1, 0, "no"),
        ("step", "last", 0, 1000, None),
    ]
    assert seen["spans"][1]["args"] == {"q": 1}
    assert seen["spans"][1]["hasValue"]
    assert seen["spans"][3]["wasCut"]
    assert (seen["status"], seen["open"]) == ("failed", 0)


def test_attempts() -> None:
    """Text and state of a failed attempt are void, those without attempt stay, usage counts for all."""
    seen = model(
        ("state.set", {"kept": 1}),
        ("message.delta", {"text": "outside"}),
        ("run.started", {}, 1),
        ("message.delta", {"text": "one"}, 1),
        ("state.patch", [{"op": "add", "path": "/gone", "value": 1}], 1),
        ("usage", {"model": "m", "input_tokens": 3, "output_tokens": 1}, 1),
        ("run.retrying", {"reason": "error", "error": "E"}, 2),
        ("run.started", {}, 2),
        ("message.delta", {"text": "two"}, 2),
        ("usage", {"model": "m", "input_tokens": 4, "output_tokens": 1}, 2),
    )
    assert [(t["text"], t["void"]) for t in seen["texts"]] == [("outside", False), ("one", True), ("two", False)]
    assert seen["state"] == {"kept": 1}
    assert seen["usage"][0][1]["input"] == 7
    first, second = seen["attempts"]
    assert (first["error"], first["from"], first["to"], second["from"]) == ("E", 3000, 7000, 8000)


def test_a_rewritten_history_starts_anew() -> None:
    """After a rewritten gap only what follows counts; after a trimmed one all of it does."""
    rewritten = {"from": 1, "to": 2, "reason": "rewritten"}
    seen = model(("message.delta", {"text": "old"}), ("tailrace.gap", rewritten), ("message.delta", {"text": "new"}))
    assert [t["text"] for t in seen["texts"]] == ["new"]
    trimmed = {"from": 2, "to": 5, "reason": "trimmed"}
    seen = model(("message.delta", {"text": "old"}), ("tailrace.gap", trimmed), ("message.delta", {"text": " new"}))
    assert [t["text"] for t in seen["texts"]] == ["old new"]
    assert seen["gaps"] == [trimmed]


def test_long_lists_are_bounded() -> None:
    """Of very many lines and events the newest are kept, and a mark says that others were."""
    seen = run(
        "const { RunModel, MOST_LINES, MOST_ROWS } = await load('model.js'); const m = new RunModel();"
        "for (let n = 1; n <= given; n += 1) m.add({ id: `${n}-${n}`, type: 'log', data: { lines: ['a', `${n}`] } });"
        "return [m.lines.length <= MOST_LINES * 1.1, m.rows.length <= MOST_ROWS * 1.1, m.lines[0], m.lines.at(-1).text, m.logged]",
        100_000,
    )
    assert seen == [True, True, {"mark": "Earlier ones are not shown"}, "100000", 200_000]


@pytest.mark.parametrize(
    ("document", "operations", "after"),
    [
        ({"a": [1, 2]}, [{"op": "add", "path": "/a/1", "value": 9}, {"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 9, 2, 3]}),
        ({"a/b": {"m~n": 1}}, [{"op": "replace", "path": "/a~1b/m~0n", "value": 2}], {"a/b": {"m~n": 2}}),
        ({"a": [1, 2], "b": 1}, [{"op": "remove", "path": "/a/0"}, {"op": "remove", "path": "/b"}], {"a": [2]}),
        ({"a": {"b": 1}}, [{"op": "move", "from": "/a/b", "path": "/c"}], {"a": {}, "c": 1}),
        ({"c": 1}, [{"op": "copy", "from": "/c", "path": "/d"}], {"c": 1, "d": 1}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": [1]}], [1]),
        ({}, [{"op": "add", "path": "/__proto__/x", "value": 1}, {"op": "test", "path": "/y", "value": 1}], {"__proto__": {"x": 1}}),
    ],
)  # fmt: skip
def test_patch(document: object, operations: list[object], after: object) -> None:
    """RFC 6902 operations are applied to a copy; no prototype is touched."""
    source = "const { patch } = await load('patch.js'); const was = JSON.stringify(given[0]);"
    source += (
        "const now = patch(...given); if (JSON.stringify(given[0]) !== was || {}.x) throw Error('touched'); return now"
    )
    assert run(source, [document, operations]) == after


_PIECES = ["\n", "\n\n", "```", "~~~", "# a", "- b", "| c |", "> d", "1. e", "word ", "x" * 900, "**", "`", " "]


def test_blocks_of_growing_text() -> None:
    """Blocks are the text, cut: nothing lost; no open block grows beyond its bound; what was closed stays as it was."""
    seed = random.randrange(2**32)
    print(f"seed={seed}")
    draw = random.Random(seed)
    texts = ["".join(draw.choices(_PIECES, k=draw.randrange(60))) for _ in range(400)]
    source = """
      const { blockEnds } = await load('markdown.js')
      return given.filter((text) => {
        let at = 0
        for (let size = 0; size <= text.length; size += 7) {
          for (const end of blockEnds(text.slice(0, size), at)) {
            if (end <= at || end > size) return true
            at = end
          }
          if (size - at > 4000) return true
        }
        return false
      })
    """
    assert run(source, texts) == []


def test_times_of_the_server_are_told_as_the_readers_own() -> None:
    """UTC times in a sentence become the browser's: the hour alone where it is today's."""
    now = 1_795_506_276_265
    told = run(
        "const { inLocalTime, clock, date } = await load('format.js');"
        "return [inLocalTime(given.text, given.now), `its time, ${clock(given.now - 265)}; ${date(0)}, 2026-11-24`]",
        {"text": "its time, 2026-11-24T07:44:36Z; 1970-01-01T00:00:00.000Z, 2026-11-24", "now": now},
    )
    assert told[0] == told[1]
