"""Runs and their partitions."""

from __future__ import annotations

import socket
from pathlib import Path

import redis
from hypothesis import given
from hypothesis import strategies as st

from processor.core.keys import Keyspace, PartitionKeys, topology_key
from processor.core.partition import partition_of, root_of
from tests.support.servers import Daemon

PART = st.text("ABCXYZabcxyz0189._:-", min_size=1, max_size=64)


@given(PART, PART, st.integers(1, 64))
def test_what_shares_a_root_shares_the_partition(root: str, name: str, partitions: int) -> None:
    """Children, forks and runs of a thread are in the partition of their root, which is one of those there are."""
    assert root_of(f"{root}~{name}") == root_of(root) == root
    assert partition_of(f"{root}~{name}", partitions) == partition_of(root, partitions)
    assert 0 <= partition_of(root, partitions) < partitions


def _all_keys(keys: PartitionKeys) -> list[str]:
    names = [keys.meta, keys.log, keys.index, keys.owners, keys.deadlines, keys.delayed, keys.delayed_body, keys.ctl]
    return [*names, keys.run("r~1"), keys.feed("r~1"), keys.channel("r~1"), keys.thread("r~1"), keys.work("task")]


def test_slots_are_those_of_redis_cluster(tmp_path: Path) -> None:
    """The CRC is that of CLUSTER KEYSLOT, all keys of a partition are in one slot, and the root of a run decides alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if port > 55_000:
        port -= 20_000  # its bus takes a port 10,000 above
    cluster = ("--cluster-enabled", "yes", "--port", str(port), "--bind", "127.0.0.1")
    daemon = Daemon("valkey", Path("/tmp") / f"tailrace-cluster-{port}", cluster)
    daemon.folder.mkdir()
    try:
        daemon.start()
        client = redis.Redis.from_url(daemon.url, protocol=2)

        def slot(key: str) -> int:
            return int(client.execute_command("CLUSTER", "KEYSLOT", key))  # type: ignore[no-untyped-call]

        for root in ("a", "01k9z", "T", "chat:42", "x" * 64, "A.b-C_d"):
            assert slot(root) == partition_of(root, 16384) == partition_of(f"{root}~child", 16384)
        for number in range(8):
            keys = PartitionKeys("default", number)
            assert len({slot(key) for key in _all_keys(keys)}) == 1
        client.close()
    finally:
        daemon.kill()
        for file in daemon.folder.iterdir():
            file.unlink()
        daemon.folder.rmdir()


def test_partitions_are_used_evenly() -> None:
    """Of many generated IDs no partition gets more than twice its share."""
    counts = [0] * 8
    for number in range(8000):
        counts[partition_of(f"01k9z{number:020d}", 8)] += 1
    assert max(counts) < 2000


@given(PART, PART, st.integers(1, 16))
def test_keys_of_a_run(root: str, name: str, partitions: int) -> None:
    """A keyspace finds the partition of a run, and its keys differ by run but for what the root shares."""
    space = Keyspace("default", f"{partitions} nonce")
    run = f"{root}~{name}"
    assert space.of(run) is space.partitions[space.number(run)]
    keys = space.of(run)
    assert keys.thread(run) == keys.thread(root)
    assert len({keys.run(run), keys.feed(run), keys.channel(run), keys.thread(run), keys.run(root)}) == 5


def test_namespaces_do_not_meet() -> None:
    """No key of one namespace begins as the pattern that an ACL gives to another one."""
    keys = [key for partition in Keyspace("ab", "4 n").partitions for key in _all_keys(partition)] + [
        topology_key("ab")
    ]
    for other in ("a", "abc", "b"):
        for pattern in (f"tr:{{{other}}}:", f"tr:{{{other}:"):
            assert not any(key.startswith(pattern) for key in keys)
