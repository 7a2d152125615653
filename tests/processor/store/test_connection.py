"""Addresses of servers."""

from __future__ import annotations

import ssl

from processor.store.connection import Address


def test_options_of_tls_count_on_every_connection() -> None:
    """What a rediss URL says of certificates holds for appends and PubSub as it does for redis-py's commands."""
    strict = Address.parse("rediss://cache:6380/0").tls
    lax = Address.parse("rediss://cache:6380/0?ssl_cert_reqs=none&ssl_check_hostname=no").tls
    assert strict is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert lax is not None
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)
    assert Address.parse("redis://cache:6380/0").tls is None
