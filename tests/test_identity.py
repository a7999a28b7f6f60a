"""
One event per key and outcome, ever, whatever the order, the source and the transport: random sequences of genuine
requests against a model of ten lines.
"""

import asyncio
import base64
import json
import random
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.inbox.roles import ReceiptWriter
from media_callbacks.model.receipts import Verdict
from media_callbacks.rehearsal.fake_cloud.callbacks import LIE, describe, lie
from media_callbacks.rehearsal.simulate import (
    PAYLOADS,
    MnsSigner,
    SimulatedRequest,
    http_request,
    make_mns_key,
    token_url_request,
)
from media_callbacks.sources.base import Callback, CallbackSource, Message
from media_callbacks.sources.intake import HoldRules, build_receipt
from media_callbacks.sources.products import ims, mts, multimediaai, vod
from media_callbacks.sources.transports.http import HttpSource
from media_callbacks.sources.transports.mns_push import MnsPushSource
from media_callbacks.sources.transports.token_url import TokenUrlSource
from tests.factories.memory import find_memory
from tests.inbox.conformance import deliver
from tests.inbox.timed import TimedSqliteInbox
from tests.reference.confirm_tables import Vendor

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY, _ = make_mns_key(now=NOW)
SIGNER = MnsSigner(KEY)
JOBS = ("a" * 32, "b" * 32)

VOD = HttpSource(
    name="vod",
    product="vod",
    account="default",
    path="/vod",
    urls=("https://cb.example.com/vod",),
    keys=("Example1Key",),
    max_age_s=300,
    parser=vod.parse,
)
# The same account registered a second time: another source, the same jobs.
VOD_AGAIN = replace(VOD, name="vod-again", path="/vod-again", urls=("https://cb.example.com/vod-again",))
VOD_OTHER_ACCOUNT = replace(VOD, name="vod-other", account="other")
IMS = replace(VOD, name="ims", product="ims", path="/ims", urls=("https://cb.example.com/ims",), parser=ims.parse)
MTS = MnsPushSource(
    name="mts",
    product="mts",
    account="default",
    path="/mts",
    topics=frozenset({"1234567890123456/mts-done"}),
    certificate_hosts=frozenset({"mnstest.oss-cn-hangzhou.aliyuncs.com"}),
    parser=mts.parse,
)
GIF = TokenUrlSource(
    name="gif",
    product="multimediaai",
    account="default",
    path="/gif",
    url="https://cb.example.com/gif",
    keys={1: base64.b64decode("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")},
    minting_key_id=1,
    parser=multimediaai.parse,
)

EVENTS: dict[str, tuple[str, ...]] = {
    "vod": ("DynamicImageComplete", "SnapshotComplete", "StreamTranscodeComplete", "TranscodeComplete"),
    "ims": ("DynamicImageComplete", "SnapshotComplete", "TranscodeComplete"),
    "mts": ("Snapshot", "Transcode", "Start", "Report"),
    "multimediaai": ("CreateGifTask",),
}

VOD_FAMILIES = {
    "DynamicImageComplete": "animated_image",
    "SnapshotComplete": "snapshot",
    "StreamTranscodeComplete": "transcode",
}

SOURCES: list[Any] = [VOD, VOD_AGAIN, VOD_OTHER_ACCOUNT, IMS, MTS, GIF]
arrivals = st.lists(
    st.sampled_from(SOURCES).flatmap(
        lambda source: st.tuples(
            st.just(source),
            st.sampled_from(EVENTS[source.product]),
            st.sampled_from(JOBS),
            st.booleans(),
            st.sampled_from(["XML", "JSON", "SIMPLIFIED"]),
        )
    ),
    min_size=15,
    max_size=40,
)


def sign(source: Any, event: str, job: str, failed: bool, push_format: Any) -> SimulatedRequest:
    payload = PAYLOADS[source.product][event](job, NOW, failed)
    if isinstance(source, MnsPushSource):
        return SIGNER.push(source, payload, now=NOW, push_format=push_format)
    if isinstance(source, TokenUrlSource):
        url = source.mint(
            application_id="app",
            video_url="https://media.example.com/in.mp4",
            video_name=job,
            nonce=job[:12].encode(),
            expires_at=int(NOW.timestamp()) + 600,
        )
        return token_url_request(source, url.rpartition("/")[2], payload)
    return http_request(source, payload, now=NOW)


async def receive(inbox: ReceiptWriter, source: CallbackSource, request: SimulatedRequest) -> Verdict:
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    callback = Callback(request.method, request.target.encode(), b"", headers, request.body)
    public_key = KEY.public_key() if source.certificate_url(callback) else None
    message = source.verify(callback, now=NOW, public_key=public_key)
    return await inbox.put(build_receipt(source, message, received_at=NOW, route=lambda _: ("sink",)))


def model(steps: Iterable[tuple[Any, str, str, bool, str]]) -> dict[tuple[str, ...], list[str]]:
    """Outcomes by key, in order of acceptance: contract section 5 for the messages that are sent here."""
    outcomes: dict[tuple[str, ...], list[str]] = {}
    for source, event, job, failed, _ in steps:
        for family, word in families(source.product, event, failed):
            seen = outcomes.setdefault((source.product, source.account, family, job), [])
            if word not in seen:
                seen.append(word)
    return outcomes


def families(product: str, event: str, failed: bool) -> list[tuple[str, str]]:
    word = "failed" if failed else "succeeded"
    match product, event:
        case "vod", "SnapshotComplete" if failed:
            return [("snapshot without a job id", word)]
        case "vod", "TranscodeComplete":
            return [("transcode", word), ("transcode_task", word)]
        case "vod", _:
            return [(VOD_FAMILIES[event], word)]
        case "mts", "Start":
            return [("run-start", "received")]
        case "mts", "Report":
            return [("run", "partial" if failed else "succeeded"), ("transcode of the run", word)]
        case _:
            return [(event, word)]


@given(arrivals)
@settings(max_examples=60, deadline=None)
def test_any_sequence_over_all_transports_equals_the_model(steps: list[tuple[Any, str, str, bool, str]]) -> None:
    async def run(path: Path) -> tuple[list[int], list[str]]:
        inbox = TimedSqliteInbox(path)
        await inbox.open()
        revisions = []
        for source, event, job, failed, push_format in steps:
            verdict = await receive(inbox, source, sign(source, event, job, failed, push_format))
            assert verdict.state in ("accepted", "duplicate")
            revisions += [accepted.data.revision for accepted in verdict.accepted]
        delivered = await deliver(inbox, "sink", now=NOW + timedelta(seconds=1))
        await inbox.close()
        return revisions, delivered

    with tempfile.TemporaryDirectory(dir=find_memory()) as folder:
        revisions, delivered = asyncio.run(run(Path(folder) / "inbox.db"))
    expected = model(steps)
    assert sorted(revisions) == sorted(n for words in expected.values() for n in range(1, len(words) + 1))
    assert len(set(delivered)) == len(delivered) == len(revisions)


# Lies: whoever has a captured signature, and says something else than the vendor in whatever a message says.

CLAIMED = [("vod", family) for family in ("snapshot", "transcode", "AIMediaAuditComplete", "AIMediaDNAComplete")]
CLAIMED += [("ims", family) for family in ("SnapshotComplete", "ProduceMediaComplete", "SmartJobComplete")]
claims = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["truth", "lie", "queue", "ask"]), st.integers(0, 7)),
    min_size=4,
    max_size=16,
)


@given(st.sampled_from(CLAIMED), st.sampled_from(["succeeded", "failed"]), claims)
@settings(max_examples=40, deadline=None)
def test_whatever_is_claimed_of_a_job_the_vendors_word_is_its_only_event(
    kind: tuple[Any, str], outcome: Any, steps: list[tuple[int, str, int]]
) -> None:
    """
    Claims are held; some are true, some lie about one thing, some come through a queue, where nobody can lie. At any
    time the vendor is asked about what is due.
    """
    product, family = kind
    if (family, outcome) == ("snapshot", "failed"):
        outcome = "succeeded"  # the message of a failed one names no job

    spoken_of = set()

    async def run(path: Path) -> dict[str, list[dict[str, Any]]]:
        inbox, vendor = TimedSqliteInbox(path), Vendor()
        await inbox.open()
        jobs = [vendor.cloud.submit(product, family, outcome=outcome, user_data="order 7") for _ in range(3)]
        source = {"vod": VOD, "ims": IMS}[product]
        now = vendor.cloud.clock()

        async def ask() -> None:
            inquiries = await inbox.claim_inquiries(product, limit=50, now=now, lease_s=20)
            findings = [(await vendor.judge(inquiry)).finding for inquiry in inquiries]
            await inbox.settle(findings, now=now)

        for number, what, seed in steps:
            if what == "ask":
                await ask()
                continue
            job = jobs[number]
            payload = lie(job, random.Random(seed)) if what == "lie" else describe(job, job.outcome)
            body = json.dumps(payload).encode()
            if job.job_id.encode() not in body:
                continue  # that a snapshot job has failed is said without naming it
            spoken_of.add(number)
            message = Message(body, body, "queue" if what == "queue" else "signature")
            holds = None if what == "queue" else HoldRules(confirm="always", confirm_timeout_s=60.0)
            await inbox.put(build_receipt(source, message, received_at=now, route=lambda _: ("sink",), holds=holds))
        for _ in range(len(steps)):
            await ask()
        assert await inbox.next_inquiry_at(product) is None
        found: dict[str, list[dict[str, Any]]] = {job.job_id: [] for job in jobs}
        for delivery in await inbox.claim("sink", limit=100, now=now + timedelta(seconds=1), lease_s=20):
            data = json.loads(delivery.body)["data"]
            found[data["job_id"]].append(data)
        await inbox.close()
        return found

    with tempfile.TemporaryDirectory(dir=find_memory()) as folder:
        found = asyncio.run(run(Path(folder) / "inbox.db"))
    for number, events in enumerate(found.values()):
        assert [data["outcome"] for data in events] == ([outcome] if number in spoken_of else [])
        for data in events:
            assert data["verified_by"] != "query" or LIE not in json.dumps(data)
            # Another asset is a conflict, and what the vendor tells of the result wins. Of a failed job it may tell less.
            assert outcome == "failed" or data["media_id"] != LIE
            assert LIE not in json.dumps(data["outputs"])
