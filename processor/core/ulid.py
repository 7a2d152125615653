"""Identifiers that sort by the time they were made: ULIDs in lower case. Source: the ULID specification, 2016."""

from __future__ import annotations

import secrets
import time

__all__ = ["ulid"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def ulid() -> str:
    """26 characters: 48 bits of milliseconds since 1970, 80 random bits."""
    number = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
