"""Changes: waiting until something of a group has changed, or time has passed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["Changes"]

LOOK_SECONDS: Final = 0.02


class Changes:
    """Belongs to one event loop."""

    def __init__(self, outside: Callable[[], None]) -> None:
        """outside: is told as well."""
        self._outside = outside
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def tell(self) -> None:
        self._event.set()
        self._outside()

    async def wait(self, seconds: float) -> None:
        """Until the next change, so long at most."""
        self._event.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it holds by then."""
        deadline = self._loop.time() + seconds
        while not condition():
            left = deadline - self._loop.time()
            if left <= 0:
                return False
            await self.wait(min(LOOK_SECONDS, left))
        return True
