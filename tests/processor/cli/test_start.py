from __future__ import annotations

from processor.client.tailrace import Tailrace
from processor.store.workers import announce, worker_here
from tests.processor.cli.conftest import Cli


async def test_start_queues(cli: Cli) -> None:
    """A run is queued with its input, labels and thread; its state comes back."""
    ended = await cli("start", "answer", '{"prompt": "why?"}', "--thread", "chat-1", "--id", "a", "--label", "user=ada")
    (state,) = ended.records
    assert (ended.code, state["run"], state["status"]) == (0, "chat-1~a", "queued")
    assert (state["task"], state["thread"], state["labels"]) == ("answer", "chat-1", {"user": "ada"})
    (event,) = (await cli.here("replay", "chat-1~a", "--speed", "max")).records
    assert event["data"] == {"task": "answer", "input": {"prompt": "why?"}}


async def test_the_same_start_again(cli: Cli) -> None:
    """Same id and input: the first run. Another input: refused, exit code 4."""
    first = await cli.here("start", "answer", '{"a": 1, "b": 2}', "--id", "x")
    again = await cli.here("start", "answer", '{"b": 2, "a": 1}', "--id", "x")
    other = await cli.here("start", "answer", '{"a": 2}', "--id", "x")
    assert first.records == again.records
    assert (other.code, other.err.split(":")[0]) == (4, "error[run-exists]")


async def test_a_busy_thread(cli: Cli) -> None:
    """A thread has one active run; the second start is refused and names it."""
    await cli.here("start", "answer", "--thread", "chat", "--id", "one")
    ended = await cli.here("start", "answer", "--thread", "chat")
    assert ended.code == 4
    assert ended.err.startswith("error[busy]: run chat~one of this thread is still in progress.")


async def test_delay(cli: Cli) -> None:
    """A delayed run says when its time comes."""
    ended = await cli.here("start", "answer", "--delay", "5m")
    assert ended.records[0]["waiting_for"].startswith("its time, 20")


async def test_follow(cli: Cli) -> None:
    """--follow stays to the run's end and shows its events."""
    program = cli.begin("start", "answer", "--id", "x", "--follow")
    await program.says("run.queued")
    await cli.here("cancel", "x", "--reason", "enough")
    assert await program.ended() == 1
    assert '"type":"run.cancelled","data":{"reason":"enough"}' in program.out


async def test_what_does_not_fit_is_told_how(cli: Cli) -> None:
    """Input is parameters by name: both refusals say so, and how to quote them."""
    for given in ("prompt=hello", '"hello"'):
        ended = await cli.here("start", "answer", given)
        assert ended.code == 2
        assert """Give parameters by name, quoted for the shell: '{"prompt": "why?"}'""" in ended.err


async def test_a_name_that_looks_like_a_task(cli: Cli) -> None:
    """Where no worker has the task, one that looks alike is named; where nothing does, or it has workers, none is."""
    async with Tailrace(cli.url) as tail:
        await announce(await tail.session(), worker_here("web-1-aaaaaa", ["answer", "charge"], places=1))
    ended = await cli.here("start", "answr", "--id", "x")
    assert ended.err.splitlines()[1] == "  Perhaps answer was meant; `tailrace cancel x` takes this one back."
    for task in ("answer", "crawl"):
        assert "Perhaps" not in (await cli.here("start", task)).err
