"""The window of a shared group: how many entries a worker may have in hands. Nothing is read or sent here."""

from __future__ import annotations

from typing import Final

__all__ = ["Window"]

LARGE: Final = 1000
MOST: Final = (
    4000  # two reads of 250 from each of 8 partitions: settled 200 a call they cost a quarter less than 25 a call
)


class Window:
    """Begins with what the lanes are for, grows while calls are over at once, and falls back when one waits for a lane."""

    def __init__(self, concurrency: int) -> None:
        """concurrency: calls of the group at once in this process."""
        self._concurrency = concurrency
        self.size = concurrency

    def judge(self, *, is_slow: bool, is_idle: bool) -> None:
        """is_slow: a call has waited for its lane for long. is_idle: no call waits or runs."""
        if is_slow:
            self.size = self._concurrency
        elif is_idle:
            self.size = min(max(MOST, self._concurrency), self.size * 2)

    def room(self, held: int) -> int:
        """How many entries may be read now. A large window is filled when half of it is free: each settlement would else be
        followed by a small read, and small reads make small settlements. A small one never lets its lanes wait."""
        free = self.size - held
        is_large = self.size >= max(LARGE, 2 * self._concurrency)
        return 0 if is_large and free < self.size // 2 else max(0, free)
