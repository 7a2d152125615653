"""Each script's header says what its body does: keys, arguments, flags, includes; and what a second call writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from processor.core.events import draft
from processor.store.scripts import Batch, Packing, load_script, partition_keys
from tests.processor.store.stage import LAYOUT, Stage
from tests.processor.store.twice_execution import EXECUTIONS_TWICE
from tests.processor.store.twice_groups import GROUPS_TWICE
from tests.processor.store.twice_reactions import REACTIONS_TWICE
from tests.support.program import ROOT
from tests.support.servers import TestServer

LUA = ROOT / "scripts" / "lua"
SCRIPTS = sorted(LUA.glob("*.lua"))
INCLUDES = sorted((LUA / "include").glob("*.lua"))
OUT_OF_MEMORY_MUST_HEAL = {"start", "settle", "renew", "claim", "lease", "pull", "trim", "cancel", "expire"}  # DESIGN 4
OUT_OF_MEMORY_MUST_HEAL |= {"react", "emit", "claim_log", "hold", "skip"}  # settle, claim and renew of reactions
OUT_OF_MEMORY_MUST_HEAL |= {"group", "bind", "member"}  # a group that nobody reads keeps its log full
OUT_OF_MEMORY_MUST_HEAL |= {"lock_extend", "lock_release"}  # a full lock server still votes for whom it has
OUT_OF_MEMORY_MUST_HEAL |= {"rate", "limit"}  # what waits for a turn or a place frees memory when it runs
OUT_OF_MEMORY_MUST_HEAL |= {"cache_drop"}  # frees memory
READS = {"look"}
NOT_ON_FAKEREDIS = re.compile(r"\b(cmsgpack|struct|bit)\.|setresp|sha1hex|REDIS_VERSION")
NEWER_THAN_REDIS_7 = re.compile(
    r"'(XACKDEL|XDELEX|XNACK|XCFGSET|HEXPIRE|HPEXPIRE|HGETEX|HSETEX|HGETDEL|DELIFEQ|MSETEX)'"
)

every_script = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
every_include = pytest.mark.parametrize("path", INCLUDES, ids=lambda path: path.stem)
every_text = pytest.mark.parametrize("path", SCRIPTS + INCLUDES, ids=lambda path: path.stem)


def split(path: Path) -> tuple[str, str]:
    """Header and body; comments of the body are left out."""
    lines = path.read_text().splitlines()
    end = next(n for n, line in enumerate(lines) if not line.startswith("--"))
    body = [re.sub(r"(^|\s)--.*$", "", line) for line in lines[end:]]
    return "\n".join(lines[:end]), "\n".join(body)


def numbered(what: str, header: str) -> list[int]:
    return [int(n) for n in re.findall(rf"^-- {what}\[(\d+)\]", header, re.MULTILINE)]


def used(what: str, body: str) -> set[int]:
    """Numbers of KEYS or ARGV that the body names: one by one, or unpacked."""
    found = {int(n) for n in re.findall(rf"{what}\[(\d+)\]", body)}
    for first, last in re.findall(rf"unpack\({what}, (\d+), (\d+)\)", body):
        found |= set(range(int(first), int(last) + 1))
    return found


@every_script
@pytest.mark.parametrize("what", ["KEYS", "ARGV"])
def test_declared_and_used(path: Path, what: str) -> None:
    """Every key and argument that the header declares is used, and no other one; they are counted from 1 without holes."""
    header, body = split(path)
    declared = numbered(what, header)
    assert declared == list(range(1, len(declared) + 1))
    assert used(what, body + "".join(split_body(name) for name in reached_from(header))) == set(declared)


@every_script
def test_the_rest_is_declared(path: Path) -> None:
    """A script that takes as many keys or arguments as it is given says so in a line that begins with `then`."""
    header, body = split(path)
    takes_more = re.search(
        r"(KEYS|ARGV)\[(?!\d+\])|#(KEYS|ARGV)|in_portions\(ARGV|unpack\((KEYS|ARGV), \d+(\)|, [^\d])", body
    )
    assert bool(takes_more) == bool(re.search(r"^-- then ", header, re.MULTILINE))


@every_script
def test_header_parts(path: Path) -> None:
    """A header has one line that says what the script is for, its keys, returns, flags and what holds."""
    header, _ = split(path)
    assert re.match(r"-- [A-Z].*[.:]\n", header)
    for part in (r"(KEYS\[1\]|then for each request:)", "Returns", "Flags ", "Holds "):
        assert re.search(f"^-- {part}", header, re.MULTILINE), part


@every_script
def test_flags(path: Path) -> None:
    """What DESIGN 4 lists heals a server that is out of memory, what reads is always answered, everything else is refused
    before its first write."""
    header, _ = split(path)
    flags = re.search(r"^-- Flags +(\S+)", header, re.MULTILINE)
    assert flags is not None
    expected = "allow-oom" if path.stem in OUT_OF_MEMORY_MUST_HEAL else "no-writes" if path.stem in READS else "none"
    assert flags[1].rstrip(":") == expected
    first = load_script(path.stem).text.split(b"\n", 1)[0].decode()
    assert first == ("#!lua" if expected == "none" else f"#!lua flags={expected}")


def offered(include: str) -> set[str]:
    """Names that an include defines for others."""
    _, body = split(LUA / "include" / f"{include}.lua")
    names = re.findall(r"^local function (\w+)", body, re.MULTILINE)
    for line in re.findall(r"^local ([\w, ]+) =", body, re.MULTILINE):
        names += line.replace(" ", "").split(",")
    return set(names)


@every_text
def test_includes_exist_and_are_used(path: Path) -> None:
    """Each include that a header names exists, and its body uses a name that the include offers."""
    header, body = split(path)
    for include in re.findall(r"^-- @include (\w+)$", header, re.MULTILINE):
        assert (LUA / "include" / f"{include}.lua").is_file(), include
        assert any(re.search(rf"\b{name}\b", body) for name in offered(include)), include


@every_text
def test_whatever_is_used_is_included(path: Path) -> None:
    """A body that uses what an include offers names that include, itself or through another one."""
    header, body = split(path)
    reached = reached_from(header)
    own = set(re.findall(r"\blocal function (\w+)", body)) | set(re.findall(r"\blocal (\w+)", body))
    for include in {path.stem for path in INCLUDES} - reached - {path.stem}:
        functions = {
            name
            for name in offered(include)
            if re.search(rf"^local function {name}\b", split_body(include), re.MULTILINE)
        }
        for name in functions - own:
            assert not re.search(rf"(?<![\w.:']){name}\(", body), f"{name} of {include}"


def reached_from(header: str, seen: set[str] | None = None) -> set[str]:
    """Includes that a header names, and theirs."""
    seen = set() if seen is None else seen
    for name in re.findall(r"^-- @include (\w+)$", header, re.MULTILINE):
        if name not in seen:
            seen.add(name)
            reached_from(split(LUA / "include" / f"{name}.lua")[0], seen)
    return seen


def split_body(include: str) -> str:
    return split(LUA / "include" / f"{include}.lua")[1]


@every_include
def test_every_include_is_needed(path: Path) -> None:
    """No include lies around unused."""
    assert any(f"-- @include {path.stem}\n" in other.read_text() for other in SCRIPTS + INCLUDES)


@every_text
def test_only_what_all_servers_have(path: Path) -> None:
    """No library that fakeredis lacks, no command newer than Redis 7.0, no JSON decoding, no shebang of its own."""
    text = path.read_text()
    assert not NOT_ON_FAKEREDIS.search(text)
    assert not NEWER_THAN_REDIS_7.search(text)
    assert "cjson" not in split(path)[1]
    assert not text.startswith("#!")


@every_text
def test_keys_are_never_built(path: Path) -> None:
    """No script spells a key: what a command's key argument is comes from KEYS, never from text joined in the script."""
    _, body = split(path)
    assert "tr:{" not in body
    for call in re.findall(r"redis\.p?call\(([^()]*(?:\([^()]*\)[^()]*)*)\)", body):
        command, *rest = [part.strip() for part in call.split(",")]
        if command.strip("'") in ("TIME", "XINFO", "XGROUP", "XREADGROUP", "PUBSUB") or not rest:
            continue
        assert ".." not in rest[0], call
        assert not rest[0].startswith(("'", '"')), call


@every_text
def test_one_clock(path: Path) -> None:
    """Only the include `clock` asks the server for the time, so that tests can set it."""
    assert ("'TIME'" in split(path)[1]) == (path.stem == "clock")


@every_text
def test_no_globals(path: Path) -> None:
    """Every assigned name is local: fakeredis keeps globals from one script to the next, servers refuse them."""
    header, body = split(path)
    seen = body + "".join(split_body(name) for name in reached_from(header))
    known = set(re.findall(r"[\w]+", " ".join(re.findall(r"\blocal ([\w, ]+)", seen))))
    known |= set(re.findall(r"\blocal function (\w+)", body))
    known |= set(re.findall(r"[\w]+", " ".join(re.findall(r"function \w*\(([\w, ]*)\)", body))))
    known |= set(re.findall(r"[\w]+", " ".join(re.findall(r"\bfor ([\w, ]+) (?:in|=)", body))))
    for names in re.findall(r"^\s*([a-z_]\w*(?:, [a-z_]\w*)*) = ", body, re.MULTILINE):
        if re.search(rf"^\s*{re.escape(names)} = [^\n]*,\s*$", body, re.MULTILINE):
            continue  # a field of a table that spans lines
        assert set(names.split(", ")) <= known, names


# -- called twice


def _twice(stage: Stage, call: Callable[[], object]) -> None:
    """The second call changes nothing in the partition."""
    call()
    before = {name: stage.client.dump(name) for name in stage.client.keys(stage.keys.prefix + "*")}
    call()
    assert {name: stage.client.dump(name) for name in stage.client.keys(stage.keys.prefix + "*")} == before


@pytest.fixture
def stage(server: TestServer, namespace: str) -> object:
    stage = Stage(server, namespace, ("a", "b"))
    stage.append([Batch("a", "p:x", 0, 1, [draft("run.started", b"{}", nonce="n", owner="me")])])
    stage.append([Batch("b", "p:x", 0, 1, [draft("usage", b"{}")])])
    yield stage
    stage.close()


def _append(stage: Stage) -> None:
    stage.append([Batch("b", "p:x", 1, 2, [draft("log", b"{}"), draft("run.failed", b"{}", error=b'"no"')])])
    stage.append([Batch("a", "x:1-n", 0, 1, [draft("message.delta", b'{"text":"a"}')] * 3)])


def _bind(stage: Stage) -> None:
    stage.bind("g", ["log"], when_behind="refuse")


def _trim(stage: Stage) -> None:
    if "g" not in stage.model.groups:
        stage.bind("g")
        stage.append([Batch("b", "p:x", 1, 2, [draft("usage", b"{}")] * 3)])
        stage.read_group("g", 2)
        stage.ack_group("g", 2)
    stage.trim()


def _claim(stage: Stage) -> None:
    work = stage.keys.work("build")
    if not stage.client.exists(work):
        stage.client.xgroup_create(work, "workers", id="0", mkstream=True)
        stage.client.xadd(work, {"r": "a", "i": "1-1", "e": "{}"})
        stage.client.xreadgroup("workers", "gone", {work: ">"})
    [(entry, _)] = stage.client.xrange(work)
    keys = [stage.keys.meta, work, stage.keys.run("a")]
    assert stage.run(stage.scripts.call("claim", keys, ["me", "others", 0, 0, entry]))[1][0] == entry


def _promote(stage: Stage) -> None:
    work = stage.keys.work("build")
    if not stage.client.exists(work):
        stage.client.hset(stage.keys.run("b"), "task", "build")
        stage.client.hset(stage.keys.delayed_body, "b", "b\n1-1\n{}")
        stage.client.zadd(stage.keys.delayed, {"b": stage.now})
    keys = [*partition_keys(stage.keys), stage.keys.run("b"), work]
    stage.run(stage.scripts.call("promote", keys, [1, "b", "build"]))
    assert stage.client.xlen(work) == 1


def _requeue(stage: Stage) -> None:
    dead = stage.keys.dead_task("build")
    if not stage.client.exists(dead):
        stage.client.xadd(dead, {"r": "b", "i": "1-1", "e": "{}", "f": "{}"}, id="1-0")
    call = Packing.of(stage.keys, dead)
    call.add_run("b~new")
    call.args += ("1-0", "b~new")
    call.add_events([draft("run.queued", b"{}", task="build", start="s")])
    script = stage.scripts.named("requeue")
    assert stage.run(stage.scripts.send(script, call.command(script, LAYOUT, stage.limits))) == [b"requeued"]


def _schedule(stage: Stage) -> None:
    word = stage.run(stage.scripts.call("schedule", [stage.keys.prefix + "schedules"], ["s", "", "{}"]))[0]
    assert word in (b"written", b"changed")


def _lock_release(stage: Stage) -> None:
    lock = stage.keys.prefix + "lock"
    stage.client.set(stage.keys.prefix + "other", "somebody", nx=True)
    if not stage.client.exists(stage.keys.prefix + "done"):
        stage.client.set(lock, "me")
    stage.client.set(stage.keys.prefix + "done", "")
    for name in (lock, stage.keys.prefix + "other"):
        stage.run(stage.scripts.call("lock_release", [name], ["me"]))
    assert not stage.client.exists(lock)


TWICE: dict[str, Callable[[Stage], None]] = {
    "append": _append,
    "bind": _bind,
    "trim": _trim,
    "cancel": lambda stage: stage.cancel("a"),
    "claim": _claim,
    "lock_release": _lock_release,
    "promote": _promote,
    "requeue": _requeue,
    "schedule": _schedule,
    **EXECUTIONS_TWICE,
    **REACTIONS_TWICE,
    **GROUPS_TWICE,
}
AGAIN = re.compile(r"second call|executed again|same nonce again")


@pytest.mark.parametrize("name", sorted(TWICE))
def test_a_second_call_writes_nothing(name: str, stage: Stage) -> None:
    """Scripts whose header says so change nothing when the same call is executed again."""
    header, _ = split(LUA / f"{name}.lua")
    assert AGAIN.search(header)
    _twice(stage, lambda: TWICE[name](stage))


def test_all_that_hold_it_are_tried() -> None:
    """Every script whose header promises that a second call writes nothing is among those tried."""
    promising = {path.stem for path in SCRIPTS if AGAIN.search(split(path)[0])}
    assert promising == set(TWICE)


def test_clock_is_the_servers(every_server: TestServer) -> None:
    """The include `clock` answers the server's time in whole milliseconds."""
    client = every_server.client()
    before = client.time()
    text = (LUA / "include" / "clock.lua").read_text() + "\nreturn string.format('%.0f', clock())"
    now: int = int(client.eval(text, 0))
    after = client.time()
    client.close()
    assert before[0] * 1000 + before[1] // 1000 <= now <= after[0] * 1000 + after[1] // 1000


def test_lua_and_python_have_one_lifecycle(every_server: TestServer) -> None:
    """The include `lifecycle` and core/lifecycle.py agree on every status, type and way of writing."""
    from processor.core.lifecycle import ENDS, TERMINAL, Status, next_status

    statuses: list[Status | None] = [None, "queued", "running", "waiting"]
    names = [
        *ENDS,
        *(f"run.{name}" for name in ("queued", "started", "waiting", "resumed", "retrying", "cancel_requested")),
    ]
    names += ["message.delta", "log", "run.other", "order.paid"]
    pairs = [(status, type, live) for status in statuses for type in names for live in (False, True)]
    text = (LUA / "include" / "lifecycle.lua").read_text() + (
        "\nlocal found = {}\nfor i = 1, #ARGV, 3 do\n"
        "  local status = ARGV[i] ~= '' and ARGV[i]\n"
        "  found[#found + 1] = next_status(status, ARGV[i + 1], ARGV[i + 2] == 'live') or ''\nend\n"
        "local terminal = {}\nfor name in pairs(TERMINAL) do terminal[#terminal + 1] = name end\nreturn {found, terminal}"
    )
    args = [arg for status, type, live in pairs for arg in (status or "", type, "live" if live else "outside")]
    client = every_server.client()
    found, terminal = client.eval(text, 0, *args)
    client.close()
    assert [word.decode() or None for word in found] == [next_status(s, type, live=live) for s, type, live in pairs]
    assert {name.decode() for name in terminal} == TERMINAL
