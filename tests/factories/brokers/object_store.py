"""As much of S3 as a broker needs that keeps its messages there. Nobody is asked who he is."""

import hashlib
import re
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class ObjectStore:
    """
    It listens in a thread of this process, and outlives the brokers that are killed.

    Attributes:
        is_full: It stores nothing more of topics.
    """

    def __init__(self) -> None:
        self.is_full = False
        self.objects: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to keep something here."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer in two packets would wait for the acknowledgement of the first.
    wbufsize = -1
    store: ObjectStore

    def do_GET(self) -> None:
        key, query = self._read_target()
        if "list-type" in query:
            prefix, after = query.get("prefix", [""])[0], query.get("start-after", [""])[0]
            found = sorted(
                (name, body)
                for name, body in dict(self.store.objects).items()
                if name.startswith(prefix) and name > after
            )
            contents = "".join(
                f"<Contents><Key>{escape(name)}</Key><Size>{len(body)}</Size><ETag>{_tag(body)}</ETag>"
                f"<LastModified>{_moment(name).isoformat()}</LastModified></Contents>"
                for name, body in found
            )
            text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
            self._answer(200, text.encode())
        elif (body := self.store.objects.get(key)) is None:
            self._answer(404)
        else:
            self._answer(
                200,
                body,
                {"ETag": _tag(body), "Last-Modified": format_datetime(_moment(key), usegmt=True)},
            )

    def do_PUT(self) -> None:
        key, _ = self._read_target()
        body = self._read_body()
        there = self.store.objects.get(key)
        wanted = self.headers.get("If-Match")
        if self.store.is_full and "/topics/" in key:
            self._answer(403)
        elif (self.headers.get("If-None-Match") and there is not None) or (
            wanted and (there is None or _tag(there) != wanted)
        ):
            self._answer(412)
        else:
            self.store.objects[key] = body
            self._answer(200, headers={"ETag": _tag(body)})

    def do_DELETE(self) -> None:
        self.store.objects.pop(self._read_target()[0], None)
        self._answer(204)

    def do_POST(self) -> None:
        """DeleteObjects."""
        keys = re.findall(r"<Key>(.*?)</Key>", self._read_body().decode())
        for key in keys:
            self.store.objects.pop(key, None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def log_message(self, *_: object) -> None:
        pass

    def _read_target(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path).removeprefix(f"/{BUCKET}/"), parse_qs(parts.query, keep_blank_values=True)

    def _read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _moment(key: str) -> datetime:
    """When it was written, by the offset in its name: the broker takes the latest object of a partition for the last."""
    offset = re.search(r"/records/([0-9]+)", key)
    return _BEGINNING + timedelta(seconds=int(offset[1]) if offset else 0)


def _tag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
