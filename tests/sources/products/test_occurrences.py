"""
May the vendor truthfully say this twice? For every message of every product: the same message again, over each transport,
is one event; the next one about the same thing is another event where the page says that it is an occurrence, and none
where it is a job.
"""

import base64
import json
import textwrap
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from media_callbacks.rehearsal.payloads import PAYLOADS
from media_callbacks.rehearsal.simulate import MnsSigner
from media_callbacks.sources.base import Message
from media_callbacks.sources.intake import build_receipt
from media_callbacks.sources.reading.members import JOB_IDS
from media_callbacks.sources.transports.mns_queue import MnsQueueSource
from tests.reference import message_tables
from tests.reference.message_tables import EITHER, NOW, Row
from tests.test_identity import IMS, KEY, MTS, VOD

LATER = NOW + timedelta(minutes=7)
SIGNED: dict[str, Any] = {"vod": VOD, "ims": IMS, "mts": MTS}
ROWS = [row for row in message_tables.all_rows() if row.product in SIGNED]


@dataclass
class Queued:
    body: bytes
    id: str = "m-1"
    body_md5: str | None = None
    enqueued_at: Any = None


def event_ids(source, message):
    receipt = build_receipt(source, message, received_at=NOW, route=lambda _: ())
    assert receipt.entries, receipt.reason
    return {entry.event.id for entry in receipt.entries}


def plain(payload, product):
    body = json.dumps(payload).encode()
    return event_ids(SIGNED[product], Message(body, body, "signature"))


def over_every_transport(payload, product):
    """The same message as it comes over each of them, and in each of their forms."""
    body = json.dumps(payload).encode()
    encoded = base64.b64encode(body)
    broken = "\n".join(textwrap.wrap(encoded.decode(), 76)).encode() + b"\n"
    queue = MnsQueueSource(name="q", product=product, account="default", parser=SIGNED[product].parser)
    yield from ((queue, queue.open(Queued(text))) for text in (body, encoded, broken))
    yield SIGNED[product], Message(body, body, "signature")
    yield (
        SIGNED[product],
        Message(json.dumps(payload, indent=2).encode(), json.dumps(payload, indent=2).encode(), "none"),
    )
    if product == "mts":
        for form in ("XML", "JSON", "SIMPLIFIED"):
            pushed = MnsSigner(KEY).push(MTS, payload, now=NOW, push_format=form).body
            yield MTS, Message(pushed, pushed, "signature")
            yield queue, queue.open(Queued(pushed))


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize(("product", "event"), [(product, event) for product in SIGNED for event in PAYLOADS[product]])
def test_the_same_message_is_one_event_whichever_way_it_comes(product, event, failed):
    payload = PAYLOADS[product][event]("job-1", NOW, failed)
    ids = plain(payload, product)
    for source, message in over_every_transport(payload, product):
        assert event_ids(source, message) == ids


def bodies(payload):
    return [payload, *([payload["MessageBody"]] if "MessageBody" in payload else [])]


def without_job(payload):
    for body in bodies(payload):
        for name in (*JOB_IDS, "MediaRefreshJobId"):
            body.pop(name, None)
        for element in (*body.get("SnapshotInfos", []), *body.get("StreamInfos", [])):
            element.pop("JobId", None)
        if isinstance(body.get("DynamicImageJobInfo"), dict):
            body["DynamicImageJobInfo"].pop("JobId", None)
        # The asset, which a few messages name only when all went well, is then all there is.
        body.setdefault("MediaId", "m")
    return payload


def said(row: Row, now):
    if row.sample is None:
        return PAYLOADS[row.product][row.event]("job-1", now, row.part == "without any")
    payload = json.loads(json.dumps(row.sample))
    for body in bodies(payload):
        if row.product != "mts" and (body is payload or "EventTime" in body):
            body["EventTime"] = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return payload if row.product != "mts" else payload | {"Message": str(now)}


def test_the_page_says_it_of_every_message():
    assert {row.again for row in message_tables.all_rows()} == {"job", "occurrence", EITHER}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.product}-{row.event}-{row.part}")
def test_the_next_one_about_the_same_thing(row):
    payloads = [said(row, now) for now in (NOW, LATER)]
    if row.again == EITHER and "." not in "".join(row.job) and row.job:
        # Some are documented without a job id, and have one all the same.
        for payload in payloads:
            bodies(payload)[-1].setdefault(row.job[0], "job-1")
    first, second = (plain(payload, row.product) for payload in payloads)
    if row.again == "occurrence":
        assert not first & second
    else:
        assert first == second


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.again == EITHER], ids=lambda row: f"{row.product}-{row.event}-{row.part}"
)
def test_without_a_job_id_it_is_an_occurrence(row):
    first, second = (plain(without_job(said(row, now)), row.product) for now in (NOW, LATER))
    assert not first & second


@pytest.mark.parametrize("product", ["vod", "ims"])
@pytest.mark.parametrize(
    ("event", "changes"),
    [
        ("LiveRecordFileCreated", {"FileUrl": "http://media.example.com/2.m3u8"}),
        ("LiveRecordFileCreated", {"RecordId": "r-2"}),
        ("LiveSnapshotFileCreated", {"FileUrl": "http://media.example.com/0002.jpg"}),
        ("LiveSnapshotFileCreated", {"FileUrl": None, "OssObject": "snapshot/2.jpg"}),
        ("LiveSnapshotFileCreated", {"CreateTimestamp": 1660638613798}),
        ("FileUploadComplete", {"FileUrl": "http://media.example.com/b.mp4"}),
        ("ImageUploadComplete", {"FileURL": "http://media.example.com/b.png"}),
        ("AttachedMediaUploadComplete", {"FileURL": "http://media.example.com/b.png"}),
        ("AddLiveRecordVideoComplete", {"RecordStartTime": "2026-01-02T02:00:00Z"}),
        ("CreateAuditComplete", {"CreationTime": "2026-01-02T02:00:00Z"}),
        ("DeleteMediaComplete", {"DeleteType": "stream", "JobIds": "a,b"}),
        ("MediaBaseChangeComplete", {"MediaContent": {"Title": "another"}}),
        ("UpdateMediaStorageClassComplete", {"StorageClass": "IA"}),
        ("RestoreMediaComplete", {"RestoreExpiration": "2026-03-02T02:00:00Z"}),
        ("SubmitMediaRefreshComplete", {"MediaId": "another"}),
    ],
)
def test_the_vendor_s_own_mark_tells_occurrences_of_one_second_apart(product, event, changes):
    message = PAYLOADS[product][event]("job-1", NOW, False)
    other = PAYLOADS[product][event]("job-1", NOW, False)
    bodies(other)[-1].update(changes)
    assert not plain(message, product) & plain(other, product)


@pytest.mark.parametrize("product", ["vod", "ims"])
@pytest.mark.parametrize("event", ["FileUploadComplete", "DynamicImageComplete", "VideoAnalysisComplete", "NewThing"])
def test_the_time_counts_wherever_it_stands(product, event):
    def at(time):
        body = {"EventType": event, "VideoId": "v", "Status": "success", "EventTime": time}
        return body if product == "vod" else {"EventType": event, "MessageBody": body}

    first, second = (plain(at(time), product) for time in ("2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"))
    assert not first & second


@pytest.mark.parametrize("product", ["vod", "ims"])
def test_what_nothing_tells_apart_is_told_apart_by_all_that_is_said(product):
    def said_so(**members):
        body = {"EventType": "VideoAnalysisComplete", "VideoId": "v", "Status": "success", **members}
        return body if product == "vod" else {"EventType": "VideoAnalysisComplete", "MessageBody": body}

    assert not plain(said_so(Width=1), product) & plain(said_so(Width=2), product)
    assert plain(said_so(Width=1), product) == plain(said_so(Width=1), product)


def test_progress_may_be_told_any_number_of_times_and_leaves_the_end_alone():
    def state(word, time):
        body = {"JobId": "j", "State": word}
        return {"EventType": "SmartJobComplete", "EventTime": time, "MessageBody": body}

    told = [plain(state("Executing", f"2026-01-02T03:04:0{n}Z"), "ims") for n in range(3)]
    told += [
        plain(state("Created", "2026-01-02T03:04:00Z"), "ims"),
        plain(state("Finished", "2026-01-02T03:05:00Z"), "ims"),
    ]
    assert len(set.union(*told)) == 5
