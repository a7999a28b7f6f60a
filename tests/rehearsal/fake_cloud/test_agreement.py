"""The service's own client and queries against the fake cloud: they say of every job what its callback says."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from media_callbacks.aliyun.credentials import Credentials, StaticCredentials
from media_callbacks.aliyun.openapi import OpenApiClient
from media_callbacks.assembly.sources import build_source
from media_callbacks.healing.queries.base import JobAnswer
from media_callbacks.healing.queries.catalogue import QUERIES
from media_callbacks.model.errors import VendorError, VendorUnavailable
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.kinds import PRODUCTS, Product
from media_callbacks.rehearsal.fake_cloud.callbacks import describe
from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud
from media_callbacks.rehearsal.fake_cloud.faults import Faults, Timing
from media_callbacks.rehearsal.fake_cloud.jobs import QUERYABLE, CloudJob, TrueOutcome
from media_callbacks.sources.base import Completion, Message
from tests.rehearsal.fake_cloud.clouds import GIF, IMS, MTS_QUEUE, VENDOR, VOD, Clock, make_settings

DURATION_S = 60.0
CREDENTIALS = StaticCredentials(
    Credentials(access_key_id=VENDOR["access_key_id"], access_key_secret=VENDOR["access_key_secret"])
)


@pytest.fixture
async def cloud() -> AsyncIterator[FakeCloud]:
    settings = make_settings(vod=VOD, ims=IMS, mts=MTS_QUEUE, gif=GIF)
    cloud = FakeCloud(settings, clock=Clock(), timing=Timing(duration_s=(DURATION_S, DURATION_S)))
    async with cloud.running():
        yield cloud


async def at_once(event: asyncio.Event, seconds: float) -> None:
    """Waits for nothing."""


@pytest.fixture
async def client(cloud) -> AsyncIterator[OpenApiClient]:
    endpoints = dict.fromkeys(("vod", "ice", "mts", "multimediaai"), cloud.url)
    client = OpenApiClient(
        CREDENTIALS, region="cn-shanghai", endpoints=endpoints, clock=cloud.clock, rates=lambda *_: 1000.0, wait=at_once
    )
    yield client
    await client.close()


async def ask_about(client: OpenApiClient, product: Product, reference: JobReference) -> JobAnswer:
    (answer,) = await QUERIES[product].ask([reference], client.call)
    if isinstance(answer, VendorError):
        raise answer
    return answer


async def ask(client: OpenApiClient, job) -> JobAnswer:
    return await ask_about(client, job.product, job.reference())


def outcomes(product: Product) -> Iterator[tuple[str, TrueOutcome]]:
    """Families and how their jobs end, as far as that is told and can be asked."""
    for family in sorted(QUERYABLE[product]):
        yield family, "succeeded"
        if (product, family) != ("vod", "animated_image"):
            yield family, "failed"
        if (product, family) in (("vod", "transcode_task"), ("mts", "run")):
            yield family, "partial"


def view(job: CloudJob, completions: Iterable[Completion]) -> set[tuple[Any, ...]]:
    """What must be the same of what was told and what was asked."""
    return {
        (found.key(job.product, job.account).digest(), found.kind, found.outcome, found.job_id) for found in completions
    }


# Of these MTS says what became of their notifications.
TELLING = ("snapshot", "transcode", "mediainfo", "analysis", "run")


@pytest.mark.parametrize("product", PRODUCTS)
async def test_the_answer_is_that_of_the_callback(cloud, client, product):
    jobs = [cloud.submit(product, family, outcome=outcome) for family, outcome in outcomes(product)]
    states = {job.family: (await ask(client, job)).state for job in jobs}
    # An image that is not in the list may be under way or may have failed.
    assert states == {
        family: "unlearnable" if family == "animated_image" and product == "vod" else "pending" for family in states
    }

    cloud.clock.advance(DURATION_S)
    table_name = next(name for name, table in cloud.settings.sources.items() if table.product == product)
    source = build_source(table_name, cloud.settings.sources[table_name])
    for job in jobs:
        answer = await ask(client, job)
        assert answer.state == "ended", job
        assert (answer.notification is not None) == (product == "mts" and job.family in TELLING), job
        asked = QUERIES[product].parse(Message(answer.body, answer.body, "query", meta=answer.meta)).completions
        body = json.dumps(describe(job, job.outcome)).encode()
        told = source.parse(Message(body, body, "signature", meta={"nonce": job.nonce or ""})).completions
        if (job.product, job.family, job.outcome) == ("vod", "snapshot", "failed"):
            # The callback of a failure names no job; the answer does.
            assert [found.outcome for found in told] == ["failed"]
            assert [found.key(product, job.account) for found in asked] == [job.reference().key()]
        else:
            assert view(job, asked) == view(job, told), job


@pytest.mark.parametrize(
    ("product", "family"),
    [
        ("vod", "transcode"),
        ("ims", "MediaConvertComplete"),
        ("ims", "WorkflowTaskComplete"),
        ("vod", "WorkflowTaskComplete"),
        ("mts", "transcode"),
    ],
)
async def test_cancelled_jobs_are_learnt_about_by_asking_alone(cloud, client, product, family):
    job = cloud.submit(product, family, outcome="cancelled")
    cloud.clock.advance(DURATION_S)
    answer = await ask(client, job)
    message = Message(answer.body, answer.body, "query", meta=answer.meta)
    (completion,) = QUERIES[product].parse(message).completions
    assert (answer.state, completion.outcome) == ("ended", "cancelled")


async def test_a_failed_animated_image_of_vod_can_not_be_learnt(cloud, client):
    job = cloud.submit("vod", "animated_image", outcome="failed")
    cloud.clock.advance(DURATION_S)
    assert (await ask(client, job)).state == "unlearnable"
    assert (job.is_learnable, job.knowable_outcome) == (False, "unknown")


@pytest.mark.parametrize("product", PRODUCTS)
async def test_jobs_of_another_cloud_are_not_found(cloud, client, product):
    elsewhere = FakeCloud(cloud.settings, seed=99, clock=cloud.clock, timing=Timing(duration_s=(0.0, 0.0)))
    jobs = [elsewhere.submit(product, family) for family in QUERYABLE[product]]
    for job in jobs:
        # That an action does not know a job proves nothing where it is only assumed that it knows them.
        is_assumed = product == "ims" and job.family.startswith(("AI", "MediaAi"))
        assert (await ask(client, job)).state == ("unlearnable" if is_assumed else "not_found"), job


async def test_a_task_that_is_not_that_of_the_url_is_foreign(cloud, client):
    job, other = (cloud.submit("multimediaai", "animated_image") for _ in range(2))
    cloud.clock.advance(DURATION_S)
    answer = await ask_about(client, "multimediaai", replace(job.reference(), job_id=other.job_id))
    assert answer.state == "foreign"


async def test_a_task_of_which_only_the_nonce_is_known_is_found_in_the_list(cloud, client):
    jobs = [cloud.submit("multimediaai", "animated_image") for _ in range(3)]
    cloud.clock.advance(DURATION_S)
    references = [replace(job.reference(), job_id=None) for job in jobs]
    answers = [await ask_about(client, "multimediaai", reference) for reference in references]
    messages = [Message(answer.body, answer.body, "query", meta=answer.meta) for answer in answers]
    found = [QUERIES["multimediaai"].parse(message).completions[0].job_id for message in messages]
    assert found == [job.job_id for job in jobs]


async def test_the_client_finds_its_way_through_faults(cloud, client):
    job = cloud.submit("mts", "snapshot", duration_s=0.0)
    cloud.faults = Faults(throttling=0.2, server_errors=0.1, html=0.1)
    states: Counter[str] = Counter()
    for _ in range(40):
        try:
            states[(await ask(client, job)).state] += 1
        except VendorUnavailable:
            states["unavailable"] += 1
    assert states.keys() <= {"ended", "unavailable"}
    assert states["ended"] > 20
