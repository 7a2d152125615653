"""Renewing what this process executes, from a thread with its own connection: a function that blocks the loop keeps its run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import redis
import structlog
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from processor.store.connection import COMMAND_SECONDS, CONNECT_SECONDS
from processor.store.scripts import Script

__all__ = ["Call", "Renewal"]

log = structlog.get_logger("tailrace.renewal")
RENEWALS_A_TERM: Final = 3
RETRY_SECONDS: Final = 1.0


class Call(NamedTuple):
    """One call. tell: is told its answers, in the renewing thread. script: another one than renew.lua."""

    command: Sequence[bytes | str | int]
    tell: Callable[[list[str]], None]
    script: Script | None = None


class Renewal(threading.Thread):
    """Renews every third of a term; a renewal that failed is tried again at once and then every second."""

    def __init__(self, url: str, script: Script, term_seconds: float, calls: Callable[[], Iterable[Call]]) -> None:
        """calls: what is to be renewed now; called in this thread."""
        super().__init__(name="tailrace-renewal", daemon=True)
        self._url, self._script, self._term_seconds, self._calls = url, script, term_seconds, calls
        self._wake = threading.Event()
        self._stopped = False

    def soon(self) -> None:
        """Renews now: a cancel may have been missed, and the answer tells."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the thread, once the call that is under way is over."""
        self._stopped = True
        self._wake.set()

    def run(self) -> None:
        client = redis.Redis.from_url(
            self._url,
            protocol=2,
            socket_timeout=COMMAND_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        period = self._term_seconds / RENEWALS_A_TERM
        pause = period
        try:
            while True:
                self._wake.wait(pause)
                self._wake.clear()
                if self._stopped:
                    return
                try:
                    for call in self._calls():
                        call.tell(self._renew(client, call.command, call.script or self._script))
                except (RedisError, OSError) as error:
                    log.warning("renewal_failed", error=str(error))
                    pause = 0.0 if pause == period else RETRY_SECONDS
                else:
                    pause = period
        finally:
            client.close()

    def _renew(self, client: redis.Redis, command: Sequence[bytes | str | int], script: Script) -> list[str]:
        untyped: Any = client
        try:
            answers = untyped.execute_command(*command)
        except NoScriptError:
            untyped.execute_command("SCRIPT", "LOAD", script.text)
            answers = untyped.execute_command(*command)
        return [answer.decode() for answer in answers]
