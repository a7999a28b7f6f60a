"""The consumers that docs/consume.md shows do what it says: verify, take each outcome of a job once, the later one last."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from media_callbacks.model.events import Delivery
from media_callbacks.sinks.webhook import build_headers
from tests.documentation.pages import read_blocks
from tests.documentation.test_commands import other_ports
from tests.factories.tools import need_tool
from tests.inbox.conformance import make_event

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
PATIENCE_S = 60
# Stands in for the package of the same name, which only a registry has: the same class, with what its README documents.
STANDARD_WEBHOOKS = """
import { createHmac, timingSafeEqual } from "node:crypto";

export class Webhook {
  constructor(secret) {
    this.key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  }
  verify(payload, headers) {
    const text = `${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${payload}`;
    const expected = createHmac("sha256", this.key).update(text).digest();
    for (const signature of headers["webhook-signature"].split(" ")) {
      const given = Buffer.from(signature.replace(/^v1,/, ""), "base64");
      if (given.length === expected.length && timingSafeEqual(given, expected)) return JSON.parse(payload);
    }
    throw new Error("No matching signature found");
  }
}
"""


@contextmanager
def consuming(name: str, command: list[str], folder: Path) -> Iterator[tuple[str, Path]]:
    """The consumer of the page, running: its URL, and what it prints."""
    need_tool(command[0])
    port = other_ports()["3000"]
    command = [port if part == "3000" else part for part in command]
    (shown,) = (block.text for block in read_blocks("docs/consume.md") if block.file == name)
    (folder / name).write_text(re.sub(r"\b3000\b", port, shown), "utf-8")
    modules = folder / "node_modules/standardwebhooks"
    modules.mkdir(parents=True)
    (modules / "package.json").write_text('{"type": "module", "main": "index.js"}')
    (modules / "index.js").write_text(STANDARD_WEBHOOKS)
    printed = folder / "printed"
    environment = {"PATH": os.environ["PATH"], "ORDERS_SECRET": SECRET}
    with printed.open("wb") as output, subprocess.Popen(
        command, cwd=folder, env=environment, stdout=output, stderr=subprocess.DEVNULL
    ) as process:  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}/media"
            deadline = time.monotonic() + PATIENCE_S
            while post(url, b"{}", {}) is None:
                assert process.poll() is None, "it has ended"
                assert time.monotonic() < deadline
            yield url, printed
        finally:
            process.kill()


def post(url: str, body: bytes, headers: dict[str, str]) -> int | None:
    """The status; None where nobody listens yet."""
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return None


def event(outcome: Any, revision: int) -> bytes:
    made = make_event("3af7e9705cb24c0f9d23231d4c371900", outcome=outcome).with_revision(revision)
    return made.to_json()


def send(url: str, body: bytes, key: bytes = KEY) -> int | None:
    delivery = Delivery(0, "orders", json.loads(body)["id"], body, 1, "")
    return post(url, body, build_headers(delivery, [key], int(datetime.now(UTC).timestamp())))


UVICORN = [sys.executable, "-m", "uvicorn", "--log-level", "error", "typed_receiver:app", "--port", "3000"]
CONSUMERS = pytest.mark.parametrize(
    ("name", "command"),
    [
        ("receiver.py", [sys.executable, "-u", "receiver.py"]),
        ("receiver.mjs", ["node", "receiver.mjs"]),
        ("typed_receiver.py", UVICORN),
    ],
    ids=["python", "node", "typed"],
)


@CONSUMERS
def test_each_outcome_is_taken_once_and_in_order(name: str, command: list[str], tmp_path: Path):
    failed, succeeded = event("failed", 1), event("succeeded", 2)
    assert json.loads(failed)["id"][:36] == json.loads(succeeded)["id"][:36]
    with consuming(name, command, tmp_path) as (url, printed):
        assert send(url, failed, key=KEY[::-1]) == 401
        assert [send(url, each) for each in (failed, failed, succeeded, failed, succeeded)] == [204] * 5
        assert taken(printed) == ["media.animated_image.failed", "media.animated_image.succeeded"]


@CONSUMERS
def test_after_a_restore_another_outcome_of_a_revision_is_not_taken_for_a_repetition(
    name: str, command: list[str], tmp_path: Path
):
    with consuming(name, command, tmp_path) as (url, printed):
        sent = event("failed", 1), event("succeeded", 1), event("failed", 1), event("partial", 2), event("cancelled", 1)
        assert [send(url, each) for each in sent] == [204] * 5
        words = [line.rpartition(".")[2] for line in taken(printed)]
    assert words == ["failed", "succeeded", "partial"]


def taken(printed: Path) -> list[str]:
    return [line.partition(" ")[0] for line in printed.read_text("utf-8").splitlines()]


def test_who_asks_for_events_goes_on_where_it_was(tmp_path: Path):
    since = "2026-11-21T04:00:00Z"
    one, other = json.loads(event("failed", 1)), json.loads(event("succeeded", 2))
    answers = [
        (200, {"events": [one], "cursor": "c-1"}),
        (410, {"status": 410, "since": since}),
        (200, {"events": [other], "cursor": "c-2"}),
    ]
    asked: list[dict[str, list[str]]] = []

    class Feed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query))
            assert self.headers["Authorization"] == "Bearer token"
            status, document = answers.pop(0) if answers else (500, {})
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    (shown,) = (block.text for block in read_blocks("docs/consume.md") if block.file == "follower.py")
    with HTTPServer(("127.0.0.1", 0), Feed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "follower.py").write_text(shown.replace("8081", str(server.server_port)))
        environment = {"PATH": os.environ["PATH"], "ADMIN_TOKEN": "token"}
        ended = subprocess.run(
            [sys.executable, "follower.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        server.shutdown()
    assert [line.split()[0] for line in ended.stdout.splitlines()] == [one["type"], other["type"]]
    assert (tmp_path / "cursor").read_text() == "c-2"
    assert [query.get("after", query.get("since")) for query in asked[1:]] == [["c-1"], [since], ["c-2"]]
