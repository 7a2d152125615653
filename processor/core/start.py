"""What a run was started with, as one short text: two starts of one ID are the same start if their hashes are equal."""

from __future__ import annotations

import hashlib
import json

__all__ = ["start_hash"]


def start_hash(task: str, input: object) -> str:
    """SHA-256 in hex of task and input, keys sorted. input: JSON as Python's `json` reads it.

    Integers stay whole at any size and 1.0 differs from 1: give what `json.loads` returns rather than orjson's values.
    """
    text = json.dumps([task, input], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
