"""``media-callbacks demo``: the whole thing on one machine, ended by itself."""

import argparse
import asyncio
import base64
import json
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from rich.console import Console
from rich.table import Table

from service.app import build_source
from service.cli.options import add_json_option
from service.cli.simulate import STALE_S, send
from service.events import Delivery, Event, parse_event
from service.logs import configure_logs
from service.server import serve
from service.settings import Settings, build_settings
from service.simulate import (
    PAYLOADS,
    MnsSigner,
    SimulatedRequest,
    forge,
    http_request,
    make_mns_key,
    token_url_request,
)
from service.sinks.webhook import build_request
from service.sources.base import Source
from service.sources.http import HttpSource
from service.sources.mns_push import MnsPushSource
from service.sources.token_url import TokenUrlSource

# Longer than anything here takes on a busy machine; only a failure waits for it.
PATIENCE_S = 20.0


def add_command(commands: Any) -> None:
    parser = commands.add_parser("demo", help="see it work: signed callbacks in, typed events out, on this machine")
    add_json_option(parser)
    parser.set_defaults(run=run)


@dataclass(slots=True)
class Step:
    """
    One request of the demo.

    Attributes:
        expected_status: What the contract says it must be answered with.
        gives_event: Whether an event must reach the sink because of it.
    """

    product: str
    sent: str
    request: SimulatedRequest
    expected_status: int
    job: str
    gives_event: bool = False
    status: int | None = None
    event: Event | None = None

    @property
    def is_right(self) -> bool:
        return self.status == self.expected_status and self.gives_event == (self.event is not None)


@dataclass(slots=True)
class Receiver:
    """A consumer's endpoint: checks the Standard Webhooks signature, answers 200 and keeps what came."""

    secret: bytes
    events: list[Event] = field(default_factory=list)
    forged: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        delivery = Delivery(0, "demo", request.headers["webhook-id"], body, 1, "")
        expected = build_request(delivery, [self.secret], int(request.headers["webhook-timestamp"]))
        if expected["webhook-signature"] != request.headers["webhook-signature"]:
            self.forged += 1
            return web.Response(status=401)
        self.events.append(parse_event(body))
        self.arrived.set()
        return web.Response()


def run(arguments: argparse.Namespace) -> int:
    configure_logs("error")
    with tempfile.TemporaryDirectory(prefix="media-callbacks-demo-") as folder:
        steps, receiver = asyncio.run(play(Path(folder)))
    report(steps, as_json=arguments.json)
    expected = sum(step.gives_event for step in steps)
    is_right = all(step.is_right for step in steps) and len(receiver.events) == expected and not receiver.forged
    if not arguments.json:
        Console().print(
            f"{len(steps)} requests sent, {len(receiver.events)} typed events at the webhook, {expected} expected: "
            + ("[green]all as expected[/]" if is_right else "[red]not as expected[/]")
        )
    return 0 if is_right else 1


async def play(folder: Path) -> tuple[Sequence[Step], Receiver]:
    receiver = Receiver(secrets.token_bytes(32))
    app = web.Application()
    app.router.add_post("/events", receiver.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    key, certificate = make_mns_key(now=datetime.now(UTC))
    signer = MnsSigner(key)
    settings = demo_settings(folder, f"http://127.0.0.1:{port}/events", receiver.secret, signer, certificate)
    stop, addresses = asyncio.Event(), asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(settings, stop=stop, listening=lambda *found: addresses.set_result(found)))
    await asyncio.wait([server, addresses], return_when=asyncio.FIRST_COMPLETED)
    if server.done():
        server.result()
    steps = list(build_steps(settings, signer))
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), trust_env=False) as session:
            for step in steps:
                answer = await send(session, f"http://{addresses.result()[0]}", step.job, step.request)
                step.status = answer.status
        await collect(steps, receiver)
    finally:
        stop.set()
        await server
        await runner.cleanup()
    return steps, receiver


async def collect(steps: Sequence[Step], receiver: Receiver) -> None:
    """Wait for as many events as must come, and note at each step the one that it caused."""
    expected = [step for step in steps if step.gives_event]
    deadline = time.monotonic() + PATIENCE_S
    while len(receiver.events) < len(expected) and time.monotonic() < deadline:
        receiver.arrived.clear()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await receiver.arrived.wait()
        except TimeoutError:
            break
    by_product = {event.data.product: event for event in receiver.events}
    for step in expected:
        step.event = by_product.get(step.product)  # type: ignore[call-overload]


def demo_settings(folder: Path, webhook_url: str, secret: bytes, signer: MnsSigner, certificate: str) -> Settings:
    gif_key = base64.b64encode(secrets.token_bytes(32)).decode()
    return build_settings(
        {
            "server": {"host": "127.0.0.1", "port": 0, "drain_s": 0},
            "admin": {"port": 0},
            "store": {"url": f"sqlite:///{folder}/demo.db"},
            "sources": {
                "vod": {
                    "product": "vod",
                    "transport": "http",
                    "path": "/callbacks/vod",
                    "url": "https://cb.example.com/callbacks/vod",
                    "keys": [secrets.token_hex(16)],
                },
                "ims": {
                    "product": "ims",
                    "transport": "http",
                    "path": "/callbacks/ims",
                    "url": "https://cb.example.com/callbacks/ims",
                    "keys": [secrets.token_hex(16)],
                },
                "mts": {
                    "product": "mts",
                    "transport": "mns-push",
                    "path": f"/callbacks/mts/{secrets.token_hex(16)}",
                    "topics": ["1234567890123456/mts-done"],
                    "certificates": {signer.certificate_url: certificate},
                },
                "gif": {
                    "product": "multimediaai",
                    "transport": "token-url",
                    "path": "/callbacks/gif",
                    "url": "https://cb.example.com/callbacks/gif",
                    "keys": [f"1:{gif_key}"],
                },
            },
            "sinks": {
                "webhook": {
                    "kind": "webhook",
                    "url": webhook_url,
                    "secrets": ["whsec_" + base64.b64encode(secret).decode()],
                }
            },
        },
        environ={},
    )


def build_steps(settings: Settings, signer: MnsSigner) -> Sequence[Step]:
    """For each product a genuine request, the same again, a forgery and a stale one."""
    steps = []
    for name, table in settings.sources.items():
        source = build_source(name, table)
        event, build = next(iter(PAYLOADS[source.product].items()))
        success, refusal = source.success_status, 404 if source.transport == "token-url" else 403
        now = datetime.now(UTC)
        job = secrets.token_hex(16)
        genuine = sign(source, signer, build(job, now, False), now)
        other = secrets.token_hex(16)
        stale = sign(source, signer, build(other, now, False), now - timedelta(seconds=STALE_S))
        steps += [
            Step(source.product, event, genuine, success, job, gives_event=True),
            Step(source.product, "the same again", genuine, success, job),
            Step(source.product, "forged", forge(sign(source, signer, build(other, now, False), now)), refusal, other),
            Step(source.product, "an hour old", stale, refusal, other),
        ]
    return steps


def sign(source: Source, signer: MnsSigner, payload: dict[str, Any], now: datetime) -> SimulatedRequest:
    if isinstance(source, HttpSource):
        return http_request(source, payload, now=now)
    if isinstance(source, MnsPushSource):
        return signer.push(source, payload, now=now)
    assert isinstance(source, TokenUrlSource)
    url = source.mint(
        application_id="demo",
        video_url="https://media.example.com/in.mp4",
        video_name="in.mp4",
        nonce=secrets.token_bytes(12),
        expires_at=int(now.timestamp()) + 600,
    )
    return token_url_request(source, url.rpartition("/")[2], payload)


def report(steps: Sequence[Step], *, as_json: bool) -> None:
    if as_json:
        for step in steps:
            event = json.loads(step.event.to_json()) if step.event else None
            fields = {"product": step.product, "sent": step.sent, "answer": step.status, "event": event}
            print(json.dumps(fields | {"as_expected": step.is_right}))
        return
    table = Table("product", "sent", "answer", "event at the webhook", "")
    for step in steps:
        event = ""
        if step.event is not None:
            data = step.event.data
            event = f"{step.event.type}\nsubject {step.event.subject}, verified by {data.verified_by}"
        table.add_row(step.product, step.sent, str(step.status), event, "[green]✓[/]" if step.is_right else "[red]✗[/]")
        if step.sent == "an hour old":
            table.add_section()
    Console().print(table)
