"""The simulator says everything that the parsers know, and docs/reference/messages.md lists it."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from media_callbacks.__main__ import main
from media_callbacks.commands.simulate import override_field
from media_callbacks.model.events import parse_event
from media_callbacks.rehearsal.payloads import WITHOUT_FAILURE
from media_callbacks.rehearsal.simulate import PAYLOADS, set_field
from media_callbacks.sources.base import Completion, Message
from media_callbacks.sources.intake import build_event
from media_callbacks.sources.products import ims, mts, multimediaai, vod
from media_callbacks.sources.products.vod_catalogue import EVENT_TYPES
from tests.factories.contracts import check_event
from tests.reference import message_tables
from tests.reference.message_tables import JOB, NONCE, NOT_MEMBERS, NOW, TYPE, WORD, Row, find_word

JOB_ID, MINTED = "3af7e9705cb24c0f9d23231d4c371900", "000102030405060708090a0b"
PARSERS = {"vod": vod.parse, "ims": ims.parse, "mts": mts.parse, "multimediaai": multimediaai.parse}
TRANSPORTS = {"vod": "http", "ims": "http", "mts": "mns-push", "multimediaai": "token-url"}
EVENTS = [(product, event) for product, events in PAYLOADS.items() for event in events]
UPLOADS = (
    "FileUpload ImageUpload AttachedMediaUpload UploadByURL AddLiveRecordVideo RegisterMedia "
    "UploadStreamByURL StreamUpload RegisterStream"
)

# What the documents name, by kind: written down here and not taken from the parsers.
SHARED = {
    "animated_image": ["DynamicImageComplete"],
    "snapshot": ["SnapshotComplete", "LiveSnapshotFileCreated"],
    "media_info": ["VideoAnalysisComplete"],
    "workflow": ["WorkflowTaskComplete"],
    "production": ["ProduceMediaComplete", "BatchProduceMediaComplete", "AIProduceComplete", "SmartJobComplete"],
    "review": ["AIMediaAuditComplete", "AIVideoCensorComplete", "CreateAuditComplete"],
    "fingerprint": ["AIMediaDNAComplete"],
    "ai": ["AIVideoTagComplete", "MediaAiAnalysisComplete"],
    "upload": [*(f"{name}Complete" for name in UPLOADS.split()), "LiveRecordFileCreated"],
    "asset": [
        "DeleteMediaComplete",
        "MediaBaseChangeComplete",
        "UpdateMediaStorageClassComplete",
        "RestoreMediaComplete",
        "SubmitMediaRefreshComplete",
    ],
    "notice": ["LiveRecordVideoComposeStart", "LiveRecordTaskStatus"],
}
OWN = {
    "vod": {"transcode": ["StreamTranscodeComplete"], "transcode_task": ["TranscodeComplete"]},
    "ims": {
        "transcode": ["TranscodeComplete", "MediaConvertOutputComplete"],
        "transcode_task": ["TranscodeParentComplete", "MediaConvertComplete", "MediaConvertOutputGroupComplete"],
    },
    "mts": {
        "snapshot": ["Snapshot"],
        "transcode": ["Transcode"],
        "media_info": ["MediaInfo"],
        "analysis": ["Analysis"],
        "workflow": ["Report"],
        "production": ["IProduction", "TextToSpeech"],
        "review": ["MediaCensor"],
        "fingerprint": ["FpShot"],
        "ai": ["smarttag"],
        "notice": ["Start"],
    },
    "multimediaai": {"animated_image": ["CreateGifTask"]},
}
KINDS = {
    product: {
        event: kind
        for table in ([SHARED, own] if product in ("vod", "ims") else [own])
        for kind, events in table.items()
        for event in events
    }
    for product, own in OWN.items()
}
# Documented without a job id; the task of all streams has only theirs.
WITHOUT_JOB = {
    *("FileUploadComplete", "ImageUploadComplete", "AttachedMediaUploadComplete", "AddLiveRecordVideoComplete"),
    *("RegisterMediaComplete", "StreamUploadComplete", "RegisterStreamComplete", "LiveRecordVideoComposeStart"),
    *("VideoAnalysisComplete", "CreateAuditComplete", "DeleteMediaComplete", "MediaBaseChangeComplete"),
    *("UpdateMediaStorageClassComplete", "RestoreMediaComplete"),
}
VOD_WITHOUT_JOB = {*WITHOUT_JOB, "ProduceMediaComplete", "TranscodeComplete"}


def read(product: str, payload: Any) -> tuple[Message, tuple[Completion, ...], tuple[str, ...]]:
    body = json.dumps(payload).encode()
    meta = {"nonce": MINTED} if product == "multimediaai" else {}
    message = Message(body, body, "token" if meta else "signature", meta=meta)
    parsed = PARSERS[product](message)
    return message, parsed.completions, parsed.warnings


def main_completion(product: str, payload: Any) -> Completion:
    """The task, the run: after its parts."""
    return read(product, payload)[1][-1]


# The catalogue


def test_the_catalogue_is_what_is_documented_and_what_the_parsers_know():
    assert {product: set(events) for product, events in PAYLOADS.items()} == {
        product: set(events) for product, events in KINDS.items()
    }
    of_several = {"DynamicImageComplete", "SnapshotComplete", "StreamTranscodeComplete", "TranscodeComplete"}
    assert set(PAYLOADS["vod"]) == set(EVENT_TYPES) | of_several
    assert set(PAYLOADS["ims"]) == set(ims.KINDS)
    assert {event.lower() for event in PAYLOADS["mts"]} == set(mts.KINDS) | {"texttospeech", "start", "report"}
    assert set(PAYLOADS["multimediaai"]) == {"CreateGifTask"}
    assert {event for events in KINDS.values() for event, kind in events.items() if kind == "notice"} == WITHOUT_FAILURE


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize(("product", "event"), EVENTS)
def test_every_message_is_read_as_documented_and_gives_valid_events(product, event, failed):
    payload = PAYLOADS[product][event](JOB_ID, NOW, failed)
    message, completions, warnings = read(product, payload)
    assert warnings == ()
    completion = completions[-1]
    kind = KINDS[product][event]
    outcome = "received" if kind == "notice" else "failed" if failed else "succeeded"
    if event == "Report" and failed:
        outcome = "partial"  # one of its activities failed
    assert (completion.kind, completion.outcome) == (kind, outcome)
    assert completion.vendor_event == event
    assert (completion.error is not None) == (failed and kind != "notice")
    if completion.error:
        assert completion.error.code not in (None, "", "0", "Success")
        assert completion.error.message
    if outcome == "failed":
        assert completion.outputs == ()

    source: Any = SimpleNamespace(name="main", product=product, account="default", transport=TRANSPORTS[product])
    for each in completions:
        built = build_event(each, source=source, message=message, received_at=NOW)
        check_event(built.to_json())
        assert parse_event(built.to_json()) == built


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize(("product", "event"), EVENTS)
def test_the_given_job_id_is_the_one_that_is_found(product, event, failed):
    payload = PAYLOADS[product][event](JOB_ID, NOW, failed)
    completion = main_completion(product, payload)
    if product == "multimediaai":
        assert completion.job_id == str(payload["TaskId"])
    elif event in (VOD_WITHOUT_JOB if product == "vod" else WITHOUT_JOB) and not (product == "ims" and failed):
        assert completion.job_id is None
        assert completion.media_id
    elif product == "vod" and event == "SnapshotComplete" and failed:
        assert completion.job_id is None  # which is in SnapshotInfos, which a failure has not
    elif event not in WITHOUT_JOB:
        assert completion.job_id == JOB_ID
    if product == "vod" and event == "TranscodeComplete":
        assert read(product, payload)[1][0].job_id == JOB_ID


@pytest.mark.parametrize(("product", "event"), EVENTS)
def test_jobs_are_told_apart_and_failure_and_success_of_one_are_not(product, event):
    build = PAYLOADS[product][event]
    ids = [main_completion(product, build(job_id, NOW, False)).id for job_id in ("job-1", "job-2")]
    if product != "multimediaai":  # the URL tells those apart
        assert ids[0] != ids[1]
    assert build("job-1", NOW, False) == build("job-1", NOW, False)


@pytest.mark.parametrize(("product", "event"), EVENTS)
def test_only_what_ends_something_can_fail(product, event):
    success, failure = (PAYLOADS[product][event](JOB_ID, NOW, failed) for failed in (False, True))
    assert (success == failure) == (event in WITHOUT_FAILURE)


@pytest.mark.parametrize("event", sorted(set(EVENT_TYPES) - WITHOUT_FAILURE))
def test_what_vod_measured_found_or_made_is_in_the_outputs(event):
    outputs = main_completion("vod", PAYLOADS["vod"][event](JOB_ID, NOW, False)).outputs
    assert outputs
    documented = set(SHARED["upload"]) - {"AddLiveRecordVideoComplete", "LiveRecordFileCreated"}
    if event in documented - {"RegisterMediaComplete", "StreamUploadComplete", "RegisterStreamComplete"}:
        assert any(value is not None for value in outputs[0].model_dump().values())
    if event in ("AIMediaAuditComplete", "AIVideoCensorComplete", "CreateAuditComplete"):
        assert outputs[0].model_dump()["suggestion"] in ("review", "pass", "block")


def test_the_oddities_of_the_documents():
    def vod_payload(event, failed=False):
        return PAYLOADS["vod"][event](JOB_ID, NOW, failed)

    assert vod_payload("ImageUploadComplete")["EventTime"] == "2026-01-02T03:04:05:678Z"
    assert main_completion("vod", vod_payload("ImageUploadComplete")).occurred_at == NOW
    assert {"SourceURL ", "ErrorCode ", "ErrorMessage "} <= set(vod_payload("UploadByURLComplete", failed=True))
    assert vod_payload("VideoAnalysisComplete")["Width"] == "630"
    assert isinstance(vod_payload("WorkflowTaskComplete")["ActivityResults"], str)
    assert vod_payload("AIMediaDNAComplete")["Code"] == "0"
    assert "type" not in {key.lower() for key in PAYLOADS["mts"]["TextToSpeech"](JOB_ID, NOW, False)}
    assert "JobId" not in PAYLOADS["mts"]["FpShot"](JOB_ID, NOW, False)


# Overrides


@pytest.mark.parametrize(
    ("product", "event", "overrides", "kind", "outcome"),
    [
        ("mts", "smarttag", ["State=Processing"], "notice", "received"),
        ("mts", "Transcode", ["State=Fail"], "transcode", "failed"),
        ("mts", "Transcode", ["state=Fail"], "transcode", "failed"),
        ("mts", "TextToSpeech", ["result.Code=InternalError"], "production", "failed"),
        ("mts", "FpShot", ["FpShotJobNotify.State=Fail"], "fingerprint", "failed"),
        ("mts", "Report", ["MediaWorkflowExecution.State=Fail"], "workflow", "failed"),
        ("mts", "Report", ["MediaWorkflowExecution.ActivityList.2.State=Fail"], "workflow", "partial"),
        ("vod", "TranscodeComplete", ["StreamInfos.0.Status=fail"], "transcode_task", "failed"),
        ("vod", "StreamTranscodeComplete", ["Status=odd"], "transcode", "unknown"),
        ("ims", "MediaConvertOutputComplete", ["MessageBody.State=Cancelled"], "transcode", "cancelled"),
        ("multimediaai", "CreateGifTask", ["Status=1"], "notice", "received"),
    ],
)
def test_an_override_is_what_the_parser_reads(product, event, overrides, kind, outcome):
    payload = PAYLOADS[product][event](JOB_ID, NOW, False)
    for override in overrides:
        override_field(payload, override)
    completion = main_completion(product, payload)
    assert (completion.kind, completion.outcome) == (kind, outcome)


def test_an_override_inside_a_string_of_json_leaves_it_a_string():
    payload = PAYLOADS["vod"]["WorkflowTaskComplete"](JOB_ID, NOW, False)
    set_field(payload, "ActivityResults.VideoTranslation_1.Result.JobId", "other")
    assert isinstance(payload["ActivityResults"], str)
    (output,) = main_completion("vod", payload).outputs
    assert output.model_dump()["job_id"] == "other"


def test_overrides_by_path():
    payload: dict[str, Any] = {"a": [{"b": 1}, 2], "c ": 3, "State": "x", "state": "x", "d": "text"}
    set_field(payload, "a.0.b", 10)
    set_field(payload, "a.1", 20)
    set_field(payload, "c", 30)
    set_field(payload, "state", "y")
    set_field(payload, "new.object.member", None)
    set_field(payload, "D", "another member")
    assert payload == {
        "a": [{"b": 10}, 20],
        "c ": 30,
        "State": "y",
        "state": "y",
        "d": "text",
        "new": {"object": {"member": None}},
        "D": "another member",
    }


@pytest.mark.parametrize("path", ["a.2", "a.x", "a.-1", "d.e", "a.1.x", "n.x"])
def test_a_path_through_no_object_is_refused(path):
    with pytest.raises(ValueError, match="there is no object"):
        set_field({"a": [{"b": 1}, 2], "d": "text", "n": 5}, path, 1)


# The command


@pytest.mark.parametrize("product", PAYLOADS)
def test_the_known_messages_are_listed_without_a_configuration(product, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", product, "--list"]) == 0
    table = capsys.readouterr().out
    assert all(event in table for event in PAYLOADS[product])
    assert main(["simulate", product, "--list", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"product": product, "event": event, "can_fail": KINDS[product][event] != "notice"}
        for event in PAYLOADS[product]
    ]


# docs/reference/messages.md


def test_the_table_lists_every_message():
    rows = message_tables.all_rows()
    for product, event in EVENTS:
        assert any((row.product, row.event) == (product, event) for row in rows), event
        assert f"| `{event}`" in message_tables.render()


def locate(row: Row, path: str) -> str:
    return f"MessageBody.{path}" if row.product == "ims" and path != "EventTime" else path


def look_up(payload: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(payload, list):
            payload = payload[int(part)]
        else:
            payload = {key.strip(): value for key, value in (payload or {}).items()}.get(part)
    return payload


def find(row: Row, payload: Any) -> Completion:
    (completion,) = (
        each
        for each in read(row.product, payload)[1]
        if each.kind == row.kind and each.family == (each.vendor_event if row.family == TYPE else row.family)
    )
    return completion


@pytest.mark.parametrize("row", message_tables.all_rows(), ids=lambda row: f"{row.product}-{row.event}-{row.part}")
def test_a_row_of_the_table_is_what_the_parser_does(row):
    payload = row.payload(failed=row.part == "without any")
    # Nothing that an id is made of may be missing, or the empty text would stand for every name.
    for path in {path for parts in row.ids for path in parts if path not in NOT_MEMBERS}:
        if look_up(payload, locate(row, path)) is None:
            set_field(payload, locate(row, path), f"some {path}")
    if row.job and find(row, payload).job_id is None:
        set_field(payload, locate(row, row.job[0]), JOB_ID)
    job_id = find(row, payload).job_id
    found = [look_up(payload, locate(row, path)) for path in row.job]
    assert job_id == next((str(each) for each in found if each is not None), None)

    for number, parts in enumerate(row.ids):
        if number:
            # What the first id needs is gone.
            for path in row.job or row.ids[0][-1:]:
                set_field(payload, locate(row, path), None)
        known = {JOB: job_id, NONCE: MINTED}
        if WORD in parts:
            known[WORD] = find_word(payload).lower()
        found = list(find(row, payload).id)
        if JOB not in parts and found[0] == job_id:
            # By which an occurrence is looked for.
            found = found[1:]
        assert len(found) == len(parts)
        for part, text in zip(parts, found, strict=True):
            if part in NOT_MEMBERS and part not in known:
                assert len(bytes.fromhex(text)) == 16
            else:
                assert text == (known[part] if part in known else look_up(payload, locate(row, part)))
