"""
One event per key and outcome, ever, whatever the order, the source and the transport: random sequences of genuine
requests against a model of ten lines.
"""

import asyncio
import base64
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.inbox.base import Inbox, Verdict
from service.intake import build_receipt
from service.simulate import PAYLOADS, MnsSigner, SimulatedRequest, http_request, make_mns_key, token_url_request
from service.sources import gif, ims, mts, vod
from service.sources.base import Callback, CallbackSource
from service.sources.http import HttpSource
from service.sources.mns_push import MnsPushSource
from service.sources.token_url import TokenUrlSource
from tests.inbox.conformance import deliver
from tests.inbox.timed import TimedSqliteInbox

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY, CERTIFICATE = make_mns_key(now=NOW)
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
    parser=gif.parse,
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


async def receive(inbox: Inbox, source: CallbackSource, request: SimulatedRequest) -> Verdict:
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

    with tempfile.TemporaryDirectory() as folder:
        revisions, delivered = asyncio.run(run(Path(folder) / "inbox.db"))
    expected = model(steps)
    assert sorted(revisions) == sorted(n for words in expected.values() for n in range(1, len(words) + 1))
    assert len(set(delivered)) == len(delivered) == len(revisions)
