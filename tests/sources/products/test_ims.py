import json
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.events import DATA_MODELS, EventError
from media_callbacks.model.outputs import (
    AiOutput,
    AnimatedImageOutput,
    AssetOutput,
    FingerprintOutput,
    MediaInfoOutput,
    ProductionOutput,
    ReviewOutput,
    SnapshotOutput,
    TranscodeOutput,
    UploadOutput,
    WorkflowOutput,
)
from media_callbacks.sources.base import Message
from media_callbacks.sources.products import ims
from media_callbacks.sources.products.ims import KINDS

SAMPLES = Path(__file__).parents[2] / "samples" / "ims"
MEDIA = "c3210001a0041a71eda1590674a2ce01"
OTHER = "8e1f0c52a7b34d6990c1d2e3f4a5b602"


def job(number):
    return f"b7d4{number:04d}c9e84f21a06b5d3c2e1f0a99"


def parse(body):
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ims.parse(Message(payload, payload, "signature"))


def sample(name):
    return (SAMPLES / f"{name}.json").read_bytes()


def one(body):
    (completion,) = parse(body).completions
    return completion


# Per sample: kind, outcome, family and id of the key, job id, media id of each completion.
TABLE = {
    "ai_media_audit": [("review", "succeeded", "AIMediaAuditComplete", (job(123),), job(123), MEDIA)],
    "ai_media_dna": [("fingerprint", "succeeded", "AIMediaDNAComplete", (job(125),), job(125), MEDIA)],
    "ai_produce": [("production", "succeeded", "AIProduceComplete", (job(120),), job(120), None)],
    "ai_video_censor": [("review", "failed", "AIVideoCensorComplete", (job(124),), job(124), MEDIA)],
    "ai_video_tag": [("ai", "succeeded", "AIVideoTagComplete", (job(126),), job(126), MEDIA)],
    "attached_media_upload": [
        (
            "upload",
            "succeeded",
            "AttachedMediaUploadComplete",
            ("62cb0000000000000000000000000002", "", "2024-07-25T09:21:36Z"),
            None,
            "62cb0000000000000000000000000002",
        )
    ],
    "batch_produce_media_finished": [
        ("production", "succeeded", "BatchProduceMediaComplete", (job(103),), job(103), None)
    ],
    "create_audit": [("review", "succeeded", "CreateAuditComplete", (MEDIA, "", "2024-07-25T09:21:36Z"), None, MEDIA)],
    "delete_media": [
        ("asset", "succeeded", "DeleteMediaComplete", (MEDIA, "all", "", "2024-07-25T09:21:36Z"), None, MEDIA)
    ],
    "dynamic_image": [("animated_image", "succeeded", "DynamicImageComplete", (job(104),), job(104), None)],
    "dynamic_image_nested": [("animated_image", "failed", "DynamicImageComplete", (job(105),), job(105), None)],
    "file_upload": [
        (
            "upload",
            "succeeded",
            "FileUploadComplete",
            (MEDIA, "http://media.example.com/sv/93ad7c5.mp4", "2022-07-15T08:48:14Z"),
            None,
            MEDIA,
        )
    ],
    "image_upload": [
        (
            "upload",
            "succeeded",
            "ImageUploadComplete",
            ("59bd0000000000000000000000000003", "https://media.example.com/i.jpg", "2024-07-25T09:21:36Z"),
            None,
            "59bd0000000000000000000000000003",
        )
    ],
    "live_record_file": [
        ("upload", "succeeded", "LiveRecordFileCreated", (job(131), "", "", "2024-07-25T09:21:36Z"), job(131), MEDIA)
    ],
    "live_record_task_status": [
        ("notice", "received", "LiveRecordTaskStatus", (job(131), "running", "2024-07-25T09:21:36Z"), job(131), None)
    ],
    "live_snapshot_file": [
        ("snapshot", "succeeded", "LiveSnapshotFileCreated", (job(107), "", "", "2024-07-25T09:21:36Z"), job(107), None)
    ],
    "media_ai_analysis": [("ai", "succeeded", "MediaAiAnalysisComplete", (job(127),), job(127), None)],
    "media_base_change": [
        (
            "asset",
            "succeeded",
            "MediaBaseChangeComplete",
            (MEDIA, "create", "2024-07-25T09:21:36Z", "8163e41f75fea0ee6e7ec9c18539a71b"),
            None,
            MEDIA,
        )
    ],
    "media_convert": [("transcode_task", "succeeded", "MediaConvertComplete", (job(110),), job(110), None)],
    "media_convert_cancelled": [("transcode_task", "cancelled", "MediaConvertComplete", (job(112),), job(112), None)],
    "media_convert_error": [("transcode_task", "failed", "MediaConvertComplete", (job(111),), job(111), None)],
    "media_convert_output": [
        (
            "transcode",
            "succeeded",
            "MediaConvertOutputComplete",
            (job(110), "512ca479f8c64281035c8bee886809d9"),
            job(110),
            None,
        )
    ],
    "media_convert_output_group": [
        (
            "transcode_task",
            "succeeded",
            "MediaConvertOutputGroupComplete",
            (job(110), "543918f26761172d06268b3de9e1113f"),
            job(110),
            None,
        )
    ],
    "produce_media": [("production", "succeeded", "ProduceMediaComplete", (job(101),), job(101), MEDIA)],
    "produce_media_fail": [("production", "failed", "ProduceMediaComplete", (job(102),), job(102), None)],
    "register_media_compact": [
        ("upload", "succeeded", "RegisterMediaComplete", (MEDIA, "2024-07-25T09:21:36Z"), None, MEDIA)
    ],
    "register_stream": [
        ("upload", "succeeded", "RegisterStreamComplete", (MEDIA, "2024-07-25T09:21:36Z"), None, MEDIA)
    ],
    "smart_job": [("production", "succeeded", "SmartJobComplete", (job(121),), job(121), None)],
    "snapshot": [("snapshot", "succeeded", "SnapshotComplete", (job(106),), job(106), None)],
    "stream_upload": [("upload", "succeeded", "StreamUploadComplete", (MEDIA, "2024-07-25T09:21:36Z"), None, MEDIA)],
    "transcode": [("transcode", "succeeded", "TranscodeComplete", (job(108),), job(108), None)],
    "transcode_parent": [("transcode_task", "succeeded", "TranscodeParentComplete", (job(109),), job(109), None)],
    "unknown_type": [("notice", "received", "SomethingNewComplete", ("e8bfe9299f1d3158ed6cb3cdee59e791",), None, None)],
    "upload_by_url": [("upload", "succeeded", "UploadByURLComplete", (job(128),), job(128), MEDIA)],
    "upload_by_url_fail": [("upload", "failed", "UploadByURLComplete", (job(129),), job(129), None)],
    "upload_stream_by_url": [("upload", "succeeded", "UploadStreamByURLComplete", (job(130),), job(130), None)],
    "video_analysis": [
        ("media_info", "succeeded", "VideoAnalysisComplete", (MEDIA, "2024-07-25T09:21:36Z"), None, MEDIA)
    ],
    "workflow_task": [("workflow", "succeeded", "WorkflowTaskComplete", (job(113),), job(113), None)],
}


@pytest.mark.parametrize("name", TABLE)
def test_what_the_envelope_says(name):
    body = json.loads(sample(name))
    completion = one(sample(name))
    assert completion.vendor_event == body["EventType"]
    assert completion.occurred_at == datetime.fromisoformat(body["EventTime"])


def test_every_sample_has_a_row():
    assert {path.stem for path in SAMPLES.glob("*.json")} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_sample(name):
    parsed = parse(sample(name))
    assert [(c.kind, c.outcome, c.family, c.id, c.job_id, c.media_id) for c in parsed.completions] == TABLE[name]
    assert parsed.warnings == ()


@pytest.mark.parametrize("name", TABLE)
def test_what_every_completion_keeps(name):
    """Outputs are those of the kind; a failure has an error and no outputs, a success no error, a notice neither."""
    for completion in parse(sample(name)).completions:
        model = DATA_MODELS[completion.kind]
        annotation = get_args(model.model_fields["outputs"].annotation)
        assert all(isinstance(output, annotation[0]) for output in completion.outputs)
        assert (completion.error is not None) == (completion.outcome in ("failed", "partial"))
        assert not (completion.outputs and completion.outcome in ("failed", "received", "cancelled"))


def message(event_type, body, time="2024-07-25T09:21:36Z"):
    return {"EventType": event_type, "UserId": 1234567890123456, "EventTime": time, "MessageBody": body}


@pytest.mark.parametrize(
    "name, output",
    [
        (
            "file_upload",
            UploadOutput(url="http://media.example.com/sv/93ad7c5.mp4", size_bytes=5510872, media_type="video"),
        ),
        (
            "produce_media",
            ProductionOutput(
                url="https://media.example.com/out/edit.mp4",
                media_id=MEDIA,
                project_id="aded0000000000000000000000000001",
            ),
        ),
        ("dynamic_image", AnimatedImageOutput(url="http://media.example.com/output.gif", format="gif")),
        (
            "snapshot",
            SnapshotOutput(
                url_template="http://media.example.com/snap/{Count}.jpg",
                count=3,
                urls=tuple(f"http://media.example.com/snap/0000{n}.jpg" for n in (1, 2, 3)),
                snapshot_type="normal",
            ),
        ),
        ("transcode", TranscodeOutput(url="http://media.example.com/out/hd.mp4", format="mp4")),
        (
            "video_analysis",
            MediaInfoOutput(width=1280, height=720, fps=24.0, bitrate_kbps=1452.0, duration_s=52.2, size_bytes=9486668),
        ),
        ("ai_media_audit", ReviewOutput(suggestion="block", label="ad")),
        ("create_audit", ReviewOutput(suggestion="pass", reviewer="author")),
        ("ai_media_dna", FingerprintOutput(primary_key=OTHER, similarity=0.5)),
        ("ai_video_tag", AiOutput(result={"Keyword": []})),
        (
            "workflow_task",
            WorkflowOutput(
                name="Transcode_1", type="Transcode", job_id=job(115), outcome="succeeded", result={"JobId": job(115)}
            ),
        ),
        ("delete_media", AssetOutput(operation="delete", media_type="video", scope="all")),
        ("media_base_change", AssetOutput(operation="create", media_type="video")),
    ],
)
def test_output(name, output):
    assert one(sample(name)).outputs == (output,)


def test_success_has_no_error_whatever_code_stands_beside_it():
    completion = one(sample("dynamic_image"))
    assert (completion.outcome, completion.error) == ("succeeded", None)
    assert completion.user_data == '{"sampleParam": "sampleValue"}'


@pytest.mark.parametrize(
    "name, error",
    [
        ("produce_media_fail", EventError(code="InvalidParameter", message="bad timeline", retryable=False)),
        ("media_convert_error", EventError(code="Throttling.User", message="too many", retryable=True)),
        ("upload_by_url_fail", EventError(code="ResourceNotFound", message="gone", retryable=False)),
        ("ai_video_censor", EventError(code=None, message=None, retryable=None)),
    ],
)
def test_error(name, error):
    assert one(sample(name)).error == error


def test_time_and_vendor_event():
    completion = one(sample("register_media_compact"))
    assert completion.occurred_at == datetime(2024, 7, 25, 9, 21, 36, tzinfo=UTC)
    assert completion.vendor_event == "RegisterMediaComplete"


@pytest.mark.parametrize(
    "body, job_id",
    [
        ({"JobId": "j", "TaskId": "t", "ParentJobId": "p"}, "j"),
        ({"TaskId": "t", "ParentJobId": "p"}, "t"),
        ({"ParentJobId": "p"}, "p"),
        ({"JobId": " ", "Job": {"JobId": "\tj\n"}}, "j"),
        ({"A": {"Name": "x"}, "SnapshotJob": {"ParentJobId": "p", "TaskId": "t"}}, "t"),
        ({"UserData": {"JobId": "the submitter's own"}}, None),
        ({"JobId": 17}, "17"),
    ],
)
def test_the_job_id_is_the_first_of_three_names_then_one_level_down(body, job_id):
    assert one(message("SnapshotComplete", body)).job_id == job_id


def test_the_job_id_of_a_workflow_is_its_task_id():
    assert one(message("WorkflowTaskComplete", {"JobId": "j", "TaskId": "t"})).id == ("t",)


def test_the_job_id_of_a_refresh_and_its_key():
    completion = one(message("SubmitMediaRefreshComplete", {"MediaRefreshJobId": "r", "MediaId": "m", "JobId": "j"}))
    assert (completion.kind, completion.job_id, completion.id) == ("asset", "r", ("r", "m"))


@pytest.mark.parametrize(
    "state, outcome",
    [
        ({"Status": "Fail", "State": "Complete"}, "failed"),
        ({"State": "Complete"}, "succeeded"),
        ({"X": {"State": "Error"}}, "failed"),
    ],
)
def test_the_status_is_the_first_of_two_names_then_one_level_down(state, outcome):
    assert one(message("SnapshotComplete", {"JobId": "j"} | state)).outcome == outcome


def test_parents_children_and_siblings_have_keys_of_their_own():
    names = ["media_convert", "media_convert_output", "media_convert_output_group"]
    keys = {one(sample(name)).key("ims", "default").digest() for name in names}
    body = json.loads(sample("media_convert_output"))
    body["MessageBody"]["Name"] = "out-2"
    keys.add(one(body).key("ims", "default").digest())
    assert len(keys) == 4


def test_the_hash_of_an_output_does_not_depend_on_order():
    body = json.loads(sample("media_convert_output"))
    body["MessageBody"] = dict(reversed(body["MessageBody"].items()))
    assert one(body).id == one(sample("media_convert_output")).id


@pytest.mark.parametrize("event_type", sorted(KINDS))
def test_a_missing_status_is_success_for_uploads_alone(event_type):
    kind, created = KINDS[event_type], event_type == "LiveSnapshotFileCreated"
    completion = one(message(event_type, {"JobId": "j", "MediaId": "m"}))
    expected = "received" if kind == "notice" else "succeeded" if kind == "upload" or created else "unknown"
    assert (completion.kind, completion.outcome) == (kind, expected)


def test_catalogue():
    """The kinds that the contract gives to each type of message."""
    assert {kind: sorted(name for name in KINDS if KINDS[name] == kind) for kind in sorted(set(KINDS.values()))} == {
        "ai": ["AIVideoTagComplete", "MediaAiAnalysisComplete"],
        "animated_image": ["DynamicImageComplete"],
        "asset": [
            "DeleteMediaComplete",
            "MediaBaseChangeComplete",
            "RestoreMediaComplete",
            "SubmitMediaRefreshComplete",
            "UpdateMediaStorageClassComplete",
        ],
        "fingerprint": ["AIMediaDNAComplete"],
        "media_info": ["VideoAnalysisComplete"],
        "notice": ["LiveRecordTaskStatus", "LiveRecordVideoComposeStart"],
        "production": [
            "AIProduceComplete",
            "BatchProduceMediaComplete",
            "ProduceMediaComplete",
            "SmartJobComplete",
        ],
        "review": ["AIMediaAuditComplete", "AIVideoCensorComplete", "CreateAuditComplete"],
        "snapshot": ["LiveSnapshotFileCreated", "SnapshotComplete"],
        "transcode": ["MediaConvertOutputComplete", "TranscodeComplete"],
        "transcode_task": ["MediaConvertComplete", "MediaConvertOutputGroupComplete", "TranscodeParentComplete"],
        "upload": [
            "AddLiveRecordVideoComplete",
            "AttachedMediaUploadComplete",
            "FileUploadComplete",
            "ImageUploadComplete",
            "LiveRecordFileCreated",
            "RegisterMediaComplete",
            "RegisterStreamComplete",
            "StreamUploadComplete",
            "UploadByURLComplete",
            "UploadStreamByURLComplete",
        ],
        "workflow": ["WorkflowTaskComplete"],
    }


def test_ai_events_that_no_page_lists():
    assert one(message("AISomethingNewComplete", {"JobId": "j", "Status": "Success"})).kind == "ai"


def test_progress_is_a_notice_that_leaves_the_key_of_the_job_free():
    started = one(message("MediaConvertComplete", {"JobId": "j", "State": "Running"}))
    ended = one(message("MediaConvertComplete", {"JobId": "j", "State": "Complete"}))
    assert (started.kind, started.outcome) == ("notice", "received")
    assert started.family == ended.family
    assert started.id != ended.id


def test_a_recording_tells_its_status_many_times():
    first = one(message("LiveRecordTaskStatus", {"JobId": "j", "Status": "Started"}))
    second = one(message("LiveRecordTaskStatus", {"JobId": "j", "Status": "Paused"}))
    assert (first.kind, first.outcome) == ("notice", "received")
    assert first.id != second.id


def test_a_body_that_is_a_string_of_json():
    body = json.loads(sample("dynamic_image"))
    assert parse(body | {"MessageBody": json.dumps(body["MessageBody"])}) == parse(body)


@pytest.mark.parametrize(
    "body, problem",
    [
        ({"MessageBody": {}}, "EventType"),
        ({"EventType": "DynamicImageComplete", "JobId": "flat"}, "VOD"),
        ({"EventType": "DynamicImageComplete", "MessageBody": "text"}, "MessageBody"),
        ({"EventType": "FileUploadComplete", "MessageBody": {}}, "members of FileUploadComplete in MessageBody"),
        ({"EventType": "FileUploadComplete", "MessageBody": "{}"}, "members of FileUploadComplete in MessageBody"),
        ({"EventType": "FileUploadComplete", "MessageBody": {"Unknown": 1}}, "in MessageBody"),
        ({"EventType": "TranscodeComplete", "MessageBody": {"StreamInfos": [{}]}}, "in MessageBody"),
        (b"null", "JSON object"),
    ],
)
def test_unparseable(body, problem):
    with pytest.raises(Unparseable, match=problem):
        parse(body)


@pytest.mark.parametrize("body", [{}, {"Unknown": 1}])
def test_of_a_type_that_nobody_knows_nothing_need_be_read(body):
    assert one(message("SomethingNewComplete", body)).outcome == "received"


@pytest.mark.parametrize(
    "event_type, operation",
    [
        ("DeleteMediaComplete", "delete"),
        ("UpdateMediaStorageClassComplete", "archive"),
        ("RestoreMediaComplete", "restore"),
    ],
)
def test_operation(event_type, operation):
    completion = one(message(event_type, {"MediaId": "m", "Status": "Success"}))
    assert [output.operation for output in completion.outputs] == [operation]


def test_a_refresh_without_an_id_of_its_own():
    completion = one(message("SubmitMediaRefreshComplete", {"JobId": "j", "TaskType": "Preload", "Status": "Success"}))
    assert (completion.job_id, completion.id) == ("j", ("j", ""))
    assert completion.outputs[0].operation == "preload"


@pytest.mark.parametrize("name", ["OutputUrl", "FileURL"])
@pytest.mark.parametrize("event_type", ["DynamicImageComplete", "SnapshotComplete", "TranscodeComplete"])
def test_names_of_the_url(event_type, name):
    url = "http://media.example.com/a.webp"
    (output,) = one(message(event_type, {"JobId": "j", "Status": "Success", name: url})).outputs
    assert url in (getattr(output, "url", None), getattr(output, "url_template", None))


def test_more_names_of_the_url():
    body = {"JobId": "j", "Status": "Success"}
    transcode = one(message("TranscodeComplete", body | {"MediaURL": "http://media.example.com/a.mp4"}))
    snapshot = one(message("SnapshotComplete", body | {"SnapshotRegular": "http://media.example.com/{Count}.jpg"}))
    image = one(message("DynamicImageComplete", body | {"DynamicImageJobInfo": {"FileURL": "http://m/a.gif"}}))
    assert transcode.outputs[0].url == "http://media.example.com/a.mp4"
    assert snapshot.outputs == (SnapshotOutput(url_template="http://media.example.com/{Count}.jpg"),)
    assert image.outputs == (AnimatedImageOutput(url="http://m/a.gif", format="gif"),)


def test_a_count_without_url():
    completion = one(message("SnapshotComplete", {"JobId": "j", "Status": "Success", "Count": "2"}))
    assert completion.outputs == (SnapshotOutput(count=2),)


@pytest.mark.parametrize("event_type", ["DynamicImageComplete", "SnapshotComplete", "TranscodeComplete"])
def test_no_url_no_output(event_type):
    assert one(message(event_type, {"JobId": "j", "Status": "Success"})).outputs == ()


@pytest.mark.parametrize(
    "body, identity, media_id",
    [
        ({"MediaId": "m", "VideoId": "v"}, ("m", "", "T"), "m"),
        ({"VideoId": "v"}, ("v", "", "T"), "v"),
        ({"ImageId": "i"}, ("i", "", "T"), "i"),
        ({"AttachedMediaId": "a"}, ("a", "", "T"), "a"),
    ],
)
def test_without_job_id_the_media_id_and_the_time_are_the_key(body, identity, media_id):
    completion = one(message("FileUploadComplete", body, time="T"))
    assert (completion.id, completion.media_id, completion.occurred_at) == (identity, media_id, None)


def test_without_any_id_the_content_is_the_key():
    first, again, other = (
        one(message("AIProduceComplete", {"Status": status}, time="T")) for status in ("Success", "Success", "Fail")
    )
    assert first.id == again.id != other.id
    assert len(first.id[0]) == 32


@pytest.mark.parametrize("user_data", ["", " x ", '{"NotifyAddress":"https://callbacks.example.com"}'])
def test_user_data_is_unchanged(user_data):
    assert one(message("SnapshotComplete", {"JobId": "j", "UserData": user_data})).user_data == user_data


@pytest.mark.parametrize(
    "code, retryable",
    [
        ("InvalidParameter.X", False),
        ("ResourceNotFound", False),
        ("Throttling", True),
        ("TransientNetWorkError", True),
        ("NeverSeen", None),
    ],
)
def test_whether_it_is_worth_trying_again(code, retryable):
    assert one(message("SnapshotComplete", {"JobId": "j", "Status": "Fail", "Code": code})).error.retryable is retryable


def test_a_workflow_without_task_id():
    assert one(message("WorkflowTaskComplete", {"JobId": "j"})).job_id == "j"
