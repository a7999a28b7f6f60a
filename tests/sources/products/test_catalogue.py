"""What really comes, beyond the documents: after the vendor's SDKs, its job APIs and what public receivers log."""

import base64
import json
import textwrap
from datetime import UTC, datetime

import pytest

from media_callbacks.sources.base import Message
from media_callbacks.sources.products import ims, mts, vod
from media_callbacks.sources.transports.mns import open_envelope, parse_publish_time, read_payload

PARSERS = {"vod": vod.parse, "ims": ims.parse, "mts": mts.parse}
TIME = "2026-03-02T08:00:00Z"


def parse(product, message):
    body = json.dumps(message).encode()
    parsed = PARSERS[product](Message(body, body, "signature"))
    assert parsed.warnings == ()
    return parsed.completions


def envelope(event_type, body, **members):
    return {"EventType": event_type, "UserId": 1234567890123456, "EventTime": TIME, "MessageBody": body} | members


def told(completion):
    return completion.kind, completion.outcome, completion.job_id


# Bodies of VOD in the envelope of IMS


def test_streams_of_vod_in_an_envelope_give_an_event_each():
    streams = [
        {"JobId": "a", "Status": "success", "Definition": "HD", "FileUrl": "http://m/a.mp4", "Bitrate": "925"},
        {"JobId": "b", "Status": "fail", "ErrorCode": "InvalidParameter.NoAudioStream"},
    ]
    body = {"VideoId": "v", "Status": "success", "StreamInfos": streams, "Extend": "order-1"}
    *found, task = parse("ims", envelope("TranscodeComplete", body))
    assert [told(stream) for stream in found] == [("transcode", "succeeded", "a"), ("transcode", "failed", "b")]
    assert told(task) == ("transcode_task", "partial", None)
    assert {completion.user_data for completion in (*found, task)} == {"order-1"}
    (alone,) = parse("ims", envelope("StreamTranscodeComplete", {"VideoId": "v", **streams[0]}))
    assert alone.key("ims", "a") == found[0].key("ims", "a")


@pytest.mark.parametrize("product", ["vod", "ims"])
def test_a_single_stream_that_is_wrapped_without_its_list(product):
    body = {"VideoId": "v", "Status": "success", "StreamInfos": {"StreamInfo": {"JobId": "a", "Status": "fail"}}}
    stream, task = parse(product, dict(in_both_products("TranscodeComplete", body))[product])
    assert told(stream) == ("transcode", "failed", "a")
    assert told(task) == ("transcode_task", "failed", None)


def test_snapshots_of_a_workflow_in_an_envelope_without_elements():
    body = {"Status": "success", "VideoId": "v", "EventType": "SnapshotComplete", "EventTime": TIME}
    (found,) = parse("ims", {"RequestId": "r", "EventType": "SnapshotComplete", "UserId": 1, "MessageBody": body})
    assert told(found) == ("snapshot", "succeeded", None)
    assert (found.media_id, found.occurred_at) == ("v", datetime(2026, 3, 2, 8, tzinfo=UTC))


def test_an_animated_image_of_vod_in_an_envelope():
    info = json.dumps({"JobId": "j", "FileURL": "http://m/a.webp", "Fps": "10", "FileSize": "7", "Status": "success"})
    (found,) = parse("ims", envelope("DynamicImageComplete", {"VideoId": "v", "DynamicImageJobInfo": info}))
    assert told(found) == ("animated_image", "succeeded", "j")
    assert (found.outputs[0].url, found.outputs[0].format, found.outputs[0].fps) == ("http://m/a.webp", "webp", 10.0)


def test_a_refresh_of_vod_in_an_envelope():
    body = {
        "MediaRefreshJobId": "r",
        "MediaId": "m",
        "Status": "success",
        "TaskType": "Preload",
        "SuccessPlayUrls": "u,w",
    }
    (found,) = parse("ims", envelope("SubmitMediaRefreshComplete", body))
    assert (found.id, found.outputs[0].operation, found.outputs[0].urls) == (("r", "m"), "preload", ("u", "w"))


# Pictures


@pytest.mark.parametrize("product", ["vod", "ims"])
@pytest.mark.parametrize(
    ("members", "urls"),
    [
        ({"Snapshots": ["http://m/1.jpg", "http://m/2.jpg"]}, ("http://m/1.jpg", "http://m/2.jpg")),
        ({"Snapshots": '["http://m/1.jpg"]'}, ("http://m/1.jpg",)),
        ({"CoverUrl": "http://m/c.jpg"}, ("http://m/c.jpg",)),
        ({"SnapshotInfos": {}, "Snapshots": ["http://m/1.jpg"]}, ("http://m/1.jpg",)),
        (
            {"SnapshotInfos": [{"JobId": "j", "SnapshotType": "CoverSnapshot"}], "CoverUrl": "http://m/c.jpg"},
            ("http://m/c.jpg",),
        ),
        ({"SnapshotInfos": [{"JobId": "j"}], "Snapshots": ["http://m/1.jpg"]}, ("http://m/1.jpg",)),
    ],
)
def test_pictures_that_stand_beside_the_elements(product, members, urls):
    body = {"VideoId": "v", "Status": "success", **members}
    message = envelope("SnapshotComplete", body) if product == "ims" else {"EventType": "SnapshotComplete", **body}
    (found,) = parse(product, message)
    assert found.outputs[0].urls == urls


def snapshots(*sorts):
    return [
        {
            "JobId": "j",
            "SnapshotType": sort,
            "Status": "success",
            "SnapshotCount": n,
            "SnapshotRegular": "http://m/{SnapshotCount}",
        }
        for n, sort in enumerate(sorts, 1)
    ]


def snapshot_ids(*sorts):
    body = {"VideoId": "v", "Status": "success", "SnapshotInfos": snapshots(*sorts)}
    found = {product: parse(product, message) for product, message in in_both_products("SnapshotComplete", body)}
    ids = [completion.id for completion in found["vod"]]
    assert [completion.id for completion in found["ims"]] == ids
    return ids


def in_both_products(event_type, body):
    return ("vod", {"EventType": event_type, **body}), ("ims", envelope(event_type, body))


SPRITES = ("SpriteSnapshot", "SpriteOriginSnapshot", "WebVttSnapshot")


def test_a_sprite_and_its_originals_are_of_one_job():
    message = {"EventType": "SnapshotComplete", "VideoId": "v", "SnapshotInfos": snapshots(*SPRITES)}
    found = parse("vod", message)
    assert [completion.id for completion in found] == [("j",), ("j", "spriteorigin"), ("j", "webvtt")]
    assert [completion.outputs[0].snapshot_type for completion in found] == ["sprite", "spriteorigin", "webvtt"]


@pytest.mark.parametrize(
    ("sort", "identity"),
    [
        ("CoverSnapshot", ("j",)),
        ("NormalSnapshot", ("j",)),
        ("SpriteSnapshot", ("j",)),
        ("spritesnapshot", ("j",)),
        ("sprite", ("j",)),
        ("Snapshot", ("j",)),
        ("", ("j",)),
        (None, ("j",)),
        ("SpriteOriginSnapshot", ("j", "spriteorigin")),
        ("WebVttSnapshot", ("j", "webvtt")),
        ("NewSnapshot", ("j", "new")),
    ],
)
def test_the_id_of_a_snapshot_depends_on_its_sort_and_on_nothing_beside_it(sort, identity):
    assert snapshot_ids(sort) == [identity]
    for neighbour in ("SpriteOriginSnapshot", "WebVttSnapshot"):
        assert snapshot_ids(sort, neighbour)[0] == snapshot_ids(neighbour, sort)[1] == identity


def test_two_sorts_in_one_message_are_two_events_whichever_they_are():
    """Nobody has seen one job leave these together; lost they must not be."""
    assert snapshot_ids("CoverSnapshot", "NormalSnapshot") == [("j",), ("j", "normal")]
    assert snapshot_ids("NormalSnapshot", "CoverSnapshot", "NormalSnapshot") == [("j",), ("j", "cover"), ("j",)]


def test_a_live_picture_by_its_place_in_the_bucket():
    place = {"OssBucket": "b", "OssEndpoint": "oss-cn-shanghai.aliyuncs.com", "OssObject": "snapshot/1.jpg"}
    body = {"JobId": "j", "CreateTimestamp": 1660638613798, "IsOverlay": False, **place}
    message = json.dumps(envelope("LiveSnapshotFileCreated", body)).encode()
    (found,) = ims.parse(Message(message, message, "signature")).completions
    assert told(found) == ("snapshot", "succeeded", "j")
    assert found.outputs[0].model_dump()["urls"] == ("http://b.oss-cn-shanghai.aliyuncs.com/snapshot/1.jpg",)


# A whole and its parts


def convert_output(status, **members):
    return {"TaskId": f"t-{status}", "Name": "o", "Status": status, **members}


MADE = {
    "Result": {
        "OutputFile": {"Type": "OSS", "Url": "http://m/o.mp4"},
        "OutFileMeta": {
            "FileBasicInfo": {"FileSize": "7", "Width": "1280", "Height": "720", "Duration": "9.5", "Bitrate": "900"},
            "VideoStreamInfoList": [{"Fps": "25"}],
        },
    }
}


@pytest.mark.parametrize(
    ("state", "members", "outcome"),
    [
        ("Complete", {"OutputDetails": [convert_output("Success"), convert_output("Success")]}, "succeeded"),
        ("Complete", {"OutputDetails": [convert_output("Success"), convert_output("Failed")]}, "partial"),
        ("Complete", {"OutputDetails": [convert_output("Failed")]}, "failed"),
        ("Complete", {"OutputDetails": [convert_output("Success"), convert_output("Skipped")]}, "succeeded"),
        (
            "Complete",
            {"OutputGroupDetails": [{"Name": "g", "Outputs": [convert_output("Failed"), convert_output("Success")]}]},
            "partial",
        ),
        ("Complete", {"OutputGroupDetails": [{"Name": "g", "Status": "Failed"}]}, "failed"),
        ("Complete", {"OutputDetails": [{"x": 1}, {}]}, "succeeded"),
        ("Complete", {"OutputDetails": {}}, "succeeded"),
        ("Error", {"OutputDetails": [convert_output("Success")]}, "partial"),
        ("Running", {"OutputDetails": [convert_output("Success")]}, "received"),
        ("Cancelled", {"OutputDetails": [convert_output("Success")]}, "cancelled"),
    ],
)
def test_a_conversion_ends_as_its_outputs_do(state, members, outcome):
    (found,) = parse("ims", envelope("MediaConvertComplete", {"JobId": "j", "State": state, **members}))
    assert found.outcome == outcome


def whole(event_type, name, body):
    """Of the body one level down, as in the replies of the job API: what of the body itself."""
    (flat,), (inside,) = (parse("ims", envelope(event_type, told)) for told in (body, {name: body}))
    assert inside == flat
    return inside


@pytest.mark.parametrize(
    ("event_type", "name", "body", "outcome"),
    [
        (
            "MediaConvertComplete",
            "Job",
            {"JobId": "j", "State": "Complete", "OutputDetails": [convert_output("Failed"), convert_output("Success")]},
            "partial",
        ),
        ("MediaConvertComplete", "Job", {"JobId": "j", "OutputDetails": [convert_output("Failed")]}, "failed"),
        (
            "TranscodeParentComplete",
            "TranscodeParentJob",
            {"ParentJobId": "j", "Status": "Success", "TranscodeJobList": [{"JobId": "a", "Status": "Fail"}]},
            "failed",
        ),
        (
            "BatchProduceMediaComplete",
            "EditingBatchJob",
            {"JobId": "j", "Status": "Finished", "UserData": "", "SubJobList": [{"Status": "Failed"}]},
            "failed",
        ),
        (
            "WorkflowTaskComplete",
            "WorkflowTask",
            {"TaskId": "j", "Status": "Succeed", "ActivityResults": '{"n": {"Status": "Failed"}}'},
            "partial",
        ),
        (
            "DynamicImageComplete",
            "DynamicImageJob",
            {"JobId": "j", "Status": "Success", "OutputUrl": "http://m/a.gif", "UserData": " u "},
            "succeeded",
        ),
        (
            "SnapshotComplete",
            "SnapshotJob",
            {"JobId": "j", "Status": "Success", "Count": 0, "OutputUrl": "http://m/a.jpg", "Type": "Normal"},
            "succeeded",
        ),
    ],
)
def test_a_body_that_stands_one_level_down(event_type, name, body, outcome):
    found = whole(event_type, name, body)
    assert (found.outcome, found.job_id, found.user_data) == (outcome, "j", body.get("UserData"))
    assert bool(found.outputs) == (outcome in ("succeeded", "partial") and "OutputDetails" not in body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # Outside counts what the inner one lacks.
        ({"UserData": "out", "MediaId": "m", "Job": {"JobId": "j", "Status": "Success", "MediaId": ""}}, ("j", "succeeded", "m", "out", None)),
        ({"UserData": "out", "Job": {"JobId": "j", "Status": "Success", "UserData": "in", "OutputUrl": "u"}}, ("j", "succeeded", None, "in", "u")),
        # The one that says both, whichever comes first.
        ({"Of": {"JobId": "other"}, "Job": {"JobId": "j", "Status": "Fail", "MediaId": "m"}}, ("j", "failed", "m", None, None)),
        ({"Job": {"JobId": "j", "OutputUrl": "u"}, "End": {"State": "Success"}}, ("j", "succeeded", None, None, "u")),
        # None where two may be it, or where the body says one of the two itself.
        ({"A": {"JobId": "j", "Status": "Success", "OutputUrl": "u"}, "B": {"JobId": "k", "Status": "Fail"}}, ("j", "succeeded", None, None, None)),
        ({"Status": "Success", "Job": {"JobId": "j", "OutputUrl": "u"}}, ("j", "succeeded", None, None, None)),
        ({"JobId": "j", "Job": {"JobId": "k", "Status": "Success", "OutputUrl": "u"}}, ("j", "succeeded", None, None, None)),
        ({"MediaId": "m", "Of": {"Status": "Success", "OutputUrl": "u", "MediaId": "n"}}, (None, "succeeded", "m", None, None)),
        ({"UserData": {"JobId": "k", "Status": "Success"}, "MediaId": "m"}, (None, "unknown", "m", '{"JobId":"k","Status":"Success"}', None)),
    ],
)  # fmt: skip
def test_which_object_is_the_body(body, expected):
    (found,) = parse("ims", envelope("DynamicImageComplete", body))
    url = found.outputs[0].url if found.outputs else None
    assert (found.job_id, found.outcome, found.media_id, found.user_data, url) == expected


def test_what_can_t_be_read_one_level_down_is_noted():
    body = {"Job": {"JobId": "j", "Status": "Success", "OutputUrl": "u", "Width": "wide"}}
    message = json.dumps(envelope("DynamicImageComplete", body)).encode()
    assert ims.parse(Message(message, message, "signature")).warnings == ("MessageBody.job.Width",)


def test_the_outputs_of_a_conversion_and_the_error_of_one():
    failed = convert_output("Failed", Code="InvalidParameter.X", Message="no audio")
    body = {"JobId": "j", "State": "Complete", "OutputDetails": [failed, convert_output("Success", **MADE)]}
    (found,) = parse("ims", envelope("MediaConvertComplete", body))
    (output,) = found.outputs
    assert (output.job_id, output.url, output.format, output.width, output.fps) == (
        "t-Success",
        "http://m/o.mp4",
        "mp4",
        1280,
        25.0,
    )
    assert (output.size_bytes, output.duration_s, output.bitrate_kbps) == (7, 9.5, 900.0)
    assert (found.error.code, found.error.message) == ("InvalidParameter.X", "no audio")


@pytest.mark.parametrize("nothing", [{}, None, {"Url": None}, {"x": 1}])
@pytest.mark.parametrize("name", ["Output", "OutputFile"])
def test_a_file_of_which_nothing_is_said_is_no_output(name, nothing):
    part = {"Status": "Success", **({"Result": {name: nothing}} if name == "OutputFile" else {name: nothing})}
    for event_type, member in (
        ("MediaConvertComplete", "OutputDetails"),
        ("TranscodeParentComplete", "TranscodeJobList"),
    ):
        (found,) = parse("ims", envelope(event_type, {"JobId": "j", "Status": "Success", member: [part]}))
        assert (found.outcome, found.outputs) == ("succeeded", ())
    body = {"JobId": "j", "Status": "Success", "Output": {"Type": "OSS", "Url": "u"}, "Result": {"OutputFile": nothing}}
    (found,) = parse("ims", envelope("MediaConvertOutputComplete", body))
    assert found.outputs[0].url == "u"


@pytest.mark.parametrize(
    ("event_type", "members", "outputs"),
    [
        ("AIMediaAuditComplete", {"Data": {}}, 0),
        ("AIMediaAuditComplete", {"Data": '{"Label": "ad"}'}, 1),
        ("AIMediaDNAComplete", {"Data": {"VideoDNA": [{}, {"PrimaryKey": "p"}]}}, 1),
        ("AIVideoTagComplete", {"Data": "{}", "Result": {"Keyword": []}}, 1),
        ("AIVideoTagComplete", {"Data": {}}, 0),
    ],
)
def test_a_result_of_which_nothing_is_said_is_no_output(event_type, members, outputs):
    for product, message in in_both_products(
        event_type, {"JobId": "j", "MediaId": "m", "Status": "success", **members}
    ):
        (found,) = parse(product, message)
        assert (found.outcome, len(found.outputs)) == ("succeeded", outputs)


def test_a_task_of_a_conversion_has_its_own_id():
    body = {"JobId": "j", "TaskId": "t", "Name": "o", "Status": "Success", **MADE}
    (found,) = parse("ims", envelope("MediaConvertOutputComplete", body))
    assert (found.id, found.job_id, found.outputs[0].job_id) == (("j", "t"), "j", "t")


def test_a_group_ends_as_its_outputs_do():
    body = {
        "JobId": "j",
        "TaskId": "g",
        "Status": "Success",
        "Outputs": [convert_output("Failed"), convert_output("Success", **MADE)],
    }
    (found,) = parse("ims", envelope("MediaConvertOutputGroupComplete", body))
    assert (told(found), len(found.outputs)) == (("transcode_task", "partial", "j"), 1)


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        (["Success", "Success"], "succeeded"),
        (["Success", "Failed"], "partial"),
        (["Failed"], "failed"),
        ([], "succeeded"),
    ],
)
def test_a_batch_ends_as_its_sub_jobs_do(words, outcome):
    subs = [
        {"JobId": f"s{n}", "Status": word, "MediaURL": f"http://m/{n}.mp4", "MediaId": f"m{n}", "Duration": 2.5}
        for n, word in enumerate(words)
    ]
    (found,) = parse(
        "ims", envelope("BatchProduceMediaComplete", {"JobId": "j", "Status": "Finished", "SubJobList": subs})
    )
    assert found.outcome == outcome
    made = [output for output in found.outputs if output.job_id]
    assert [output.job_id for output in made] == [sub["JobId"] for sub in subs if sub["Status"] == "Success"]


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ({"MediaId": "m", "MediaUrl": "http://m/a.mp4", "AiResult": '{"text": "x"}'}, "succeeded"),
        ([{"MediaId": "m", "Status": "Finished"}, {"Status": "Failed"}], "partial"),
        ([{"Status": "Failed"}], "failed"),
        ({}, "succeeded"),
    ],
)
def test_a_smart_job_ends_as_its_results_do(result, outcome):
    (found,) = parse("ims", envelope("SmartJobComplete", {"JobId": "j", "State": "Finished", "JobResult": result}))
    assert found.outcome == outcome
    if outcome == "succeeded" and result:
        assert (found.outputs[0].url, found.outputs[0].result) == ("http://m/a.mp4", {"text": "x"})


def test_a_detail_of_which_nothing_is_said_is_no_part():
    message = {"Type": "IProduction", "JobId": "j", "State": "Success", "Details": [{}, {"Status": "Fail"}]}
    assert parse("mts", message)[0].outcome == "failed"


def test_the_parts_of_an_intelligent_production():
    details = [{"Status": "Success", "Input": "1.jpg", "Output": "o.jpg"}, {"Status": "Fail", "Input": "2.jpg"}]
    message = {
        "Type": "IProduction",
        "JobId": "j",
        "State": "Success",
        "FunctionName": "ImageMatting",
        "Details": details,
    }
    (found,) = parse("mts", message)
    assert (found.outcome, found.outputs[0].result) == ("partial", details)


@pytest.mark.parametrize("product", ["vod", "ims"])
def test_a_workflow_of_which_a_node_failed(product):
    inner = {"EventType": "SnapshotComplete", "MessageBody": {"JobId": "s", "Status": "success"}}
    nodes = {
        "A": {"Status": "Succeed", "Result": json.dumps(inner)},
        "B": {"Status": "Failed", "Result": {"JobId": "b"}},
    }
    body = {"TaskId": "t", "Status": "Succeed", "ActivityResults": json.dumps(nodes)}
    message = (
        envelope("WorkflowTaskComplete", body) if product == "ims" else {"EventType": "WorkflowTaskComplete", **body}
    )
    (found,) = parse(product, message)
    assert told(found) == ("workflow", "partial", "t")
    assert [(node.job_id, node.result) for node in found.outputs] == [("s", inner), ("b", {"JobId": "b"})]


@pytest.mark.parametrize("product", ["vod", "ims"])
@pytest.mark.parametrize("shape", [lambda nodes: nodes, json.dumps, lambda nodes: [json.dumps(node) for node in nodes]])
def test_the_nodes_of_a_workflow_in_a_list(product, shape):
    nodes = [
        {"ActivityInstanceId": "A_1", "ActivityId": "A", "Status": "Succeed"},
        {"ActivityId": "A", "Status": "Succeed"},
        {"ActivityId": "A", "Status": "Failed"},
        {},
        {"Status": "Succeed"},
    ]
    body = {"TaskId": "t", "Status": "Succeed", "ActivityResults": shape(nodes)}
    (found,) = parse(product, dict(in_both_products("WorkflowTaskComplete", body))[product])
    assert told(found) == ("workflow", "partial", "t")
    assert [(node.name, node.outcome) for node in found.outputs] == [
        ("A_1", "succeeded"),
        ("A", "succeeded"),
        ("A[2]", "failed"),
        ("4", "succeeded"),
    ]


# Progress


@pytest.mark.parametrize(
    ("event", "word"),
    [
        ("SmartJobComplete", "Created"),
        ("SmartJobComplete", "Executing"),
        ("AIProduceComplete", "Training"),
        ("MediaConvertComplete", "Inited"),
        ("ProduceMediaComplete", "Queuing"),
    ],
)
def test_words_of_progress_end_nothing(event, word):
    (found,) = parse("ims", envelope(event, {"JobId": "j", "State": word}))
    (ended,) = parse("ims", envelope(event, {"JobId": "j", "State": "Finished"}))
    assert told(found) == ("notice", "received", "j")
    assert (ended.id, found.id) == (("j",), ("j", word.lower(), TIME))


# Times, numbers, base64


def test_the_time_of_completion_where_there_is_no_other():
    body = {"JobId": "j", "Status": "Success", "CompleteTime": "2026-03-02T08:00:05Z"}
    message = envelope("ProduceMediaComplete", body)
    assert parse("ims", message)[0].occurred_at == datetime(2026, 3, 2, 8, tzinfo=UTC)
    del message["EventTime"]
    assert parse("ims", message)[0].occurred_at == datetime(2026, 3, 2, 8, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize("time", ["1772438400", 1772438400000, "1772438400000", 1772438400000.0])
def test_times_as_numbers(time):
    (found,) = parse("vod", {"EventType": "FileUploadComplete", "VideoId": "v", "EventTime": time})
    assert found.occurred_at == datetime(2026, 3, 2, 8, tzinfo=UTC)


@pytest.mark.parametrize("text", ["1658229558094", "1658229558094.0", "1658229558094.000"])
def test_publish_times(text):
    assert parse_publish_time(text) == datetime(2022, 7, 19, 11, 19, 18, 94000, tzinfo=UTC)


def test_a_publish_time_that_is_a_number_with_a_point():
    told = {"TopicOwner": "1", "TopicName": "t", "Message": "{}", "PublishTime": 1658229558094.0}
    found = open_envelope(json.dumps(told).encode())
    assert found is not None
    assert found.published_at == datetime(2022, 7, 19, 11, 19, 18, 94000, tzinfo=UTC)


@pytest.mark.parametrize("width", [60, 64, 76])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_base64_in_lines(width, end):
    message = json.dumps({"Type": "Transcode", "JobId": "j", "State": "Success", "UserData": "x" * 200}).encode()
    body = end.join(textwrap.wrap(base64.b64encode(message).decode(), width)).encode() + end.encode()
    (found,) = mts.parse(Message(body, read_payload(body), "signature")).completions
    assert told(found) == ("transcode", "succeeded", "j")


# Jobs of MTS that no page has a message of


@pytest.mark.parametrize(
    ("job_type", "kind"),
    [
        ("VideoQuality", "ai"),
        ("Editing", "production"),
        ("Complex", "production"),
        ("AsyncFuseJob", "production"),
        ("CopyrightExtract", "ai"),
        ("PornJob", "review"),
        ("VideoSummary", "production"),
        ("Subtitle", "production"),
        ("AIAudioASR", "ai"),
        ("GifJob", "animated_image"),
    ],
)
@pytest.mark.parametrize(("state", "outcome"), [("Success", "succeeded"), ("Fail", "failed")])
def test_jobs_that_end(job_type, kind, state, outcome):
    (found,) = parse("mts", {"Type": job_type, "JobId": "j", "State": state})
    assert told(found) == (kind, outcome, "j")
    assert (found.family, found.id) == (job_type.lower(), ("j",))


def test_what_an_audit_of_quality_found():
    results = {"Freeze": [{"Score": "1", "TimeStamp": "00:00:00.233"}]}
    message = {"Type": "VideoQuality", "JobId": "j", "Status": "Success", "VideoQualityResults": json.dumps(results)}
    (found,) = parse("mts", message)
    assert (found.outcome, found.outputs[0].result) == ("succeeded", results)


# Recordings


def test_a_recording_says_which_and_from_when_to_when():
    body = {
        "JobId": "j",
        "RecordId": "r",
        "RecordUrl": "http://m/1.m3u8",
        "StartTime": "2026-03-02T06:00:00Z",
        "EndTime": "2026-03-02T08:00:00Z",
        "Duration": 7200.5,
        "Format": "m3u8",
    }
    (found,) = parse("ims", envelope("LiveRecordFileCreated", body))
    (output,) = found.outputs
    assert (output.url, output.record_id, output.duration_s) == ("http://m/1.m3u8", "r", 7200.5)
    assert output.record_ended_at - output.record_started_at == datetime(2026, 1, 1, 8) - datetime(2026, 1, 1, 6)
