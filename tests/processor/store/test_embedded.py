"""The embedded server: a real Valkey that lives and dies with its process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from processor.core.settings import Settings
from processor.store.embedded import EmbeddedServer, FolderInUse, NoEmbeddedServer, link_key
from tests.support.until import until, wait_until

_PARENT = """
import sys
from processor.store.embedded import EmbeddedServer
print(EmbeddedServer(sys.argv[1]).start().pid, flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.holds_loop  # start() waits for PING by intention


def _client(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, protocol=2, socket_timeout=5)


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_it_answers_once_started(tmp_path: Path) -> None:
    """start returns a server with AOF each second, small stream nodes, no snapshots, on a socket only we may open."""
    with EmbeddedServer(tmp_path / "data") as server, _client(server) as client:
        said = client.config_get("*")
        assert isinstance(said, dict)
        assert (said["appendonly"], said["appendfsync"], said["save"]) == ("yes", "everysec", "")
        assert (said["stream-node-max-bytes"], said["port"]) == ("2048", "0")
        mode = (tmp_path / "data" / "valkey.sock").stat().st_mode
        assert stat.S_IMODE(mode) == 0o700


def test_it_is_announced_while_it_runs(tmp_path: Path) -> None:
    """server.json names address and process for every folder below, private to us, and goes with the server."""
    file = tmp_path / ".tailrace" / "server.json"
    with EmbeddedServer(file.parent) as server:
        said = json.loads(file.read_text())
        assert (said["url"], said["pid"], said["server"]) == (server.url, os.getpid(), server.pid)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert Settings.from_env({}, folder=tmp_path).redis_url == server.url
    assert not file.exists()


def test_its_address_goes_before_it_does(tmp_path: Path) -> None:
    """While the server is still ending, server.json leads nobody to it any more."""
    server = EmbeddedServer(tmp_path).start()
    process = server.pid
    assert process is not None
    os.kill(process, signal.SIGSTOP)  # it cannot end yet
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    try:
        wait_until(lambda: not (tmp_path / "server.json").exists(), "server.json is gone", 3)
        assert stopping.is_alive()
    finally:
        os.kill(process, signal.SIGCONT)
        stopping.join(10)


def test_the_gateway_is_told_through_restarts(tmp_path: Path) -> None:
    """The gateway's address stays in server.json when the server is started again."""
    with EmbeddedServer(tmp_path) as server:
        server.tell_gateway("http://127.0.0.1:8601")
        server.kill()
        server.look()
        assert json.loads((tmp_path / "server.json").read_text())["gateway"] == "http://127.0.0.1:8601"


@pytest.mark.skipif(not Path("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2").exists(), reason="no jemalloc here")
def test_jemalloc_on_request(tmp_path: Path) -> None:
    """Asked for, the system's jemalloc is loaded into the server."""
    with EmbeddedServer(tmp_path, jemalloc=True) as server:
        assert "libjemalloc.so.2" in Path(f"/proc/{server.pid}/maps").read_text()


def test_a_long_path_means_loopback_with_a_password(tmp_path: Path) -> None:
    """Where no socket fits, the server listens on 127.0.0.1 and wants the password that the address carries."""
    with EmbeddedServer(tmp_path / ("x" * 100)) as server, _client(server) as client:
        assert server.url.startswith("redis://:")
        assert client.ping()
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_data_survives_stop_and_start(tmp_path: Path) -> None:
    """What was written is there after a clean end."""
    with EmbeddedServer(tmp_path) as server, _client(server) as client:
        client.set("a", "1")
    with EmbeddedServer(tmp_path) as server, _client(server) as client:
        assert client.get("a") == b"1"


def test_always_survives_kill(tmp_path: Path) -> None:
    """With aof=always an acknowledged write is there after SIGKILL, at the same address."""
    with EmbeddedServer(tmp_path, aof="always") as server:
        url = server.url
        with _client(server) as client:
            client.set("a", "1")
        server.kill()
        server.start()
        assert server.url == url
        with _client(server) as client:
            assert client.get("a") == b"1"


def test_off_keeps_nothing(tmp_path: Path) -> None:
    """aof=off writes no file."""
    with EmbeddedServer(tmp_path, aof="off") as server, _client(server) as client:
        assert client.config_get("appendonly") == {"appendonly": "no"}
    assert not (tmp_path / "appendonlydir").exists()


def test_extra_lines_win(tmp_path: Path) -> None:
    """A line of valkey.conf given by the caller counts."""
    with EmbeddedServer(tmp_path, extra=["maxmemory 10mb"]) as server, _client(server) as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(10 << 20)}


def test_a_wrong_line_is_told(tmp_path: Path) -> None:
    """The server's own words say why it did not start, and nothing is left behind."""
    with pytest.raises(NoEmbeddedServer, match="nonsense"):
        EmbeddedServer(tmp_path, extra=["nonsense 1"]).start()
    assert not (tmp_path / "server.json").exists()
    with EmbeddedServer(tmp_path):
        pass


def test_one_server_a_folder(tmp_path: Path) -> None:
    """The second one says so and names the process; the first one goes on."""
    with EmbeddedServer(tmp_path) as server, _client(server) as client:
        with pytest.raises(FolderInUse, match=f"process {os.getpid()}"):
            EmbeddedServer(tmp_path).start()
        assert client.ping()


async def test_it_is_started_again(tmp_path: Path) -> None:
    """A server that dies is back at the same address while supervise is awaited."""
    with EmbeddedServer(tmp_path) as server:
        first = server.pid
        watch = asyncio.create_task(server.supervise())
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: server.pid not in (None, first), "another server")
        with _client(server) as client:
            await until(lambda: _answers(client), "it answers")
        watch.cancel()
        assert json.loads((tmp_path / "server.json").read_text())["server"] == server.pid


def test_one_that_keeps_dying_is_told(tmp_path: Path) -> None:
    """After six ends in a row it is not started again."""
    with EmbeddedServer(tmp_path) as server:
        for _ in range(5):
            server.kill()
            assert server.look() is False
        server.kill()
        with pytest.raises(NoEmbeddedServer, match="6 times in a row"):
            server.look()


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signal")
def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    """kill -9 of the process that started it ends the server, and the folder is free for the next one."""
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not _gone(pid)
        parent.kill()
    wait_until(lambda: _gone(pid), "the server is gone")
    with EmbeddedServer(tmp_path) as server:
        assert server.pid != pid


def test_it_outlives_a_thread_that_started_it(tmp_path: Path) -> None:
    """Started from another thread it takes no parent-death signal, which would end it with that thread."""
    server = EmbeddedServer(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    with server, _client(server) as client:
        assert client.ping()


def test_a_forked_copy_does_not_stop_it(tmp_path: Path) -> None:
    """stop in a child that inherited the object changes nothing."""
    with EmbeddedServer(tmp_path) as server, _client(server) as client:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)
        assert client.ping()


def test_link_key_is_made_once(tmp_path: Path) -> None:
    """The key is random, private and the same for all who ask."""
    key = link_key(tmp_path / "a")
    assert len(key) == 64
    assert link_key(tmp_path / "a") == key != link_key(tmp_path / "b")
    assert stat.S_IMODE((tmp_path / "a" / "key").stat().st_mode) == 0o600
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["key"]
