"""What the fake cloud tells, to whom and when; and what goes wrong on the way."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from media_callbacks.assembly.sources import build_source
from media_callbacks.model.errors import ConfigError, ServiceError
from media_callbacks.model.kinds import Product
from media_callbacks.rehearsal.fake_cloud.callbacks import LIE
from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud
from media_callbacks.rehearsal.fake_cloud.faults import Faults, Timing
from media_callbacks.rehearsal.fake_cloud.jobs import QUERYABLE, CloudJob, TrueOutcome
from media_callbacks.sources.base import Callback, CallbackSource, Completion, Message
from tests.factories.running import signer
from tests.rehearsal.fake_cloud.clouds import GIF, IMS, MTS, MTS_QUEUE, VOD, Clock, make_settings

ALL = {"vod": VOD, "ims": IMS, "mts": MTS, "gif": GIF, "mts-queue": MTS_QUEUE}
TIMING = Timing(duration_s=(10.0, 10.0))


@dataclass
class Listener:
    """Whoever is told. ``answers``: statuses to give, the last one for ever; 0 hangs up."""

    sources: dict[str, CallbackSource]
    clock: Clock
    public_key: RSAPublicKey
    answers: list[int] = field(default_factory=list)
    callbacks: list[Callback] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    url: str = ""

    async def take(self, request: web.Request) -> web.Response:
        headers = [(name.lower(), value) for name, value in request.raw_headers]
        path, _, query = request.raw_path.encode().partition(b"?")
        self.callbacks.append(Callback(request.method, path, query, headers, await request.read()))
        self.times.append(self.clock())
        source = self.source(self.callbacks[-1])
        if self.answers == [0]:
            assert request.transport is not None
            request.transport.close()
        elif self.answers:
            return web.Response(status=self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        return web.Response(status=source.success_status)

    def source(self, callback: Callback) -> CallbackSource:
        return next(source for source in self.sources.values() if callback.raw_path.decode().startswith(source.path))

    def read(self, callback: Callback) -> Message:
        """The message, if it is genuine."""
        return self.source(callback).verify(callback, now=self.clock(), public_key=self.public_key)


@asynccontextmanager
async def telling(
    faults: Faults | None = None, timing: Timing = TIMING, sources=None, seed: int = 0, push_format="SIMPLIFIED"
) -> AsyncIterator[tuple[FakeCloud, Listener, Clock]]:
    """A cloud without a port, and somebody whom it tells."""
    clock = Clock()
    tables = ALL if sources is None else sources
    settings = make_settings(**tables)
    mns, _ = signer()
    built = {
        name: build_source(name, table) for name, table in settings.sources.items() if table.transport != "mns-queue"
    }
    listener = Listener(built, clock, mns.private_key.public_key())
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", listener.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    cloud = FakeCloud(
        settings,
        push_format=push_format,
        seed=seed,
        faults=faults,
        timing=timing,
        clock=clock,
        signer=mns,
        to=f"http://{host}:{port}",
    )
    try:
        async with cloud.teller.sending():
            yield cloud, listener, clock
    finally:
        await runner.cleanup()


def completions(listener: Listener):
    """All that was truly told, by key."""
    found = {}
    for callback in listener.callbacks:
        source = listener.source(callback)
        for completion in source.parse(listener.read(callback)).completions:
            found[completion.key(source.product, source.account).digest()] = completion
    return found


# Every family that the job API knows, and how its jobs end. Of these VOD names no job.
_BOTH: tuple[TrueOutcome, ...] = ("succeeded", "failed")
NAMELESS = {("vod", "transcode_task", "succeeded"), ("vod", "transcode_task", "failed"), ("vod", "snapshot", "failed")}
TELLABLE: list[tuple[Product, str, TrueOutcome]] = [
    (product, family, outcome)
    for product, families in QUERYABLE.items()
    for family in sorted(families)
    for outcome in _BOTH
]


@pytest.mark.parametrize("push_format", ["SIMPLIFIED", "JSON", "XML"])
async def test_every_job_is_told_about_once_truly_and_not_before_it_has_ended(push_format):
    async with telling(sources={"vod": VOD, "ims": IMS, "mts": MTS, "gif": GIF}, push_format=push_format) as played:
        cloud, listener, clock = played
        for product, family, outcome in TELLABLE:
            cloud.submit(product, family, outcome=outcome, user_data='{"order": "7 & 8"}')
        clock.advance(9.9)
        await cloud.teller.run_due()
        assert listener.callbacks == []
        clock.advance(0.1)
        await cloud.teller.run_due()
        found = completions(listener)
        assert [job.told for job in cloud.jobs] == [1] * len(TELLABLE)
        for job in cloud.jobs:
            if (job.product, job.family, job.outcome) in NAMELESS:
                continue
            completion = found[job.reference().key().digest()]
            assert (completion.outcome, completion.job_id) == (job.outcome, job.job_id)
            assert cloud.truth()[job.reference().key().digest()] is job
            # Of an upload that failed there is no asset.
            if job.product in ("vod", "ims") and (job.family, job.outcome) != ("UploadByURLComplete", "failed"):
                assert completion.media_id == job.media_id
            # Neither submission of an animated image nor of a GIF task has any but that of IMS.
            assert completion.user_data == (None if job.family == "animated_image" else '{"order": "7 & 8"}')


async def test_the_streams_of_a_task_end_as_the_task_does():
    async with telling(sources={"vod": VOD}) as (cloud, listener, clock):
        task = cloud.submit("vod", "transcode_task", outcome="partial")
        clock.advance(10)
        await cloud.teller.run_due()
        one, other, whole = (
            listener.source(listener.callbacks[0]).parse(listener.read(listener.callbacks[0])).completions
        )
        assert [found.outcome for found in (one, other, whole)] == ["succeeded", "failed", "partial"]
        assert (one.job_id, other.job_id) == task.stream_ids


async def test_all_transports_of_a_product_are_told_or_those_that_are_chosen():
    async with telling() as (cloud, listener, clock):
        job = cloud.submit("mts", "snapshot", user_data="order 7")
        other = cloud.submit("mts", "snapshot", sources=["mts"])
        clock.advance(10)
        await cloud.teller.run_due()
        assert (job.sources, job.told, other.sources, other.told) == (("mts", "mts-queue"), 2, ("mts",), 1)
        assert (len(listener.callbacks), cloud.queues.depth("mts-done")) == (2, 1)
        assert cloud.teller.counts == {("mts", "204"): 2, ("mts-queue", "queue"): 1}


async def test_accounts_have_their_own_sources():
    sources = {"vod": VOD, "vod-2": {**VOD, "path": "/callbacks/vod-2", "account": "second"}}
    async with telling(sources=sources) as (cloud, _, _):
        assert cloud.submit("vod", "snapshot").sources == ("vod",)
        assert cloud.submit("vod", "snapshot", account="second").sources == ("vod-2",)


async def test_a_queue_that_was_deleted_is_told_nothing():
    async with telling(sources={"mts-queue": MTS_QUEUE}) as (cloud, _, clock):
        job = cloud.submit("mts", "snapshot")
        cloud.queues.remove("mts-done")
        clock.advance(10)
        await cloud.teller.run_due()
        assert (job.told, job.refused, cloud.teller.counts["mts-queue", "QueueNotExist"]) == (0, 1, 1)


async def test_jobs_that_never_end_and_cancelled_ones_are_not_told_about():
    async with telling() as (cloud, listener, clock):
        endless = cloud.submit("vod", "snapshot", duration_s=math.inf)
        cancelled = cloud.submit("mts", "transcode", outcome="cancelled")
        clock.advance(86400)
        await cloud.teller.run_due()
        assert (listener.callbacks, cloud.teller.backlog) == ([], 0)
        assert (endless.is_over(clock()), cancelled.is_over(clock())) == (False, True)
        assert (cancelled.notification, cancelled.knowable_outcome) == ("none", "cancelled")


# Retries


@pytest.mark.parametrize(
    ("source", "product", "family"), [("vod", "vod", "snapshot"), ("ims", "ims", "SnapshotComplete")]
)
@pytest.mark.parametrize("status", [204, 302, 500])
async def test_vod_and_ims_try_three_times_a_second_apart_until_200(source, product, family, status):
    async with telling(sources={source: ALL[source]}) as (cloud, listener, clock):
        listener.answers = [status]
        job = cloud.submit(product, family)
        clock.advance(10)
        for number in (1, 2, 3, 3):
            await cloud.teller.run_due()
            assert len(listener.callbacks) == number
            clock.advance(0.5)
            await cloud.teller.run_due()
            assert len(listener.callbacks) == number
            clock.advance(0.5)
        assert (job.told, job.refused, job.unanswered) == (0, 3, 0)
        # Each attempt is signed anew: the last one is not stale.
        listener.read(listener.callbacks[-1])


async def test_mns_tries_again_after_ten_to_twenty_seconds_with_the_same_message():
    async with telling(sources={"mts": MTS}) as (cloud, listener, clock):
        listener.answers = [500, 503, 204]
        job = cloud.submit("mts", "snapshot")
        clock.advance(10)
        await cloud.teller.run_due()
        for number in (2, 3):
            clock.advance(9.9)
            await cloud.teller.run_due()
            assert len(listener.callbacks) == number - 1
            clock.advance(10.1)
            await cloud.teller.run_due()
            assert len(listener.callbacks) == number
        assert (job.told, job.refused) == (1, 2)
        assert len({callback.header(b"x-mns-message-id") for callback in listener.callbacks}) == 1


async def test_nobody_listens():
    async with telling(sources={"gif": GIF}) as (cloud, _, clock):
        cloud.teller.to = "http://127.0.0.1:1"
        job = cloud.submit("multimediaai", "animated_image")
        clock.advance(10)
        await cloud.teller.run_due()
        clock.advance(60)
        await cloud.teller.run_due()
        # Nothing is known of further attempts.
        assert (job.told, job.refused, job.unanswered, cloud.teller.backlog) == (0, 1, 0, 0)


async def test_an_answer_that_never_comes_may_have_been_one():
    async with telling(sources={"gif": GIF}) as (cloud, listener, clock):
        listener.answers = [0]
        job = cloud.submit("multimediaai", "animated_image")
        clock.advance(10)
        await cloud.teller.run_due()
        assert len(listener.callbacks) == 1
        assert (job.told, job.refused, job.unanswered) == (0, 1, 1)


# Faults


async def test_lost_callbacks_are_never_sent_and_mts_says_what_became_of_the_notification():
    async with telling(Faults(loss=0.5), seed=3) as (cloud, _, clock):
        jobs = [cloud.submit("mts", "snapshot") for _ in range(400)]
        clock.advance(10)
        await cloud.teller.run_due()
        lost = [job for job in jobs if job.is_lost]
        assert 150 < len(lost) < 250
        assert all(job.told == (0 if job.is_lost else 2) for job in jobs)
        notifications = Counter(job.notification for job in lost)
        assert notifications.keys() == {"published", "not_published"}
        assert min(notifications.values()) > 50
        assert {job.notification for job in jobs if not job.is_lost} == {"published"}


async def test_duplicates_come_later():
    async with telling(Faults(duplication=1.0), sources={"vod": VOD}) as (cloud, listener, clock):
        job = cloud.submit("vod", "snapshot")
        clock.advance(10)
        await cloud.teller.run_due()
        clock.advance(5)
        await cloud.teller.run_due()
        assert (job.told, len(listener.callbacks)) == (2, 2)
        assert listener.callbacks[0].body == listener.callbacks[1].body


async def test_delay_and_reordering():
    faults = Faults(delay=1.0, delay_s=(3.0, 4.0))
    async with telling(faults, sources={"vod": VOD}) as (cloud, listener, clock):
        cloud.submit("vod", "snapshot")
        clock.advance(12.9)
        await cloud.teller.run_due()
        assert listener.callbacks == []
        clock.advance(1.1)
        await cloud.teller.run_due()
        assert len(listener.callbacks) == 1
    async with telling(Faults(reordering=0.5), sources={"vod": VOD}) as (cloud, listener, clock):
        jobs = [cloud.submit("vod", "animated_image") for _ in range(20)]
        clock.advance(11)
        await cloud.teller.run_due()
        told = [json.loads(callback.body)["JobId"] for callback in listener.callbacks]
        assert sorted(told) == sorted(job.job_id for job in jobs)
        assert told != [job.job_id for job in jobs]


@pytest.mark.parametrize(
    ("source", "product", "family"),
    [
        ("vod", "vod", "animated_image"),
        ("ims", "ims", "DynamicImageComplete"),
        ("mts", "mts", "snapshot"),
        ("gif", "multimediaai", "animated_image"),
    ],
)
async def test_forgeries_are_not_genuine_and_count_as_nothing(source, product, family):
    async with telling(Faults(forgery=1.0), sources={source: ALL[source]}) as (cloud, listener, clock):
        job = cloud.submit(product, family)
        clock.advance(12)
        await cloud.teller.run_due()
        genuine = 0
        for callback in listener.callbacks:
            try:
                listener.read(callback)
            except ServiceError:
                continue
            genuine += 1
        assert (len(listener.callbacks), genuine, job.told) == (2, 1, 1)


@pytest.mark.parametrize(
    ("source", "product", "family"), [("vod", "vod", "animated_image"), ("ims", "ims", "ProduceMediaComplete")]
)
async def test_what_is_altered_is_genuine_by_its_headers_and_lies(source, product, family):
    async with telling(Faults(alteration=1.0), sources={source: ALL[source]}) as (cloud, listener, clock):
        for _ in range(40):
            cloud.submit(product, family, user_data="order 7")
        clock.advance(12)
        await cloud.teller.run_due()
        told: dict[str, list[Completion]] = defaultdict(list)
        for callback in listener.callbacks:
            for completion in listener.source(callback).parse(listener.read(callback)).completions:
                told[str(completion.job_id)].append(completion)
        assert told.keys() == {job.job_id for job in cloud.jobs}
        bodies = [json.loads(callback.body) for callback in listener.callbacks]
        lied_about = set()
        for job in cloud.jobs:
            found = told[job.job_id]
            # One is the truth, and each lie is about one thing.
            (true,) = [one for one in found if one.outcome == job.outcome and LIE not in repr(one)]
            (lie,) = [one for one in found if one is not true]
            assert job.told == job.lied_about == 1
            assert cloud.teller.lie_about(job) in bodies
            lied_about |= {name for name in LIED_ABOUT if getattr(lie, name) != getattr(true, name)}
        assert lied_about == set(LIED_ABOUT) - ({"user_data"} if product == "vod" else set())


LIED_ABOUT = ("outcome", "media_id", "outputs", "user_data")


async def test_the_body_of_a_push_can_not_be_altered_unseen():
    async with telling(Faults(alteration=1.0), sources={"mts": MTS}) as (cloud, listener, clock):
        cloud.submit("mts", "snapshot")
        clock.advance(12)
        await cloud.teller.run_due()
        genuine = 0
        for callback in listener.callbacks:
            if LIE.encode() in callback.body or b"Fail" in callback.body:
                with pytest.raises(ServiceError):
                    listener.read(callback)
            else:
                listener.read(callback)
                genuine += 1
        assert (len(listener.callbacks), genuine) == (2, 1)


async def test_lies_about_gif_tasks():
    async with telling(Faults(alteration=1.0, loss=1.0), sources={"gif": GIF}) as (cloud, listener, clock):
        jobs = {str(job.nonce): job for job in [cloud.submit("multimediaai", "animated_image") for _ in range(40)]}
        clock.advance(12)
        await cloud.teller.run_due()
        lies: Counter[tuple[bool, bool]] = Counter()
        for callback in listener.callbacks:
            message = listener.read(callback)
            (completion,) = listener.source(callback).parse(message).completions
            job = jobs[message.meta["nonce"]]
            is_true = completion.outcome == job.outcome, completion.job_id == job.job_id
            assert is_true != (True, True) or LIE in repr(completion.outputs)
            lies[is_true] += 1
        # The outcome is wrong, or the task is, or else the result.
        assert lies.keys() == {(True, False), (False, True), (True, True)}


async def test_the_same_seed_and_the_same_jobs_give_the_same_world():
    def describe(cloud):
        return [(job.job_id, job.is_lost, job.notification, job.ends_at - job.submitted_at) for job in cloud.jobs]

    worlds = []
    for seed in (1, 1, 2):
        async with telling(Faults(loss=0.5), Timing(duration_s=(1.0, 9.0)), seed=seed) as (cloud, _, _):
            for _ in range(50):
                cloud.submit("mts", "snapshot")
            worlds.append([found[:3] for found in describe(cloud)])
    assert worlds[0] == worlds[1] != worlds[2]


# Jobs that are begun again


def told_of(listener: Listener) -> list[Completion]:
    """In the order in which it was told."""
    return [listener.source(one).parse(listener.read(one)).completions[0] for one in listener.callbacks]


async def test_a_rerun_has_the_same_ids_and_ends_anew():
    async with telling(sources={"vod": VOD, "mts": MTS}) as (cloud, listener, clock):
        jobs: list[tuple[Product, str]] = [("vod", "transcode"), ("mts", "snapshot")]
        for product, family in jobs:
            first = cloud.submit(product, family, outcome="failed", user_data="order 7")
            clock.advance(10)
            rerun = cloud.submit(product, family, user_data="order 7", again=first)
            assert cloud.find(first.job_id) is rerun
            assert (rerun.job_id, rerun.media_id) == (first.job_id, first.media_id)
            assert rerun.message_id != first.message_id
            assert not rerun.is_over(clock())
            # Each end is told about as it was, also when the first is told of late.
            await cloud.teller.run_due()
            clock.advance(10)
            await cloud.teller.run_due()
        assert [told.outcome for told in told_of(listener)] == ["failed", "succeeded"] * 2
        assert len({told.key("vod", "default").digest() for told in told_of(listener)[:2]}) == 1


@pytest.mark.parametrize(
    ("product", "family", "apart_s"),
    [("ims", "LiveRecordFileCreated", 0.0), ("vod", "FileUploadComplete", 1.0)],
    ids=["files", "overwritten"],
)
async def test_what_happens_to_the_same_thing_again_is_another_occurrence(product, family, apart_s):
    async with telling(sources={"vod": VOD, "ims": IMS}) as (cloud, listener, clock):
        job = None
        for _ in range(12):
            job = cloud.submit(product, family, again=job)
            clock.advance(apart_s)
        clock.advance(10)
        await cloud.teller.run_due()
        found = told_of(listener)
        assert len({told.job_id for told in found}) == 1
        assert len({told.key(product, "default").digest() for told in found}) == 12


async def test_only_a_job_of_the_same_family_is_begun_again():
    async with telling() as (cloud, _, _):
        snapshot, task = cloud.submit("vod", "snapshot"), cloud.submit("multimediaai", "animated_image")
        others: list[tuple[Product, str, CloudJob]] = [
            ("vod", "transcode", snapshot),
            ("multimediaai", "animated_image", task),
        ]
        for product, family, again in others:
            with pytest.raises(ValueError, match=r"^again: expected a job of"):
                cloud.submit(product, family, again=again)


# GIF tasks


async def test_a_minted_url_names_the_task_and_foreign_ones_are_not_called():
    async with telling(sources={"gif": GIF}) as (cloud, listener, clock):
        job = cloud.submit("multimediaai", "animated_image")
        foreign = cloud.submit("multimediaai", "animated_image", callback_url="https://elsewhere.example.com/call")
        elsewhere = cloud.submit(
            "multimediaai", "animated_image", callback_url=str(job.callback_url).replace("cb.example", "other.example")
        )
        clock.advance(10)
        await cloud.teller.run_due()
        (callback,) = listener.callbacks
        assert listener.read(callback).meta == {"nonce": job.nonce, "bind": job.bind}
        assert job.video_name.endswith(f"#{job.nonce}")
        assert (foreign.nonce, foreign.sources, elsewhere.sources) == (None, (), ())


async def test_without_an_entrance_for_gif_tasks_there_is_no_url():
    async with telling(sources={"vod": VOD}) as (cloud, _, _):
        job = cloud.submit("multimediaai", "animated_image")
        assert (job.callback_url, job.nonce, job.bind, job.sources, job.account) == ("", None, None, (), "default")


# What can't be


@pytest.mark.parametrize(
    ("product", "family", "outcome", "message"),
    [
        ("vod", "mediainfo", "succeeded", "family: expected one of"),
        ("vod", "snapshot", "cancelled", "outcome: expected failed, succeeded of vod snapshot, came cancelled"),
    ],
)
async def test_jobs_that_there_are_not(product, family, outcome, message):
    async with telling() as (cloud, _, _):
        with pytest.raises(ValueError, match=message):
            cloud.submit(product, family, outcome=outcome)


def test_pushes_need_a_key():
    with pytest.raises(ConfigError, match="signing key"):
        FakeCloud(make_settings(mts=MTS))


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_rates_are_from_0_to_1(rate):
    with pytest.raises(ValueError, match="loss: expected a rate from 0 to 1"):
        Faults(loss=rate)


async def test_running_tells_by_itself():
    """With the real clock and jobs that take next to no time."""
    cloud = FakeCloud(make_settings(mts=MTS_QUEUE), timing=Timing(duration_s=(0.0, 0.02)))
    async with cloud.running():
        jobs = [cloud.submit("mts", "snapshot") for _ in range(50)]
        await cloud.teller.settled()
        assert all(job.told == 1 for job in jobs)
    with pytest.raises(ConfigError, match="cannot listen"):
        async with cloud.running("192.0.2.1", 1):
            pass


async def test_a_mistake_of_the_cloud_itself_is_not_taken_for_a_fault():
    async with telling(sources={"mts-queue": MTS_QUEUE}) as (cloud, _, clock):
        cloud.submit("mts", "snapshot")
        cloud.queues.send = None  # type: ignore[assignment, method-assign]
        clock.advance(10)
        with pytest.raises(TypeError):
            await cloud.teller.run_due()
