"""
How we ask anybody anything: what all sessions have in common.

    bounded     an answer is read as far as its reader says, see ``bounded_connector``
    as it came  nothing is decompressed, so that a small answer can't become a large one, nor is it asked for
    direct      no proxy, and no credentials from a file, because an environment says so
    forgetful   no cookies: nobody may have us carry something from one answer to the next request
    in time     no request lasts for ever

One thing aiohttp takes with each request alone: ``allow_redirects=False``. None of those whom we ask redirects.
"""

from ssl import SSLContext

import aiohttp
from aiohttp.abc import AbstractResolver

from media_callbacks.http_client.bounded_connector import BoundedConnector

_TIMEOUT = aiohttp.ClientTimeout(total=30)


def open_session(
    *,
    timeout: aiohttp.ClientTimeout = _TIMEOUT,
    max_connections: int = 100,
    keepalive_s: float = 15.0,
    resolver: AbstractResolver | None = None,
    tls: SSLContext | None = None,
) -> aiohttp.ClientSession:
    """
    Args:
        max_connections: At once; a request waits for one, and its time-out goes on. 0 for any number.
        keepalive_s: How long an idle connection is kept.
        resolver, tls: Other than the system's.
    """
    return aiohttp.ClientSession(
        connector=BoundedConnector(
            limit=max_connections, keepalive_timeout=keepalive_s, resolver=resolver, ssl=True if tls is None else tls
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        timeout=timeout,
        auto_decompress=False,
        trust_env=False,
    )
