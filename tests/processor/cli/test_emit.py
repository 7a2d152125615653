from __future__ import annotations

import json
import sys

from tests.processor.cli.conftest import Cli


async def test_one_event(cli: Cli) -> None:
    """An event goes in with its data as it was typed, and its ID comes back."""
    ended = await cli("emit", "order-1", "order.paid", '{"cents": 5.00, "cents": 1e400}', "--label", "user=ada")
    assert (ended.code, ended.err) == (0, "")
    (record,) = ended.records
    assert (record["run"], record["type"], record["id"].split("-")[0]) == ("order-1", "order.paid", "1")
    replayed = await cli.here("replay", "order-1", "--speed", "max")
    assert replayed.out == (
        f'{{"id":"{record["id"]}","run":"order-1","type":"order.paid","labels":{{"user":"ada"}},'
        '"data":{"cents": 5.00, "cents": 1e400}}\n'
    )


async def test_events_from_stdin(cli: Cli) -> None:
    """With - each line of stdin is an event; the last LF is optional and blank lines do not count."""
    lines = b'{"type":"a.b","data":[1, 2]}\r\n\n{"type":"c.d","labels":{"x":"y"}}'
    ended = await cli("emit", "r", "-", stdin=lines)
    assert [r["type"] for r in ended.records] == ["a.b", "c.d"]
    replayed = (await cli.here("replay", "r", "--speed", "max")).records
    assert [e.get("data") for e in replayed] == [[1, 2], None]


async def test_data_from_stdin(cli: Cli) -> None:
    """With - for the data each line is the data of one event of that type."""
    lines = "".join(f'{{"text":"{n}"}}\n' for n in range(600)).encode()
    ended = await cli("emit", "r", "message.delta", "-", stdin=lines)
    assert [r["id"].split("-")[0] for r in ended.records] == [str(n) for n in range(1, 601)]


async def test_events_go_out_as_they_come(cli: Cli) -> None:
    """A line is appended when it is there, not when stdin ends."""
    command = f"(echo 1; exec sleep 60) | {sys.executable} -m processor.cli.main emit r a.b -"
    shell = cli._start("sh", "-c", command, env={"TAILRACE_REDIS_URL": cli.url}, cwd=cli.folder)
    await shell.says('"type":"a.b"')
    assert shell.process.poll() is None


async def test_a_bad_line_is_named(cli: Cli) -> None:
    """What came before a bad line's batch stays; the fault is told by line, with HTTP's slug."""
    ended = await cli.here("emit", "r", "-", stdin=b'{"type":"a.b"}\n{"type":"a.b","extra":1}\n')
    assert ended.code == 2
    assert ended.err.startswith("error[bad-event]: line 2: ")
    assert "extra" in ended.err
    broken = await cli.here("emit", "r", "-", "--json", stdin=b"{\n")
    assert json.loads(broken.err)["error"] == "bad-json"


async def test_a_fault_is_counted_in_what_was_given(cli: Cli) -> None:
    """Not in the event around it."""
    ended = await cli.here("emit", "r", "a.b", "[1,}", "--label", "x=ü")
    assert ended.err.startswith("error[bad-json]: Not JSON at character 4: ")
    assert "Quote it for the shell" in ended.err
    piped = await cli.here("emit", "r", "a.b", "-", stdin=b"1\n[1,}\n")
    assert piped.err.startswith("error[bad-json]: line 2: Not JSON at character 4: ")


async def test_limits(cli: Cli) -> None:
    """An event over 64 KiB is refused as over HTTP."""
    ended = await cli.here("emit", "r", "a.b", "-", stdin=json.dumps("x" * 70_000).encode())
    assert (ended.code, ended.err.split(":")[0]) == (2, "error[event-too-large]")


async def test_a_refusal_tells_what_was_appended(cli: Cli) -> None:
    """Events before the refused one are told with their IDs."""
    ended = await cli.here("emit", "r", "-", stdin=b'{"type":"a.b"}\n{"type":"run.finished"}\n{"type":"a.b"}\n')
    assert ended.code == 4
    assert [r["type"] for r in ended.records] == ["a.b", "run.finished"]
    assert ended.err.startswith("error[closed]: run r ended as succeeded")


async def test_namespaces_are_apart(cli: Cli) -> None:
    """--namespace before or behind the command means another set of runs, made by its first writer."""
    await cli.here("emit", "r", "a.b", "--namespace", "team-a")
    assert (await cli("--namespace=team-a", "runs")).records[0]["run"] == "r"
    assert (await cli.here("runs")).out == ""
