"""
The demo: the whole service, the vendor and a consumer on one machine, with requests of which it is known what must come
of each.
"""

import asyncio
import base64
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from media_callbacks.assembly.sources import build_source
from media_callbacks.client.jobs import JobsClient
from media_callbacks.client.webhooks import WebhookVerificationError, verify
from media_callbacks.config.settings import Settings, build_settings
from media_callbacks.http_client.session import open_session
from media_callbacks.model.events import Event
from media_callbacks.process.server import serve
from media_callbacks.rehearsal.fake_cloud.callbacks import describe
from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud
from media_callbacks.rehearsal.sending import STALE_S, send
from media_callbacks.rehearsal.simulate import (
    PAYLOADS,
    MnsSigner,
    SimulatedRequest,
    forge,
    http_request,
    make_mns_key,
    token_url_request,
)
from media_callbacks.sources.base import CallbackSource
from media_callbacks.sources.transports.http import HttpSource
from media_callbacks.sources.transports.mns_push import MnsPushSource
from media_callbacks.sources.transports.token_url import TokenUrlSource
from media_callbacks.timing.clock import utc_now

AGAIN = "the same again"


# Longer than anything here takes on a busy machine; only a failure waits for it.
PATIENCE_S = 20.0


@dataclass(slots=True)
class DemoStep:
    """
    One request of the demo, or one that the vendor never sends.

    Attributes:
        expected_status: What the contract says it must be answered with.
        job: The vendor's id.
        gives_event: How the event must have been verified that reaches the sink because of it; None for no event.
    """

    product: str
    sent: str
    request: SimulatedRequest | None
    expected_status: int | None
    job: str
    gives_event: str | None = None
    status: int | None = None
    event: Event | None = None

    @property
    def is_right(self) -> bool:
        verified_by = None if self.event is None else self.event.data.verified_by
        return self.status == self.expected_status and self.gives_event == verified_by


@dataclass(slots=True)
class Receiver:
    """A consumer's endpoint: verifies what comes, answers 200 and keeps the events."""

    secret: str
    events: list[Event] = field(default_factory=list)
    forged: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, request: web.Request) -> web.Response:
        try:
            event = verify(request.headers, await request.read(), secrets=[self.secret])
        except WebhookVerificationError:
            self.forged += 1
            return web.Response(status=401)
        assert isinstance(event, Event)  # the service is of this version
        self.events.append(event)
        self.arrived.set()
        return web.Response()


async def play(
    folder: Path,
    *,
    sinks: Mapping[str, Any] | None = None,
    delivered: Callable[[Sequence[DemoStep]], Awaitable[None]] | None = None,
) -> tuple[Sequence[DemoStep], Receiver]:
    """
    Args:
        sinks: Tables of further ones.
        delivered: Returns once the events of these steps have arrived there.
    """
    receiver = Receiver("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    app = web.Application()
    app.router.add_post("/events", receiver.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    key, certificate = make_mns_key(now=utc_now())
    signer = MnsSigner(key)
    webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        cloud_port = probe.getsockname()[1]
    settings = demo_settings(
        folder,
        webhook_url=webhook_url,
        secret=receiver.secret,
        signer=signer,
        certificate=certificate,
        cloud_port=cloud_port,
        sinks=sinks or {},
    )
    cloud = FakeCloud(settings, signer=signer)
    steps = list(build_steps(settings, signer, cloud))
    stop, addresses = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with cloud.running(port=cloud_port):
        server = asyncio.create_task(serve(settings, stop=stop, listening=lambda *found: addresses.set_result(found)))
        await asyncio.wait([server, addresses], return_when=asyncio.FIRST_COMPLETED)
        if server.done():
            server.result()
        callbacks, admin = addresses.result()
        try:
            async with open_session() as session:
                for step in steps:
                    if step.request is not None:
                        step.status = (await send(session, f"http://{callbacks}", step.job, step.request)).status
            await expect_lost_jobs(steps, f"http://{admin}")
            await collect(steps, receiver)
            if delivered is not None:
                await delivered(steps)
        finally:
            stop.set()
            await server
            await runner.cleanup()
    return steps, receiver


async def expect_lost_jobs(steps: Sequence[DemoStep], admin_url: str) -> None:
    """As an application does right after it has submitted a job; here with a deadline that is over at once."""
    client, now = JobsClient(admin_url, None), utc_now()
    for step in steps:
        if step.request is None:
            await asyncio.to_thread(
                client.expect, product="mts", family="snapshot", job_id=step.job, deadline=now, user_data="order 7"
            )


async def collect(steps: Sequence[DemoStep], receiver: Receiver) -> None:
    """Wait for as many events as must come, and note at each step the one that it caused."""
    expected = [step for step in steps if step.gives_event is not None]
    deadline = time.monotonic() + PATIENCE_S
    while len(receiver.events) < len(expected) and time.monotonic() < deadline:
        receiver.arrived.clear()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await receiver.arrived.wait()
        except TimeoutError:
            break
    by_job = {event.data.job_id: event for event in receiver.events}
    for step in expected:
        step.event = by_job.get(step.job)


def demo_settings(
    folder: Path,
    *,
    webhook_url: str,
    secret: str,
    signer: MnsSigner,
    certificate: str,
    cloud_port: int,
    sinks: Mapping[str, Any],
) -> Settings:
    cloud = f"http://127.0.0.1:{cloud_port}"
    gif_key = base64.b64encode(secrets.token_bytes(32)).decode()
    return build_settings(
        {
            "server": {"host": "127.0.0.1", "port": 0, "drain_s": 0},
            "admin": {"port": 0},
            "store": {"url": f"sqlite:///{folder}/demo.db"},
            "sources": {
                **{
                    product: {
                        "product": product,
                        "transport": "http",
                        "path": f"/callbacks/{product}",
                        "url": f"https://cb.example.com/callbacks/{product}",
                        "keys": [secrets.token_hex(16)],
                    }
                    for product in ("vod", "ims")
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
            "vendor": {
                "fake-cloud": {
                    "access_key_id": "demo",
                    "access_key_secret": secrets.token_hex(16),
                    "region": "cn-shanghai",
                    "endpoints": dict.fromkeys(("vod", "ice", "mts", "multimediaai"), cloud),
                }
            },
            "sinks": {"webhook": {"kind": "webhook", "url": webhook_url, "secrets": [secret]}, **sinks},
        },
        environ={},
    )


def build_steps(settings: Settings, signer: MnsSigner, cloud: FakeCloud) -> Iterator[DemoStep]:
    """
    For each product a genuine request, the same again, a forgery and a stale one; of GIF tasks, which nobody signs, a
    lie that the vendor's job API exposes; and a job whose callback is lost.
    """
    for name, table in settings.callback_sources.items():
        source = build_source(name, table)
        if isinstance(source, TokenUrlSource):
            yield from gif_steps(source, cloud)
            continue
        event, build = next(iter(PAYLOADS[source.product].items()))
        now = utc_now()
        job, other = secrets.token_hex(16), secrets.token_hex(16)
        genuine = sign(source, signer, build(job, now, False), now)
        forged = forge(sign(source, signer, build(other, now, False), now))
        stale = sign(source, signer, build(other, now, False), now - timedelta(seconds=STALE_S))
        success = source.success_status
        yield DemoStep(source.product, event, genuine, success, job, gives_event="signature")
        yield DemoStep(source.product, AGAIN, genuine, success, job)
        yield DemoStep(source.product, "forged", forged, 403, other)
        yield DemoStep(source.product, "an hour old", stale, 403, other)
    lost = cloud.submit("mts", "snapshot", duration_s=0, is_lost=True)
    yield DemoStep("mts", "nothing: the callback is lost", None, None, lost.job_id, gives_event="query")


def gif_steps(source: TokenUrlSource, cloud: FakeCloud) -> Iterator[DemoStep]:
    """The vendor signs nothing here: what it is asked afterwards tells the truth from lies."""
    # The cloud knows the task and calls nobody: its callbacks are the demo's to send.
    job = cloud.submit("multimediaai", "animated_image", duration_s=0, sources=())
    assert job.callback_url is not None
    other = cloud.submit("multimediaai", "animated_image", duration_s=0, sources=())
    token, truth = job.callback_url.rpartition("/")[2], describe(job, job.outcome)
    genuine = token_url_request(source, token, truth)
    foreign = token_url_request(source, token, describe(other, other.outcome))
    contrary = token_url_request(source, token, describe(job, "failed"))
    yield DemoStep(source.product, "a lie: another task", foreign, 200, job.job_id)
    yield DemoStep(source.product, "a lie: it failed", contrary, 200, job.job_id)
    yield DemoStep(source.product, job.event, genuine, 200, job.job_id, gives_event="query")
    yield DemoStep(source.product, AGAIN, genuine, 200, job.job_id)
    yield DemoStep(source.product, "forged", forge(genuine), 404, job.job_id)


def sign(source: CallbackSource, signer: MnsSigner, payload: dict[str, Any], now: datetime) -> SimulatedRequest:
    if isinstance(source, HttpSource):
        return http_request(source, payload, now=now)
    assert isinstance(source, MnsPushSource)
    return signer.push(source, payload, now=now)
