import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.events import DATA_MODELS, EventError
from media_callbacks.model.outputs import (
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
from media_callbacks.sources.base import Message, expand_urls
from media_callbacks.sources.intake import build_event
from media_callbacks.sources.products import vod
from media_callbacks.sources.products.vod_catalogue import EVENT_TYPES
from media_callbacks.sources.products.vod_outputs import url_suffix
from media_callbacks.sources.reading.decoding import parse_time

SAMPLES = Path(__file__).parents[2] / "samples" / "vod"
VIDEO = "8e1f0c52a7b34d6990c1d2e3f4a5b601"
OTHER = "8e1f0c52a7b34d6990c1d2e3f4a5b602"


def job(number):
    return f"b7d4{number:04d}c9e84f21a06b5d3c2e1f0a99"


def parse(body):
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return vod.parse(Message(payload, payload, "signature"))


def sample(name):
    return (SAMPLES / f"{name}.json").read_bytes()


def one(body):
    (completion,) = parse(body).completions
    return completion


def outputs_of(completion):
    """Those of its event."""
    source = SimpleNamespace(name="vod", product="vod", account="main", transport="http")
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return build_event(completion, source=source, message=Message(b"", b"", "none"), received_at=now).data.outputs


# Per sample: kind, outcome, family and id of the key, job id, media id of each completion.
TABLE = {
    "ai_media_audit_fail": [("review", "failed", "AIMediaAuditComplete", (job(52),), job(52), VIDEO)],
    "ai_media_audit_object_data": [("review", "succeeded", "AIMediaAuditComplete", (job(51),), job(51), VIDEO)],
    "ai_media_dna_fail": [("fingerprint", "failed", "AIMediaDNAComplete", (job(55),), job(55), VIDEO)],
    "ai_media_dna_string_data": [("fingerprint", "succeeded", "AIMediaDNAComplete", (job(54),), job(54), VIDEO)],
    "ai_video_censor": [("review", "succeeded", "AIVideoCensorComplete", (job(53),), job(53), VIDEO)],
    "ai_video_tag_fail": [("ai", "failed", "AIVideoTagComplete", (job(57),), job(57), VIDEO)],
    "ai_video_tag_string_data": [("ai", "succeeded", "AIVideoTagComplete", (job(56),), job(56), VIDEO)],
    "attached_media_upload": [
        (
            "upload",
            "succeeded",
            "AttachedMediaUploadComplete",
            ("62cb0000000000000000000000000001", "https://media.example.com/attached/01.png", "2019-01-20T07:49:17Z"),
            None,
            "62cb0000000000000000000000000001",
        )
    ],
    "create_audit": [
        (
            "review",
            "succeeded",
            "CreateAuditComplete",
            (VIDEO, "2017-03-20T07:49:16Z", "2017-03-20T07:49:17Z"),
            None,
            VIDEO,
        )
    ],
    "delete_media": [
        ("asset", "succeeded", "DeleteMediaComplete", (VIDEO, "all", "", "2017-03-20T07:49:17Z"), None, VIDEO)
    ],
    "delete_media_fail": [
        ("asset", "failed", "DeleteMediaComplete", (VIDEO, "all", "", "2017-03-20T07:49:17Z"), None, VIDEO)
    ],
    "delete_media_streams": [
        (
            "asset",
            "succeeded",
            "DeleteMediaComplete",
            (VIDEO, "stream", f"{job(61)},{job(62)}", "2017-03-20T07:49:17Z"),
            None,
            VIDEO,
        )
    ],
    "dynamic_image_fail": [("animated_image", "failed", "animated_image", (job(2),), job(2), VIDEO)],
    "dynamic_image_list_info": [("animated_image", "succeeded", "animated_image", (job(1),), job(1), VIDEO)],
    "dynamic_image_object_info": [("animated_image", "succeeded", "animated_image", (job(1),), job(1), VIDEO)],
    "dynamic_image_string_info": [("animated_image", "succeeded", "animated_image", (job(1),), job(1), VIDEO)],
    "dynamic_image_workflow_without_job_id": [
        (
            "animated_image",
            "succeeded",
            "animated_image",
            (VIDEO, "2025-03-27T08:15:52Z", "26e8dab8000000000000000000000001"),
            None,
            VIDEO,
        )
    ],
    "file_upload_probe_without_time": [
        (
            "upload",
            "succeeded",
            "FileUploadComplete",
            ("videoId", "", "", "87059e9d9f3b6ed14dac4153396e11b2"),
            None,
            "videoId",
        )
    ],
    "file_upload_with_extend": [
        (
            "upload",
            "succeeded",
            "FileUploadComplete",
            (VIDEO, f"http://media.example.com/in/{VIDEO}.mp4", "2017-03-20T07:49:17Z"),
            None,
            VIDEO,
        )
    ],
    "file_upload_without_status": [
        (
            "upload",
            "succeeded",
            "FileUploadComplete",
            (VIDEO, f"http://media.example.com/in/{VIDEO}.mp4", "2017-03-20T07:49:17Z"),
            None,
            VIDEO,
        )
    ],
    "image_upload": [
        (
            "upload",
            "succeeded",
            "ImageUploadComplete",
            (
                "59bd0000000000000000000000000001",
                "https://media.example.com/image/default/01.jpg",
                "2017-03-20T07:49:17Z",
            ),
            None,
            "59bd0000000000000000000000000001",
        )
    ],
    "image_upload_colon_milliseconds": [
        (
            "upload",
            "succeeded",
            "ImageUploadComplete",
            (
                "59bd0000000000000000000000000002",
                "https://media.example.com/image/default/02.jpg",
                "2024-04-10T01:37:14:627Z",
            ),
            None,
            "59bd0000000000000000000000000002",
        )
    ],
    "live_record_compose_start": [
        ("notice", "received", "LiveRecordVideoComposeStart", (OTHER, "2017-12-08T09:26:17Z"), None, OTHER)
    ],
    "live_record_video": [
        (
            "upload",
            "succeeded",
            "AddLiveRecordVideoComplete",
            (VIDEO, "2017-12-08T07:40:56Z", "2017-12-08T09:26:17Z", "2017-12-08T09:26:17Z"),
            None,
            VIDEO,
        )
    ],
    "media_base_change": [
        (
            "asset",
            "succeeded",
            "MediaBaseChangeComplete",
            (VIDEO, "update", "2019-06-20T02:18:58Z", "d360e38bfeff732565f85d791c300350"),
            None,
            VIDEO,
        )
    ],
    "media_refresh": [("asset", "succeeded", "SubmitMediaRefreshComplete", (job(71), VIDEO), job(71), VIDEO)],
    "media_refresh_fail": [("asset", "failed", "SubmitMediaRefreshComplete", (job(71), OTHER), job(71), OTHER)],
    "produce_media": [
        (
            "production",
            "succeeded",
            "ProduceMediaComplete",
            (OTHER, "98760000000000000000000000000001", "2018-12-26T14:34:09Z"),
            None,
            OTHER,
        )
    ],
    "produce_media_fail": [
        (
            "production",
            "failed",
            "ProduceMediaComplete",
            (OTHER, "98760000000000000000000000000001", "2018-12-26T14:34:09Z"),
            None,
            OTHER,
        )
    ],
    "restore_media": [
        (
            "asset",
            "succeeded",
            "RestoreMediaComplete",
            (VIDEO, "2023-01-23T13:11:33Z", "2022-06-23T13:11:33Z"),
            None,
            VIDEO,
        )
    ],
    "restore_media_fail": [
        ("asset", "failed", "RestoreMediaComplete", (VIDEO, "", "2022-06-23T13:11:33Z"), None, VIDEO)
    ],
    "snapshot_specified_time_fail": [
        (
            "snapshot",
            "failed",
            "snapshot",
            (VIDEO, "SpecifiedTime", "2018-07-31T10:07:31Z", '{"order":"A-17"}'),
            None,
            VIDEO,
        )
    ],
    "snapshot_two_jobs_without_video_id": [
        ("snapshot", "succeeded", "snapshot", (job(11),), job(11), None),
        ("snapshot", "succeeded", "snapshot", (job(12),), job(12), None),
    ],
    "storage_class": [
        (
            "asset",
            "succeeded",
            "UpdateMediaStorageClassComplete",
            (VIDEO, "Archive", "2022-06-23T13:11:33Z"),
            None,
            VIDEO,
        )
    ],
    "storage_class_fail": [
        ("asset", "failed", "UpdateMediaStorageClassComplete", (VIDEO, "Archive", "2022-06-23T13:11:33Z"), None, VIDEO)
    ],
    "stream_transcode": [("transcode", "succeeded", "transcode", (job(21),), job(21), VIDEO)],
    "stream_transcode_audio_flag": [("transcode", "succeeded", "transcode", (job(22),), job(22), OTHER)],
    "stream_transcode_fail": [("transcode", "failed", "transcode", (job(23),), job(23), VIDEO)],
    "transcode_encrypted_hls": [
        ("transcode", "succeeded", "transcode", (job(33),), job(33), OTHER),
        ("transcode", "succeeded", "transcode", (job(31),), job(31), OTHER),
        ("transcode", "succeeded", "transcode", (job(32),), job(32), OTHER),
        ("transcode_task", "succeeded", "transcode_task", (OTHER, job(31), job(32), job(33)), None, OTHER),
    ],
    "transcode_fail_without_streams": [
        ("transcode_task", "failed", "transcode_task", (VIDEO, "2021-03-04T05:06:07Z"), None, VIDEO)
    ],
    "transcode_partly_failed": [
        ("transcode", "succeeded", "transcode", (job(21),), job(21), VIDEO),
        ("transcode", "failed", "transcode", (job(24),), job(24), VIDEO),
        ("transcode_task", "partial", "transcode_task", (VIDEO, job(21), job(24)), None, VIDEO),
    ],
    "transcode_two_streams": [
        ("transcode", "succeeded", "transcode", (job(21),), job(21), VIDEO),
        ("transcode", "succeeded", "transcode", (job(20),), job(20), VIDEO),
        ("transcode_task", "succeeded", "transcode_task", (VIDEO, job(20), job(21)), None, VIDEO),
    ],
    "unknown_type": [
        ("notice", "received", "SomethingNewComplete", (job(91), "81a9eece8ffce52d606f4668f1a405c9"), job(91), VIDEO)
    ],
    "upload_by_url_blank_keys": [("upload", "succeeded", "UploadByURLComplete", (job(41),), job(41), VIDEO)],
    "upload_by_url_fail_blank_keys": [("upload", "failed", "UploadByURLComplete", (job(42),), job(42), None)],
    "upload_by_url_stream": [("upload", "succeeded", "UploadByURLComplete", (job(43),), job(43), OTHER)],
    "upload_by_url_stream_fail": [("upload", "failed", "UploadByURLComplete", (job(44),), job(44), None)],
    "video_analysis_fail": [
        ("media_info", "failed", "VideoAnalysisComplete", (VIDEO, "2018-11-28T10:12:48Z"), None, VIDEO)
    ],
    "video_analysis_numbers_as_text": [
        ("media_info", "succeeded", "VideoAnalysisComplete", (VIDEO, "2018-11-28T10:12:48Z"), None, VIDEO)
    ],
    "workflow_task": [
        (
            "workflow",
            "succeeded",
            "WorkflowTaskComplete",
            ("46ec0000000000000000000000000001",),
            "46ec0000000000000000000000000001",
            VIDEO,
        )
    ],
    "workflow_task_fail": [
        (
            "workflow",
            "failed",
            "WorkflowTaskComplete",
            ("46ec0000000000000000000000000003",),
            "46ec0000000000000000000000000003",
            VIDEO,
        )
    ],
    "workflow_task_nested_strings": [
        (
            "workflow",
            "partial",
            "WorkflowTaskComplete",
            ("46ec0000000000000000000000000002",),
            "46ec0000000000000000000000000002",
            None,
        )
    ],
}


@pytest.mark.parametrize("name", TABLE)
def test_what_a_message_says_once_is_in_each_of_its_completions(name):
    body = json.loads(sample(name), strict=False)
    for completion in parse(sample(name)).completions:
        assert completion.vendor_event == body["EventType"]
        assert completion.user_data == body.get("Extend")
        assert completion.occurred_at == (parse_time(body["EventTime"]) if "EventTime" in body else None)


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


@pytest.mark.parametrize("name", ["dynamic_image_string_info", "dynamic_image_object_info"])
def test_animated_image_in_both_spellings_of_its_details(name):
    completion = one(sample(name))
    assert completion.outputs == (
        AnimatedImageOutput(
            url=f"http://media.example.com/{VIDEO}/image/dynamic/cover-01.gif",
            format="gif",
            width=200,
            height=200,
            fps=25.0,
            size_bytes=1834831,
        ),
    )
    assert completion.occurred_at == datetime(2019, 11, 5, 9, 12, 58, tzinfo=UTC)
    assert completion.vendor_event == "DynamicImageComplete"


def test_the_format_of_an_animated_image_is_its_suffix():
    assert one(sample("dynamic_image_list_info")).outputs[0].format == "webp"


def dynamic_image(**changes):
    body = json.loads(sample("dynamic_image_object_info"))
    return {name: value for name, value in {**body, **changes}.items() if value is not ...}


def test_the_outer_job_id_wins_and_the_other_is_noted():
    parsed = parse(dynamic_image(JobId="outer"))
    assert parsed.completions[0].id == ("outer",)
    assert parsed.warnings == ("DynamicImageJobInfo.JobId",)


def test_the_inner_job_id_serves_when_there_is_no_other():
    assert one(dynamic_image(JobId=...)).job_id == job(1)


@pytest.mark.parametrize(
    "outer, inner, outcome",
    [
        ("success", "success", "succeeded"),
        ("success", "fail", "failed"),
        ("fail", "success", "failed"),
        (..., "success", "succeeded"),
        (..., "fail", "failed"),
        ("success", None, "succeeded"),
        ("Surprise", "success", "unknown"),
        (..., ..., "unknown"),
    ],
)
def test_both_statuses_of_an_animated_image_are_judged(outer, inner, outcome):
    info = {"JobId": job(1), "FileURL": "http://media.example.com/1.gif"} | ({} if inner is ... else {"Status": inner})
    completion = one(dynamic_image(Status=outer, DynamicImageJobInfo=info))
    assert completion.outcome == outcome
    assert bool(completion.outputs) == (outcome != "failed")


def test_progress_is_a_notice_that_leaves_the_key_of_the_job_free():
    started, ended = one(dynamic_image(Status="Processing")), one(dynamic_image())
    assert (started.kind, started.outcome, started.outputs) == ("notice", "received", ())
    assert started.key("vod", "default").digest() != ended.key("vod", "default").digest()


def test_job_ids_are_trimmed_and_otherwise_opaque():
    assert one(dynamic_image(JobId=" 3af7****19\n")).id == ("3af7****19",)


def test_snapshot_urls_are_numbered_from_one_with_five_digits():
    cover, sprite = parse(sample("snapshot_two_jobs_without_video_id")).completions
    assert outputs_of(cover) == (
        SnapshotOutput(
            url_template="http://media.example.com/covers/a-{SnapshotCount}.jpg",
            count=2,
            urls=("http://media.example.com/covers/a-00001.jpg", "http://media.example.com/covers/a-00002.jpg"),
            snapshot_type="cover",
        ),
    )
    assert sprite.outputs[0].snapshot_type == "sprite"
    assert (cover.user_data, cover.occurred_at) == ("test data", datetime(2018, 7, 31, 10, 7, 31, tzinfo=UTC))


def snapshot(**changes):
    body = json.loads(sample("snapshot_two_jobs_without_video_id"))
    return body | changes


def test_at_most_two_hundred_picture_urls():
    info = {
        "JobId": "j",
        "Status": "success",
        "SnapshotCount": 201,
        "SnapshotRegular": "http://media.example.com/{SnapshotCount}",
    }
    (output,) = outputs_of(one(snapshot(SnapshotInfos=[info])))
    assert (output.count, len(output.urls), output.urls[-1]) == (201, 200, "http://media.example.com/00200")


def test_a_text_that_is_no_url_is_not_repeated_two_hundred_times():
    info = {"JobId": "j", "Status": "success", "SnapshotCount": 200, "SnapshotRegular": "{SnapshotCount}" * 10_000}
    assert outputs_of(one(snapshot(SnapshotInfos=[info])))[0].urls == ()


def test_each_snapshot_has_its_own_outcome():
    ok = {"JobId": "a", "Status": "success"}
    bad = {"JobId": "b", "Status": "fail"}
    body = snapshot(SnapshotInfos=[ok, bad, {"JobId": "c"}], Status="success", ErrorCode="Throttling.User")
    first, second, third = parse(body).completions
    assert [first.outcome, second.outcome, third.outcome] == ["succeeded", "failed", "succeeded"]
    assert second.error == EventError(code="Throttling.User", message=None, retryable=True)
    assert first.error is None


def test_a_snapshot_without_any_id_does_not_cost_the_others():
    parsed = parse(snapshot(SnapshotInfos=[{"Status": "success"}, {"JobId": "b", "Status": "success"}]))
    assert [completion.id for completion in parsed.completions] == [("b",)]
    assert parsed.warnings == ("SnapshotInfos[0].JobId",)


def test_failed_snapshot_keeps_what_the_submitter_gave():
    completion = one(sample("snapshot_specified_time_fail"))
    assert completion.user_data == '{"order":"A-17"}'
    assert completion.error == EventError(
        code="InvalidParameter.ResourceContentBad", message="The resource operated InputFile is bad", retryable=False
    )


def test_stream_numbers():
    assert one(sample("stream_transcode")).outputs == (
        TranscodeOutput(
            job_id=job(21),
            url=f"http://media.example.com/{VIDEO}/ld.mp4",
            format="mp4",
            definition="LD",
            width=540,
            height=960,
            fps=30.0,
            bitrate_kbps=925.0,
            duration_s=15.0,
            size_bytes=1815321,
            encrypted=False,
            audio_only=None,
        ),
    )


def test_a_stream_and_its_entry_in_the_task_are_one_event():
    stream = one(sample("stream_transcode"))
    entry = parse(sample("transcode_two_streams")).completions[0]
    assert stream.key("vod", "default").digest() == entry.key("vod", "default").digest()
    assert stream.outcome == entry.outcome
    assert entry.user_data == "test data"


def test_a_task_lists_its_streams_and_sorts_their_ids_in_its_key():
    *streams, task = parse(sample("transcode_encrypted_hls")).completions
    assert task.outputs == tuple(output for stream in streams for output in stream.outputs)
    assert [output.size_bytes for output in task.outputs] == [21437828, 8128368, 15046204]
    body = json.loads(sample("transcode_encrypted_hls"))
    body["StreamInfos"].reverse()
    assert parse(body).completions[-1].id == task.id


@pytest.mark.parametrize(
    "words, task, outcome",
    [
        (["success", "success"], "fail", "succeeded"),
        (["success", "fail"], "success", "partial"),
        (["fail", "fail"], "success", "failed"),
        (["success", "Surprise"], "success", "partial"),
        (["fail", "Surprise"], "success", "unknown"),
        (["fail", "TranscodeCancelled"], "success", "failed"),
        (["TranscodeCancelled"], "success", "cancelled"),
        (["Transcoding", "fail"], "success", "unknown"),
        (["Transcoding", "success"], "processing", "partial"),
        (["Surprise"], "processing", "unknown"),
        ([], "success", "succeeded"),
        ([], "fail", "failed"),
        ([], None, "unknown"),
    ],
)
def test_the_outcome_of_a_task_comes_from_its_streams(words, task, outcome):
    streams = [{"JobId": f"j{n}", "Status": word} for n, word in enumerate(words)]
    body = {"EventType": "TranscodeComplete", "VideoId": VIDEO, "Status": task, "StreamInfos": streams}
    completion = parse(body).completions[-1]
    assert (completion.kind, completion.outcome) == ("transcode_task", outcome)


@pytest.mark.parametrize("word", ["processing", "success", None])
def test_a_task_of_which_no_stream_has_ended_is_under_way(word):
    body = {"EventType": "TranscodeComplete", "VideoId": VIDEO, "Status": word, "EventTime": "2021-03-04T05:06:07Z"}
    infos = [[{"JobId": f"j{n}", "Status": status} for n in range(2)] for status in ("Transcoding", "Init", "success")]
    begun, waiting, ended = (parse(body | {"StreamInfos": streams}).completions for streams in infos)
    assert [(c.kind, c.outcome, c.error, c.outputs) for c in (*begun, *waiting)] == [
        ("notice", "received", None, ())
    ] * 6
    assert (begun[-1].family, begun[-1].nameless) == ("transcode_task", None)
    assert begun[-1].id == (*ended[-1].id, word or "", "2021-03-04T05:06:07Z")
    assert (ended[-1].outcome, ended[-1].nameless) == ("succeeded", "keeps_key")


def test_a_partly_failed_task_tells_the_error_of_its_stream():
    *_, task = parse(sample("transcode_partly_failed")).completions
    assert task.error == EventError(
        code="InvalidParameter.NoAudioStream", message="The input has no audio stream", retryable=False
    )
    assert [output.duration_s for output in task.outputs] == [52.233433]


def test_streams_without_job_id_are_told_apart_by_what_they_are():
    streams = [{"Status": "success", "Definition": definition, "Format": "mp4"} for definition in ("LD", "HD")]
    body = {"EventType": "TranscodeComplete", "EventTime": "T", "VideoId": VIDEO, "StreamInfos": streams}
    low, high, task = parse(body).completions
    assert (low.id, high.id) == ((VIDEO, "LD", "mp4", "T"), (VIDEO, "HD", "mp4", "T"))
    assert task.id == (VIDEO, "T")


def test_a_task_without_video_id_is_identified_by_its_jobs():
    body = {"EventType": "TranscodeComplete", "StreamInfos": [{"JobId": "b"}, {"JobId": "a"}, {"Status": "fail"}]}
    parsed = parse(body)
    assert [completion.id for completion in parsed.completions] == [("b",), ("a",), ("", "a", "b")]
    assert parsed.warnings == ("StreamInfos[2].JobId",)


@pytest.mark.parametrize(
    "name, output",
    [
        ("file_upload_with_extend", UploadOutput(url=f"http://media.example.com/in/{VIDEO}.mp4", size_bytes=1439213)),
        (
            "upload_by_url_blank_keys",
            UploadOutput(size_bytes=123456, source_url="http://media.example.com/pull/01.mp4"),
        ),
        (
            "upload_by_url_stream",
            UploadOutput(
                url=f"http://media.example.com/{OTHER}/stream.flv",
                source_url="https://media.example.com/record/live/03",
            ),
        ),
        (
            "video_analysis_numbers_as_text",
            MediaInfoOutput(width=630, height=360, fps=30.0, bitrate_kbps=499.0, duration_s=12.0, size_bytes=1234568),
        ),
        ("ai_media_audit_object_data", ReviewOutput(suggestion="review", label="porn")),
        ("ai_video_censor", ReviewOutput(suggestion="pass", label="normal")),
        ("create_audit", ReviewOutput(suggestion="block", reviewer="author", reason="Vulgar content")),
        ("ai_media_dna_string_data", FingerprintOutput(primary_key=OTHER, similarity=0.99)),
        ("produce_media", ProductionOutput(media_id=OTHER, project_id="98760000000000000000000000000001")),
        ("delete_media_streams", AssetOutput(operation="delete", media_type="video", scope="stream")),
        ("media_base_change", AssetOutput(operation="update", media_type="video")),
        ("storage_class", AssetOutput(operation="archive", scope="All", storage_class="Archive")),
        (
            "restore_media",
            AssetOutput(operation="restore", restored_until=datetime(2023, 1, 23, 13, 11, 33, tzinfo=UTC)),
        ),
        (
            "media_refresh",
            AssetOutput(
                operation="refresh",
                urls=(f"http://media.example.com/{VIDEO}/1.mp4", f"http://media.example.com/{VIDEO}/2.mp4"),
            ),
        ),
        (
            "workflow_task",
            WorkflowOutput(
                name="VideoTranslation_1",
                type="VideoTranslation",
                job_id=job(81),
                outcome="succeeded",
                result=json.loads(json.loads(sample("workflow_task"))["ActivityResults"])["VideoTranslation_1"][
                    "Result"
                ],
            ),
        ),
    ],
)
def test_output(name, output):
    assert one(sample(name)).outputs == (output,)


def test_tags_are_passed_on_decoded():
    (output,) = one(sample("ai_video_tag_string_data")).outputs
    assert output.result["Keyword"] == [{"Times": ["3260", "4000"], "Tag": "气垫"}]


def test_workflow_nodes_keep_their_names_and_outcomes():
    completion = one(sample("workflow_task_nested_strings"))
    assert [(output.name, output.type, output.outcome) for output in completion.outputs] == [
        ("VodSnapshot_123", "VodSnapshot", "succeeded"),
        ("Translate_zh_en", "VodTranslation", "failed"),
    ]


@pytest.mark.parametrize(
    "name, code, retryable",
    [
        ("dynamic_image_fail", "InvalidParameter.ResourceContentBad", False),
        ("upload_by_url_fail_blank_keys", "URLInvalidError", False),
        ("upload_by_url_stream_fail", "InternalError", None),
        ("delete_media_fail", "InvalidVideo.NotFound", False),
        ("restore_media_fail", "NoSuchKey", False),
        ("ai_video_tag_fail", "Throttling", True),
        ("ai_media_audit_fail", "InvalidVideo.NotFound", False),
        ("workflow_task_fail", None, None),
    ],
)
def test_error(name, code, retryable):
    error = one(sample(name)).error
    assert (error.code, error.retryable) == (code, retryable)


def test_milliseconds_after_a_colon():
    assert one(sample("image_upload_colon_milliseconds")).occurred_at == datetime(
        2024, 4, 10, 1, 37, 14, 627000, tzinfo=UTC
    )
    assert one(sample("ai_media_audit_object_data")).occurred_at == datetime(
        2022, 10, 20, 10, 29, 46, 540000, tzinfo=UTC
    )


def test_no_event_time():
    assert one(sample("file_upload_probe_without_time")).occurred_at is None


@pytest.mark.parametrize("extend", ["", " test ", '{"a":1}', "{}"])
def test_user_data_is_unchanged(extend):
    assert one(dynamic_image(Extend=extend)).user_data == extend


def test_user_data_that_came_as_an_object():
    assert one(dynamic_image(Extend={"a": [1, "ä"]})).user_data == '{"a":[1,"ä"]}'


UPLOADS = {name for name, row in EVENT_TYPES.items() if row.kind == "upload"}


@pytest.mark.parametrize("event_type", sorted({*EVENT_TYPES, "DynamicImageComplete", "SnapshotComplete"}))
def test_a_missing_status_is_success_for_uploads_alone(event_type):
    ids = dict.fromkeys(("VideoId", "MediaId", "ImageId", "AttachedMediaId", "JobId", "MediaRefreshJobId"), "x")
    completion = one({"EventType": event_type, **ids})
    created = event_type in UPLOADS or event_type == "LiveSnapshotFileCreated"
    expected = "received" if completion.kind == "notice" else "succeeded" if created else "unknown"
    assert completion.outcome == expected


@pytest.mark.parametrize(
    "event_type, kind",
    [
        ("FileUploadComplete", "upload"),
        ("ImageUploadComplete", "upload"),
        ("AttachedMediaUploadComplete", "upload"),
        ("UploadByURLComplete", "upload"),
        ("RegisterMediaComplete", "upload"),
        ("AddLiveRecordVideoComplete", "upload"),
        ("LiveRecordFileCreated", "upload"),
        ("ProduceMediaComplete", "production"),
        ("BatchProduceMediaComplete", "production"),
        ("AIProduceComplete", "production"),
        ("SmartJobComplete", "production"),
        ("AIVideoTagComplete", "ai"),
        ("MediaAiAnalysisComplete", "ai"),
        ("AISomethingNewComplete", "ai"),
        ("AIMediaAuditComplete", "review"),
        ("AIMediaDNAComplete", "fingerprint"),
        ("LiveRecordVideoComposeStart", "notice"),
        ("LiveRecordTaskStatus", "notice"),
        ("SomethingNewComplete", "notice"),
    ],
)
def test_kinds(event_type, kind):
    ids = dict.fromkeys(("VideoId", "MediaId", "ImageId", "AttachedMediaId", "JobId"), "x")
    assert one({"EventType": event_type, "Status": "success", **ids}).kind == kind


def test_one_refresh_job_gives_an_event_for_each_asset():
    first, second = one(sample("media_refresh")), one(sample("media_refresh_fail"))
    assert first.job_id == second.job_id
    assert first.id != second.id


def test_changes_in_one_second_are_told_apart_by_their_content():
    body = json.loads(sample("media_base_change"))
    reordered = dict(reversed(body.items()))
    changed = body | {"MediaContent": {"Title": "other"}}
    assert one(body).id == one(reordered).id != one(changed).id


def test_deletions_in_one_second_are_told_apart_by_their_jobs():
    body = json.loads(sample("delete_media_streams"))
    assert one(body | {"JobIds": ["a", "b"]}).id != one(body | {"JobIds": ["a", "c"]}).id


@pytest.mark.parametrize(
    "body, message",
    [
        ({"VideoId": VIDEO}, "EventType"),
        ({"EventType": " "}, "EventType"),
        ({"EventType": "DynamicImageComplete", "MessageBody": {"JobId": "x"}}, "IMS"),
        ({"EventType": "DynamicImageComplete"}, "JobId or VideoId"),
        ({"EventType": "SnapshotComplete"}, "SnapshotInfos or VideoId"),
        ({"EventType": "SnapshotComplete", "SnapshotInfos": [{}]}, "SnapshotInfos or VideoId"),
        ({"EventType": "SnapshotComplete", "SnapshotInfos": [{"Status": "success"}]}, "JobId in SnapshotInfos"),
        ({"EventType": "StreamTranscodeComplete"}, "JobId or VideoId"),
        ({"EventType": "TranscodeComplete", "StreamInfos": [{}]}, "VideoId or StreamInfos"),
        ({"EventType": "FileUploadComplete"}, "VideoId"),
        ({"EventType": "AIMediaAuditComplete"}, "MediaId"),
        (b"[]", "JSON object"),
        (b"", "empty"),
        (b"\xff", "UTF-8"),
        (b"{", "JSON object"),
    ],
)
def test_unparseable(body, message):
    with pytest.raises(Unparseable, match=message):
        parse(body)


@pytest.mark.parametrize("name", TABLE)
def test_base64_and_byte_order_mark(name):
    """Queues deliver the same text in base64, and a byte order mark says nothing."""
    body = sample(name)
    assert parse(base64.b64encode(body)) == parse(b"\xef\xbb\xbf" + body) == parse(body)


@pytest.mark.parametrize(
    "url, suffix",
    [
        ("http://media.example.com/a.gif", "gif"),
        ("http://media.example.com/a.b.WEBP?auth_key=1-0-0-x.y/z", "webp"),
        ("http://media.example.com/a.z", "z"),
        ("http://media.example.com/a.m3u8", "m3u8"),
        ("http://media.example.com/a.123456", None),
        ("http://media.example.com/a.g-f", None),
        ("http://media.example.com/a.", None),
        ("http://media.example.com/a", None),
        ("a.gif", "gif"),
        ("", None),
        (None, None),
    ],
)
def test_url_suffix(url, suffix):
    assert url_suffix(url) == suffix


@pytest.mark.parametrize(
    "template, count, urls",
    [
        ("a-{N}", 2, ("a-00001", "a-00002")),
        ("{N}/{N}", 1, ("00001/00001",)),
        ("a", 3, ("a",)),
        ("a-{N}", 0, ()),
        ("a-{N}", None, ()),
        (None, 3, ()),
        ("a" * 2048, 1, ("a" * 2048,)),
        ("a" * 2049, 1, ()),
    ],
)
def test_expand_urls(template, count, urls):
    assert expand_urls(template, "{N}", count) == urls


@pytest.mark.parametrize(
    "status, suggestion", [("Normal", "pass"), ("Blocked", "block"), ("Checking", "checking"), (None, None)]
)
def test_verdicts_of_manual_reviews(status, suggestion):
    body = json.loads(sample("create_audit")) | {"AuditStatus": status}
    assert one(body).outputs[0].suggestion == suggestion


@pytest.mark.parametrize(
    "ids, kind, identity, media_id",
    [
        ({"JobId": "j"}, "ai", ("j",), None),
        ({"MediaId": "m"}, "ai", ("m", "T"), "m"),
        ({"JobId": "j", "VideoId": "v"}, "ai", ("j",), "v"),
    ],
)
@pytest.mark.parametrize("event_type", ["AIVideoTagComplete", "AISomethingNewComplete"])
def test_ids_of_ai_events(event_type, ids, kind, identity, media_id):
    completion = one({"EventType": event_type, "EventTime": "T", "Status": "success"} | ids)
    assert (completion.kind, completion.id, completion.media_id) == (kind, identity, media_id)


def test_an_ai_event_that_nobody_knows_and_without_ids_is_a_notice():
    completion = one({"EventType": "AISomethingNewComplete", "Status": "success"})
    assert (completion.kind, len(completion.id[0])) == ("notice", 32)


def test_the_error_text_of_ai_events():
    assert one(sample("ai_media_audit_fail")).error.message == "The video does not exist."


def test_snapshots_without_job_id_are_told_apart_by_type_and_file_else_by_place():
    infos = [
        {"SnapshotType": "CoverSnapshot"},
        {"SnapshotType": "NormalSnapshot", "SnapshotRegular": "http://m/a"},
        {"SnapshotType": "NormalSnapshot", "SnapshotRegular": "http://m/b", "SnapshotFormat": "c"},
        {"SnapshotType": "NormalSnapshot", "SnapshotFormat": "c"},
        {"SnapshotRegular": "http://m/a"},
        {},
        {"Status": "fail"},
    ]
    body = snapshot(VideoId=VIDEO, SubType="SpecifiedTime", SnapshotInfos=infos)
    shared = (VIDEO, "SpecifiedTime", "2018-07-31T10:07:31Z", "test data")
    ids = [
        (*shared, "CoverSnapshot"),
        (*shared, "NormalSnapshot", "http://m/a"),
        (*shared, "NormalSnapshot", "http://m/b"),
        (*shared, "NormalSnapshot", "c"),
        (*shared, "http://m/a"),
    ]
    assert [completion.id for completion in parse(body).completions] == [*ids, (*shared, "6")]
    # Whatever stands beside them.
    assert {completion.id for completion in parse(body | {"SnapshotInfos": infos[4::-1]}).completions} == set(ids)


def test_snapshots_without_job_id_that_nothing_tells_apart_are_told_apart_by_their_place():
    infos = [{"SnapshotType": "CoverSnapshot", "SnapshotCount": count} for count in (1, 2, 3)]
    found = parse(snapshot(VideoId=VIDEO, SnapshotInfos=infos)).completions
    assert [completion.id[4:] for completion in found] == [
        ("CoverSnapshot",),
        ("CoverSnapshot", "1"),
        ("CoverSnapshot", "2"),
    ]


def test_the_media_type_of_an_upload():
    assert one(json.loads(sample("image_upload")) | {"MediaType": "image"}).outputs[0].media_type == "image"


def test_workflow_nodes_without_name_or_end():
    nodes = {" ": {"ActivityInstanceId": "i", "Status": "Processing"}, "b": {"Status": "Skip"}, "c": "text"}
    parsed = parse(json.loads(sample("workflow_task")) | {"ActivityResults": nodes})
    assert [(node.name, node.outcome) for node in parsed.completions[0].outputs] == [("i", "unknown"), ("b", "unknown")]
    assert parsed.warnings == ("ActivityResults.c",)


@pytest.mark.parametrize(
    "code, retryable",
    [
        ("InvalidParameter", False),
        ("InvalidVideo.NotFound", False),
        ("NoSuchKey", False),
        ("URLInvalidError", False),
        ("Throttling.User", True),
        ("TransientNetWorkError", True),
        ("NeverSeen", None),
    ],
)
def test_whether_it_is_worth_trying_again(code, retryable):
    assert one(dynamic_image(Status="fail", ErrorCode=code)).error.retryable is retryable


@pytest.mark.parametrize(
    "event_type, ids, identity",
    [
        ("DynamicImageComplete", {"VideoId": "v", "EventTime": "T"}, ("v", "T", "")),
        ("UploadByURLComplete", {"SourceURL": "u", "EventTime": "T"}, ("u", "T")),
        ("WorkflowTaskComplete", {"VideoId": "v", "EventTime": "T"}, ("v", "T")),
        ("AIMediaAuditComplete", {"MediaId": "m", "EventTime": "T"}, ("m", "T")),
        ("VideoAnalysisComplete", {"VideoId": "v"}, ("v", "", "b0211975c85406bd79e22c5efcbe3613")),
        ("ProduceMediaComplete", {"MediaId": "m", "ProjectId": "p"}, ("m", "p", "")),
        ("SubmitMediaRefreshComplete", {"MediaRefreshJobId": "r"}, ("r", "")),
    ],
)
def test_fallback_keys(event_type, ids, identity):
    completion = one({"EventType": event_type, "Status": "success"} | ids)
    assert (completion.kind != "notice", completion.id) == (True, identity)


@pytest.mark.parametrize("name", ["VideoId", "MediaId", "ImageId", "AttachedMediaId"])
def test_the_media_id_of_a_type_that_nobody_knows(name):
    completion = one({"EventType": "SomethingNewComplete", name: "m"})
    assert (completion.kind, completion.media_id, len(completion.id[0])) == ("notice", "m", 32)


def test_a_format_that_is_given_comes_before_the_suffix():
    info = {"FileURL": "http://media.example.com/1.gif", "Format": "webp"}
    assert one(dynamic_image(DynamicImageJobInfo=info)).outputs[0].format == "webp"


def test_the_url_of_a_production():
    body = json.loads(sample("produce_media")) | {"MediaURL": "http://media.example.com/out.mp4"}
    assert one(body).outputs[0].url == "http://media.example.com/out.mp4"


def test_a_partial_stream_makes_the_task_partial():
    streams = [{"JobId": "a", "Status": "partial-succeeded"}, {"JobId": "b", "Status": "fail"}]
    body = {"EventType": "TranscodeComplete", "VideoId": VIDEO, "StreamInfos": streams}
    assert parse(body).completions[-1].outcome == "partial"
