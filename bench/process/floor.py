"""The floor: plain redis-py that reads 200 entries and settles them in one script which writes one entry each.

No runs, no attempts, no feeds, no notice to anybody: what a loop over Redis Streams costs that acknowledges and writes something.
"""

from __future__ import annotations

import time
from typing import Any, Final

from redis import Redis

from bench.fleet import cpu_seconds
from bench.process.oracle import Drained, Meanwhile, nothing_else
from bench.server import Served

__all__ = ["drain_floor"]

READ: Final = 200
PAYLOAD: Final = b'"type":"run.queued","data":{"task":"nothing","input":{}}}'  # as long as ours
AT_ONCE: Final = 1000

SETTLE: Final = """
local written = 0
for at = 3, #ARGV, 2 do
  if redis.call('XACK', KEYS[1], ARGV[1], ARGV[at]) == 1 then
    redis.call('XADD', KEYS[2], '*', 'e', ARGV[at + 1])
    if ARGV[2] == 'count' then
      redis.call('HINCRBY', KEYS[3], 'done', 1)
    end
    written = written + 1
  end
end
return written
"""


def drain_floor(server: Served, entries: int, *, count: bool = False, meanwhile: Meanwhile = nothing_else) -> Drained:
    """count: each entry raises a counter of a hash as well, the least that could be called a state.

    Raises RuntimeError unless each entry was acknowledged and written once.
    """
    with Redis.from_url(server.url) as redis:
        _fill(redis, entries)
        settle = redis.register_script(SETTLE)
        meanwhile(True)
        server_cpu, cpu, begin = cpu_seconds(server.pid), time.process_time(), time.perf_counter()
        written = 0
        while written < entries:
            written += _step(redis, settle, count)
        meanwhile(False)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        drained = Drained(entries, seconds, cpu, cpu_seconds(server.pid) - server_cpu)
        if redis.xlen("done") != entries or redis.xpending("work", "workers")["pending"]:
            raise RuntimeError(f"the floor wrote {redis.xlen('done')} of {entries} entries")
    return drained


def _fill(redis: Redis, entries: int) -> None:
    redis.xgroup_create("work", "workers", id="0", mkstream=True)
    for first in range(0, entries, AT_ONCE):
        with redis.pipeline(transaction=False) as pipe:
            for number in range(first, min(first + AT_ONCE, entries)):
                pipe.xadd("work", {"r": f"{number:026}", "i": "1-1732420000123", "e": PAYLOAD})
            pipe.execute()


def _step(redis: Redis, settle: Any, count: bool) -> int:
    """Reads once and settles what came. How many entries that were."""
    arguments: list[bytes | str] = ["workers", "count" if count else ""]
    read: Any = redis.xreadgroup("workers", "bench", {"work": ">"}, count=READ, block=1000)
    for _, entries in read:
        for id, fields in entries:
            arguments += (id, fields[b"e"])
    return int(settle(keys=["work", "done", "state"], args=arguments)) if len(arguments) > 2 else 0
