"""Which partition a run belongs to. A run always maps to the same one; what shares a root shares the partition."""

from __future__ import annotations

import binascii

__all__ = ["partition_of", "root_of"]


def root_of(run: str) -> str:
    """The part before the first `~`: forks, children and the runs of a thread share it."""
    return run.partition("~")[0]


def partition_of(run: str, partitions: int) -> int:
    """The CRC of Redis Cluster (CRC-16/XMODEM) over the root, modulo the number of partitions."""
    return binascii.crc_hqx(root_of(run).encode(), 0) % partitions
