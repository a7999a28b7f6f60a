"""The fake cloud itself: jobs are submitted to it, take their time, end, and are told about."""

import asyncio
import hashlib
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from media_callbacks.assembly.sources import build_source
from media_callbacks.config.settings import Settings
from media_callbacks.config.sinks import AliyunEventBridgeSinkSettings, MnsQueueSinkSettings, MnsTopicSinkSettings
from media_callbacks.config.sources import MnsQueueSourceSettings, SourceSettings
from media_callbacks.model.errors import ConfigError, UnknownToken
from media_callbacks.model.kinds import Product
from media_callbacks.rehearsal.fake_cloud.app import create_app
from media_callbacks.rehearsal.fake_cloud.buses import FakeBuses
from media_callbacks.rehearsal.fake_cloud.callbacks import Destination, QueueDestination
from media_callbacks.rehearsal.fake_cloud.faults import Faults, Timing
from media_callbacks.rehearsal.fake_cloud.gateway import AccessKey
from media_callbacks.rehearsal.fake_cloud.jobs import (
    NEVER,
    CloudJob,
    Notification,
    TrueOutcome,
    check_outcome,
    other_id,
)
from media_callbacks.rehearsal.fake_cloud.listening import listening
from media_callbacks.rehearsal.fake_cloud.queues import FakeQueues, QueueFaults
from media_callbacks.rehearsal.fake_cloud.teller import Teller
from media_callbacks.rehearsal.simulate import MnsSigner, PushFormat
from media_callbacks.sources.transports.http import HttpSource
from media_callbacks.sources.transports.mns_push import MnsPushSource
from media_callbacks.sources.transports.token_url import TokenUrlSource
from media_callbacks.sources.transports.url_tokens import bind_task, decode_token
from media_callbacks.timing.clock import utc_now

FIRST_TASK_ID = 10_000_000
MINTED_FOR_S = 7 * 86400
# Enough for a day of rehearsing; all of them are kept in memory.
MAX_JOBS = 200_000


DEFAULT_KEYS: Mapping[str, AccessKey] = {"fake-access-key": AccessKey("fake-access-key-secret")}


class FakeCloud:
    """
    VOD, IMS, MTS, Multimedia AI, MNS and EventBridge for one service: all APIs on one port, callbacks to its sources.

    Each source of the configuration is a transport of its product: every job of the product ends in a callback over
    each of them (of the job's account). A test does::

        cloud = FakeCloud(settings, seed=1, faults=Faults(loss=0.1), signer=signer)
        async with cloud.running():
            job = cloud.submit("vod", "snapshot", outcome="failed")
            await cloud.teller.settled()

    Or, with a clock of its own and neither port nor background task: ``async with cloud.teller.sending():``, then
    ``await cloud.teller.run_due()`` after each step of the clock.

    Attributes:
        settings: Of the service that is told; ``sources`` and ``server.port`` matter, and which queues, topics and
            buses its ``sinks`` send to.
        faults: May be replaced at any time (``dataclasses.replace``).
        jobs: All that were submitted, oldest first; ``gif_tasks``: those of Multimedia AI.
        queues: The queues and topics, an application that is mounted below ``/queues`` and ``/topics``.
        buses: The buses of EventBridge, and what was put on them.
        app: The ASGI application.
        access_keys: By access key id.
        url: Where it listens, ``http://127.0.0.1:<port>``, while it is running.
        teller: Sends the callbacks.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        seed: int = 0,
        faults: Faults | None = None,
        timing: Timing | None = None,
        to: str | None = None,
        signer: MnsSigner | None = None,
        push_format: PushFormat = "SIMPLIFIED",
        access_keys: Mapping[str, AccessKey] | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """
        Args:
            seed: The same seed and the same submissions give the same ids, losses, lies and so on.
            to: None is the configured port on loopback.
            signer: Signs pushes of MNS; the sources must pin its certificate.
            access_keys: None are those of ``settings.vendor``, else ``DEFAULT_KEYS``.

        Raises:
            ConfigError: There is an mns-push source and no signer.
        """
        self.settings, self.clock = settings, clock
        self.timing = timing or Timing()
        self.access_keys = dict(access_keys or _configured_keys(settings) or DEFAULT_KEYS)
        self.jobs: list[CloudJob] = []
        self.url = ""
        self._seed = seed
        self._by_id: dict[str, CloudJob] = {}
        self.gif_tasks: list[CloudJob] = []
        self._by_media: dict[tuple[Product, str], list[CloudJob]] = {}
        self._destinations = [
            (table.product, table.account_name, _destination(name, table)) for name, table in settings.sources.items()
        ]
        if signer is None and any(isinstance(found[2], MnsPushSource) for found in self._destinations):
            raise ConfigError(["signing key: expected one for the pushes of MNS, came none; the sources pin its twin"])
        self.chance = random.Random(f"{seed}:api")  # noqa: S311 - chance, no secret
        self.queues = FakeQueues(
            clock=clock,
            credentials={name: key.secret for name, key in self.access_keys.items()},
            tokens={name: key.security_token for name, key in self.access_keys.items() if key.security_token},
        )
        self.buses = FakeBuses(self.access_keys, clock, throttled=lambda: self.chance.random() < self.faults.throttling)
        for *_, destination in self._destinations:
            if isinstance(destination, QueueDestination):
                self.queues.create(destination.queue)
        for sink in settings.sinks.values():
            match sink:
                case MnsQueueSinkSettings():
                    self.queues.create(sink.queue)
                case MnsTopicSinkSettings():
                    self.queues.topics.create(sink.topic)
                case AliyunEventBridgeSinkSettings():
                    self.buses.create(sink.event_bus)
        self.faults = faults or Faults()
        self.teller = Teller(
            to or f"http://127.0.0.1:{settings.server.port}",
            self.queues,
            seed=seed,
            timing=self.timing,
            clock=clock,
            signer=signer,
            push_format=push_format,
        )
        self.app = create_app(self)

    @property
    def faults(self) -> Faults:
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self.queues.faults = QueueFaults(throttled=faults.throttling)

    def throttle(self, rate: float) -> None:
        """Refuse this part of the requests to job APIs, queues, topics and buses, 0 to 1, from now on."""
        self.faults = replace(self.faults, throttling=rate)

    # Jobs

    def submit(
        self,
        product: Product,
        family: str,
        *,
        outcome: TrueOutcome = "succeeded",
        media_id: str | None = None,
        user_data: str | None = None,
        account: str | None = None,
        sources: Sequence[str] | None = None,
        duration_s: float | None = None,
        callback_url: str | None = None,
        application_id: str = "application-1",
        video_url: str = "https://media.example.com/in.mp4",
        video_name: str = "in.mp4",
        is_lost: bool | None = None,
        again: CloudJob | None = None,
    ) -> CloudJob:
        """
        Begin a job.

        Args:
            family: As in ``model.identity.Key``: ``DynamicImageComplete`` of IMS, ``snapshot`` of MTS, ``run``.
            account: None is that of the product's first source.
            sources: Which sources are told; None is all of the product and account.
            duration_s: None is drawn from ``timing``; ``math.inf`` never ends.
            callback_url: Of a GIF task, as minted. None is minted here, with the nonce at the end of ``video_name``;
                an empty one is none. URLs that no configured source minted are never called.
            is_lost: None is drawn from ``faults``.
            again: A job of this family that is begun once more, with the same ids: what failed is run again, a live
                recording makes a further file, a file is written over. Who asks is answered about the last time alone.

        Raises:
            ValueError: There are no such jobs, or they never end like this.
        """
        check_outcome(product, family, outcome)
        if again is not None and ((product, family) != (again.product, again.family) or product == "multimediaai"):
            raise ValueError(f"again: expected a job of {product} {family} with an id of its own, came {again.family}")
        number = len(self.jobs) + 1
        rng = random.Random(f"{self._seed}:{number}")  # noqa: S311 - chance, no secret
        if account is None:
            account = next((owner for made, owner, _ in self._destinations if made == product), "default")
        nonce = bind = None
        if product == "multimediaai":
            job_id = str(FIRST_TASK_ID + number)
            media_id = None
            if callback_url is None:
                callback_url, video_name = self._mint(rng, application_id, video_url, video_name)
            nonce = self._nonce(callback_url)
            bind = bind_task(application_id, video_url, video_name).hex() if nonce else None
        else:
            job_id = again.job_id if again else hashlib.sha256(f"{self._seed}:{number}".encode()).hexdigest()[:32]
            if product != "mts" or family == "run":
                media_id = media_id or (again and again.media_id) or other_id("media", job_id)
        now = self.clock()
        if duration_s is None:
            duration_s = rng.uniform(*self.timing.duration_s)
        job = CloudJob(
            number=number,
            product=product,
            account=account,
            family=family,
            job_id=job_id,
            media_id=media_id,
            user_data=user_data,
            outcome=outcome,
            submitted_at=now,
            ends_at=NEVER if math.isinf(duration_s) else now + timedelta(seconds=duration_s),
            nonce=nonce,
            bind=bind,
            callback_url=callback_url,
            application_id=application_id,
            video_url=video_url,
            video_name=video_name,
            is_lost=rng.random() < self.faults.loss if is_lost is None else is_lost,
            earlier=0 if again is None else again.earlier + 1,
        )
        self._remember(job)
        destinations = self._destinations_of(job, sources)
        job.sources = tuple(destination.name for destination in destinations)
        if product == "mts":
            job.notification = _notify(job, destinations, rng)
        if job.ends_at != NEVER:
            self.teller.plan(job, destinations, self.faults, rng)
        return job

    def rehearse(self, product: Product, family: str, **given: Any) -> CloudJob:
        """Begin a job that an application submitted over HTTP: it fails as often as ``faults`` says."""
        return self.submit(
            product, family, outcome="failed" if self.chance.random() < self.faults.failures else "succeeded", **given
        )

    def find(self, job_id: str) -> CloudJob | None:
        """By job, task or run id."""
        return self._by_id.get(job_id)

    def find_media(self, product: Product, media_id: str) -> Sequence[CloudJob]:
        return self._by_media.get((product, media_id), ())

    def truth(self) -> dict[bytes, CloudJob]:
        """Every job, by the digest of what its completion is deduplicated by (``model.identity.Key``)."""
        return {job.reference().key().digest(): job for job in self.jobs}

    def _remember(self, job: CloudJob) -> None:
        if len(self.jobs) >= MAX_JOBS:
            raise ValueError(f"expected at most {MAX_JOBS} jobs; start anew")
        self.jobs.append(job)
        for job_id in (job.job_id, *job.stream_ids) if job.family == "transcode_task" else (job.job_id,):
            self._by_id[job_id] = job
        if job.product == "multimediaai":
            self.gif_tasks.append(job)
        if job.media_id is not None:
            self._by_media.setdefault((job.product, job.media_id), []).append(job)

    def _mint(self, rng: random.Random, application_id: str, video_url: str, video_name: str) -> tuple[str, str]:
        source = next((found for *_, found in self._destinations if isinstance(found, TokenUrlSource)), None)
        if source is None:
            return "", video_name
        nonce = rng.randbytes(12)
        video_name = f"{video_name}#{nonce.hex()}"
        url = source.mint(
            application_id=application_id,
            video_url=video_url,
            video_name=video_name,
            nonce=nonce,
            expires_at=int(self.clock().timestamp()) + MINTED_FOR_S,
        )
        return url, video_name

    def _nonce(self, callback_url: str) -> str | None:
        try:
            return decode_token(callback_url.rpartition("/")[2].encode()).token.nonce.hex()
        except UnknownToken:
            return None

    def _destinations_of(self, job: CloudJob, sources: Sequence[str] | None) -> list[Destination]:
        return [
            destination
            for product, account, destination in self._destinations
            if product == job.product
            and account == job.account
            and (sources is None or destination.name in sources)
            and not (isinstance(destination, TokenUrlSource) and not _is_minted_by(destination, job))
        ]

    @asynccontextmanager
    async def running(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[None]:
        """
        Listening (``url`` says where) and sending callbacks when they are due.

        Raises:
            Unusable: The port can't be had.
        """
        async with self.teller.sending(), listening(self.app, host, port) as self.url:
            runner = asyncio.create_task(self.teller.run())
            try:
                yield
            finally:
                runner.cancel()
                await asyncio.gather(runner, return_exceptions=True)


def _configured_keys(settings: Settings) -> dict[str, AccessKey]:
    return {
        table.access_key_id: AccessKey(table.access_key_secret, table.security_token)
        for table in settings.vendor.values()
        if table.access_key_id is not None and table.access_key_secret is not None
    }


def _destination(name: str, table: SourceSettings) -> Destination:
    if isinstance(table, MnsQueueSourceSettings):
        return QueueDestination(name, table.queue)
    source = build_source(name, table)
    assert isinstance(source, HttpSource | MnsPushSource | TokenUrlSource)
    return source


def _notify(job: CloudJob, destinations: Sequence[Destination], rng: random.Random) -> Notification:
    if not destinations or job.outcome == "cancelled":
        return "none"
    return "not_published" if job.is_lost and rng.random() < 0.5 else "published"


def _is_minted_by(source: TokenUrlSource, job: CloudJob) -> bool:
    return job.nonce is not None and (job.callback_url or "").startswith(source.url.rstrip("/") + "/")
