from __future__ import annotations

from collections.abc import Callable

from tests.processor.cli.conftest import Cli, Terminal


async def test_create_and_list(cli: Cli) -> None:
    """A namespace is made once; making it again is harmless, with other partitions refused."""
    assert (await cli.here("namespaces", "list")).out == ""
    made = await cli("namespaces", "create", "team-a", "--partitions", "4")
    again = await cli.here("namespaces", "create", "team-a")
    other = await cli.here("namespaces", "create", "team-a", "--partitions", "8")
    assert (made.code, made.records) == (0, [{"namespace": "team-a", "partitions": 4, "created": True}])
    assert (again.code, again.records) == (0, [{"namespace": "team-a", "partitions": 4, "created": False}])
    assert (other.code, other.err) == (4, "team-a keeps its 4 partitions: another number is a new namespace.\n")
    await cli.here("namespaces", "create", "team-b")
    assert (await cli.here("namespaces", "list")).records == [
        {"namespace": "team-a", "partitions": 4},
        {"namespace": "team-b", "partitions": 8},
    ]


async def test_at_a_terminal(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """A table, and a hint where there is nothing."""
    env = {"TAILRACE_REDIS_URL": cli.url}
    empty = terminal("namespaces", "list", env=env)
    await empty.ended()
    assert "none yet: the first run makes `default`" in empty.seen
    await cli.here("namespaces", "create", "team-a")
    listed = terminal("namespaces", "list", env=env)
    await listed.ended()
    assert [line.split() for line in listed.seen.splitlines()] == [["NAMESPACE", "PARTITIONS"], ["team-a", "8"]]
