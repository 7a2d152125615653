"""Renewing owned runs from a thread with its own connection: a function that blocks the event loop keeps its run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import redis
import structlog
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from processor.core.keys import PartitionKeys
from processor.store.connection import COMMAND_SECONDS, CONNECT_SECONDS
from processor.store.scripts import Limits, Script, renew_command

__all__ = ["Owner", "Renewal"]

log = structlog.get_logger("tailrace.renewal")
RENEWALS_A_TERM: Final = 3
RETRY_SECONDS: Final = 1.0

Owner = tuple[str, str]  # run, owner


class Renewal(threading.Thread):
    """Renews every third of a term; a renewal that failed is tried again at once and then every second."""

    def __init__(
        self,
        url: str,
        script: Script,
        limits: Limits,
        owned: Callable[[], Mapping[int, tuple[PartitionKeys, Sequence[Owner]]]],
        tell: Callable[[Sequence[tuple[Owner, str]]], None],
    ) -> None:
        """owned: what is to be renewed now, by partition. tell: what each was answered; both are called in this thread."""
        super().__init__(name="tailrace-renewal", daemon=True)
        self._url, self._script, self._limits = url, script, limits
        self._owned, self._tell = owned, tell
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
        period = self._limits.term_ms / 1000 / RENEWALS_A_TERM
        pause = period
        try:
            while True:
                self._wake.wait(pause)
                self._wake.clear()
                if self._stopped:
                    return
                try:
                    self._renew(client)
                except (RedisError, OSError) as error:
                    log.warning("renewal_failed", error=str(error))
                    pause = 0.0 if pause == period else RETRY_SECONDS
                else:
                    pause = period
        finally:
            client.close()

    def _renew(self, client: redis.Redis) -> None:
        for keys, owners in self._owned().values():
            command = renew_command(self._script, self._limits, keys, owners)
            untyped: Any = client
            try:
                answers = untyped.execute_command(*command)
            except NoScriptError:
                untyped.execute_command("SCRIPT", "LOAD", self._script.text)
                answers = untyped.execute_command(*command)
            self._tell([(owner, answer.decode()) for owner, answer in zip(owners, answers, strict=True)])
