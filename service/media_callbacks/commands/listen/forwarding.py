"""Posting events to an address on the developer's machine, as the webhook sink does. The standard library alone."""

import http.client
import json
import time
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from media_callbacks.client.admin_api import Json
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.output import note, printable
from media_callbacks.model.events import CONTENT_TYPE
from media_callbacks.sinks.signatures import sign
from media_callbacks.version import read_version

# Long enough to look around in a debugger.
_TIMEOUT_S = 300.0
_CONNECT_TIMEOUT_S = 5.0
# Where nobody listens, because the developer's server is being started anew.
_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    is_success: bool
    duration_ms: int


class Target:
    """
    Args:
        secret: Decoded.

    Raises:
        UsageError: The URL can't be one.
    """

    def __init__(self, url: str, secret: bytes) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https") or "@" in parts.netloc:
            raise UsageError(
                "--forward-to: expected http:// or https:// with a host, without user name, such as"
                f" http://localhost:3000/hook; came {printable(url)}"
            )
        self.url = url
        self._connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = host, port or self._connect.default_port
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        self._target = path + (f"?{quote(parts.query, safe='/%:@!$&()*+,;=~?')}" if parts.query else "")
        self._secret = secret

    def post(self, event: Json) -> Answer:
        """What came of it. It waits for as long as nobody listens, and posts once to who does."""
        body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        connection = self._open()
        begun = time.monotonic()
        headers = {"Content-Type": CONTENT_TYPE, "User-Agent": f"media-callbacks/{read_version()}"}
        try:
            connection.request(
                "POST", self._target, body, headers | sign(event["id"], body, [self._secret], int(time.time()))
            )
            response = connection.getresponse()
            text, is_success = f"{response.status} {response.reason}".strip(), 200 <= response.status < 300
        except TimeoutError:
            text, is_success = f"no answer within {_TIMEOUT_S:g} s", False
        except (OSError, http.client.HTTPException) as error:
            text, is_success = f"no answer ({_reason_of(error)})", False
        finally:
            connection.close()
        return Answer(text, is_success, round((time.monotonic() - begun) * 1000))

    def _open(self) -> http.client.HTTPConnection:
        is_told = False
        while True:
            connection = self._connect(self._host, self._port, timeout=_CONNECT_TIMEOUT_S)
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                if not is_told:
                    note(f"nobody listens at {self.url} ({_reason_of(error)}); the next event waits for it")
                    is_told = True
                time.sleep(_RETRY_S)
            else:
                connection.sock.settimeout(_TIMEOUT_S)
                return connection


def _reason_of(error: Exception) -> str:
    return printable(getattr(error, "strerror", None) or type(error).__name__)
