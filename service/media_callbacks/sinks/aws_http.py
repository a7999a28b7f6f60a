"""
How requests get to AWS, or to whatever answers in its place: bounded, as aiobotocore's own session is not.

That one reads answers of any length, keeps any number of cookies, and follows redirects, which no service of AWS that
we send to answers with.

Only loaded with boto, which takes its time; see ``sinks.aws``.
"""

import asyncio
import io
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiobotocore.awsrequest import AioAWSResponse
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)
from botocore.httpsession import ProxyConfiguration, create_urllib3_context, get_cert_path
from yarl import URL

from media_callbacks.http_client.bounded_connector import read_body
from media_callbacks.http_client.session import open_session

# Ten entries, of which each may tell at length why it failed.
MAX_ANSWER_BYTES = 128 * 1024
# aiohttp warns of longer plain bytes.
_MAX_PLAIN_BYTES = 2**20


class BoundedSession:
    """
    What ``AioConfig(http_session_cls=...)`` takes.

    Args:
        verify: Whether servers must have a valid certificate; or a file of authorities.
        proxies: URLs by scheme.
        timeout: Seconds until there is a connection, and until there is an answer.
    """

    def __init__(
        self,
        verify: bool | str,
        proxies: dict[str, str] | None,
        timeout: tuple[float, float],
        max_pool_connections: int,
        **_: Any,
    ) -> None:
        self._verify = verify
        self._proxies = ProxyConfiguration(proxies=proxies)
        self._timeout = aiohttp.ClientTimeout(sock_connect=timeout[0], sock_read=timeout[1])
        self._max_connections = max_pool_connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # It reads files.
        context = await asyncio.to_thread(_make_context, self._verify)
        self._session = open_session(timeout=self._timeout, max_connections=self._max_connections, tls=context)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, request: Any) -> AioAWSResponse:
        """
        Raises:
            HTTPClientError, ConnectionError: Those of botocore, when there is no answer.
        """
        assert self._session is not None, "used as a context manager"
        proxy_url = self._proxies.proxy_url_for(request.url)
        content = request.body
        try:
            response = await self._session.request(
                request.method,
                URL(request.url, encoded=True),
                headers={name: _text(value) for name, value in request.headers.items()},
                skip_auto_headers=("Content-Type",),
                data=io.BytesIO(content) if isinstance(content, bytes) and len(content) > _MAX_PLAIN_BYTES else content,
                proxy=proxy_url,
                proxy_headers=self._proxies.proxy_headers_for(proxy_url) if proxy_url else None,
                allow_redirects=False,
            )
            async with response:
                body = await read_body(response, MAX_ANSWER_BYTES)
                if len(body) > MAX_ANSWER_BYTES:
                    raise aiohttp.ClientPayloadError  # noqa: TRY301 - as what else may be wrong with it
        except aiohttp.ClientSSLError as error:
            raise SSLError(endpoint_url=request.url, error=error) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise ConnectTimeoutError(endpoint_url=request.url, error=error) from error
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from error
        except aiohttp.ClientConnectorError as error:
            raise EndpointConnectionError(endpoint_url=request.url, error=error) from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise ConnectionClosedError(endpoint_url=request.url, error=error) from error
        except aiohttp.ClientError as error:
            raise HTTPClientError(error=error) from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        return AioAWSResponse(str(response.url), response.status, headers, _Body(body))


@dataclass(frozen=True, slots=True)
class _Body:
    """As AioAWSResponse reads it."""

    content: bytes

    async def read(self) -> bytes:
        return self.content


def _make_context(verify: bool | str) -> ssl.SSLContext:
    context: ssl.SSLContext = create_urllib3_context()
    if verify:
        context.check_hostname = True
        context.load_verify_locations(get_cert_path(verify))
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
