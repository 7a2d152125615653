"""Results of expensive calls, shared by all processes: one computes, the others wait for what it computes.

`cached` makes a function one whose results are kept on the server for a time. A cache never breaks the program: where the
server cannot be used, the function is simply called.
"""

from __future__ import annotations

from processor.cache.cached import Cached, Hit, SyncCached, cached

__all__ = ["Cached", "Hit", "SyncCached", "cached"]
