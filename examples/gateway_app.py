"""A gateway with a rule of its own: whoever reaches it may read, whoever has the token may write.

    PRODUCER_TOKEN=… uvicorn examples.gateway_app:app --port 8600

`tailrace gateway` by itself serves everybody on loopback, and elsewhere only those who have a signed link. This is the
same gateway as an application, which is where a rule goes. docker-compose.yml starts it.
"""

from __future__ import annotations

import hmac
import os

from starlette.requests import HTTPConnection

from tailrace import Access, Gateway, Tailrace

TOKEN = os.environ.get("PRODUCER_TOKEN", "")

tail = Tailrace()


async def may(connection: HTTPConnection, access: Access) -> bool:
    """Reading is open; without a token in the environment nobody writes."""
    if access.scope in ("read", "list"):
        return True
    given = connection.headers.get("authorization", "").removeprefix("Bearer ")
    return bool(TOKEN) and hmac.compare_digest(given.encode(), TOKEN.encode())


app = Gateway(tail, authorize=may, console=True)
