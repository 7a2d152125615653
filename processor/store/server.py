"""One server as a process sees it from one event loop: commands and PubSub, shared by all sessions that use it."""

from __future__ import annotations

import asyncio
import weakref

from redis.asyncio import Redis

from processor.core.errors import ServerError
from processor.core.settings import Settings
from processor.store.channels import Channels
from processor.store.checks import check_server
from processor.store.connection import Address, commands

__all__ = ["Server"]

_open: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Server]] = weakref.WeakKeyDictionary()


class Server:
    """Shared connections; `acquire` and `release` count who uses them."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.commands: Redis = commands(address)
        self.channels = Channels(address)
        self.shebang = True
        self._users = 0
        self._checked = asyncio.Lock()
        self._is_checked = False

    @classmethod
    def acquire(cls, url: str) -> Server:
        """The server of this loop with that URL. Does no I/O."""
        servers = _open.setdefault(asyncio.get_running_loop(), {})
        server = servers.get(url)
        if server is None:
            server = servers[url] = cls(Address.parse(url))
        server._users += 1
        return server

    async def check(self, settings: Settings) -> None:
        """Once: is it there, new enough, safe? Whether it takes writes shows at the first one: reading needs none.

        Raises ServerError.
        """
        async with self._checked:
            if self._is_checked:
                return
            try:
                await check_server(self.commands, settings, writes=False)
            except ServerError as error:
                # fakeredis has neither INFO nor CONFIG, and takes `#!lua` for a syntax error.
                if "unknown command" not in error.message.lower():
                    raise
                self.shebang = False
            self._is_checked = True

    async def check_writes(self, settings: Settings) -> None:
        """Does it take writes now? For those who want to know early. Raises ServerReadOnly, ServerFull."""
        if self.shebang:
            await check_server(self.commands, settings)

    @staticmethod
    def abandon(loop: asyncio.AbstractEventLoop) -> None:
        """Lets go what a closed loop used: its servers hold it, so neither would go by itself."""
        _open.pop(loop, None)

    async def release(self) -> None:
        self._users -= 1
        if self._users:
            return
        servers = _open.get(asyncio.get_running_loop(), {})
        if servers.get(self.address.url) is self:
            del servers[self.address.url]
        await self.channels.close()
        await self.commands.aclose()
