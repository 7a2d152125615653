from __future__ import annotations

from collections.abc import Callable

from tests.processor.cli.conftest import Cli, Terminal


async def test_every_setting_with_its_origin(lone_cli: Cli) -> None:
    """Value and origin of each; what is secret is masked; a slip of the pen is told on stderr."""
    env = {"TAILRACE_PORT": "8601", "TAILRACE_JWT_KEY": "k" * 32, "TAILRACE_HARTBEAT_SECONDS": "3"}
    ended = await lone_cli("settings", "--namespace", "team-a", env=env)
    told = {record["setting"]: (record["value"], record["origin"]) for record in ended.records}
    assert ended.code == 0
    assert told["TAILRACE_PORT"] == (8601, "TAILRACE_PORT")
    assert told["TAILRACE_NAMESPACE"] == ("team-a", "--namespace")
    assert told["TAILRACE_JWT_KEY"] == ("***", "TAILRACE_JWT_KEY")
    assert told["TAILRACE_RETAIN_HOURS"] == (24, "default")
    assert ended.err == "TAILRACE_HARTBEAT_SECONDS is set and names no setting. Perhaps TAILRACE_HEARTBEAT_SECONDS?\n"


async def test_at_a_terminal(terminal: Callable[..., Terminal]) -> None:
    """A table that cuts nothing."""
    url = "redis://" + "h" * 150
    seen = terminal("settings", env={"TAILRACE_REDIS_URL": url})
    assert await seen.ended() == 0
    assert url in seen.seen
    assert seen.seen.splitlines()[0].split() == ["SETTING", "VALUE", "FROM"]
