import json

import pytest

from media_callbacks.healing.queries.vod import FAMILIES
from media_callbacks.model.errors import VendorRefused, VendorUnavailable
from media_callbacks.model.events import EventError
from media_callbacks.model.outputs import (
    AiOutput,
    AnimatedImageOutput,
    FingerprintOutput,
    MediaInfoOutput,
    ReviewOutput,
    SnapshotOutput,
    TranscodeOutput,
    UploadOutput,
    WorkflowOutput,
)
from media_callbacks.rehearsal.payloads import PAYLOADS
from tests.healing.queries.vendor import (
    NOW,
    TIME,
    Vendor,
    ask,
    ask_one,
    callback,
    completion,
    identities,
    job,
    output,
    read,
    refused,
)

MEDIA = PAYLOADS["vod"]["TranscodeComplete"]("j-1", NOW, False)["VideoId"]


def image(job_id, **fields):
    return {
        "JobId": job_id,
        "VideoId": MEDIA,
        "DynamicImageId": "d-1",
        "FileURL": "https://v.example.com/image/dynamic/d-1.webp?auth_key=1-0-0-a",
        "Format": "webp",
        "Fps": "10",
        "Width": "640",
        "Height": "360",
        "FileSize": "119866",
        "Duration": "2",
        "CreationTime": TIME,
        **fields,
    }


def stream(job_id, status="TranscodeSuccess", **fields):
    output = {
        "OutputFileUrl": f"http://o.example.com/{job_id}.mp4",
        "Format": "mp4",
        "Bitrate": "925",
        "Duration": 15,
        "Fps": "30",
        "Width": "1280",
        "Height": "720",
        "Filesize": 1815321,
    }
    made = {"OutputFile": output} if status == "TranscodeSuccess" else {}
    return {
        "TranscodeJobId": job_id,
        "TranscodeJobStatus": status,
        "Definition": "HD",
        "CompleteTime": TIME,
        **made,
        **fields,
    }


def transcode_task(*streams, status="CompleteAllSucc", **fields):
    task = {"TranscodeTaskId": "t-1", "VideoId": MEDIA, "TaskStatus": status, "CompleteTime": TIME}
    return {"RequestId": "r", "TranscodeTask": task | {"TranscodeJobInfoList": list(streams)} | fields}


def detail(job_type, **fields):
    member = {"snapshot": "SnapshotJobDetail", "ai": "AIJobDetail", "workflow": "WorkflowTaskDetail"}[job_type]
    return {"RequestId": "r", "JobType": job_type, member: fields}


# Animated images


async def test_an_image_that_is_listed_was_made():
    vendor = Vendor(ListDynamicImage={"RequestId": "r", "DynamicImageList": [image("j-0"), image("j-1\n")]})
    found = await completion(vendor, job("vod", "animated_image", media_id=MEDIA))
    assert (found.family, found.id, found.outcome, found.media_id) == ("animated_image", ("j-1",), "succeeded", MEDIA)
    assert found.occurred_at == NOW
    assert found.outputs == (
        AnimatedImageOutput(
            url="https://v.example.com/image/dynamic/d-1.webp?auth_key=1-0-0-a",
            format="webp",
            width=640,
            height=360,
            fps=10.0,
            size_bytes=119866,
        ),
    )
    [query] = vendor.queries
    assert (query.api, query.version, dict(query.parameters)) == ("vod", "2017-03-21", {"VideoId": MEDIA})


async def test_an_image_that_is_not_listed_may_have_failed_or_not():
    answer = await ask_one(Vendor(ListDynamicImage={"DynamicImageList": [image("j-0")]}), job_of_image())
    assert answer.state == "unlearnable"
    assert answer.detail == "not among the 1 animated images of its asset; VOD lists no failures"


def job_of_image(**more):
    return job("vod", "animated_image", **{"media_id": MEDIA, **more})


async def test_without_an_asset_an_image_is_not_asked_about():
    vendor = Vendor()
    assert [answer.state for answer in await ask(vendor, job_of_image(media_id=None))] == ["unlearnable"]
    assert vendor.queries == []
    assert FAMILIES["animated_image"].needs_media_id


async def test_the_images_of_an_asset_that_is_unknown():
    assert (await ask_one(Vendor(ListDynamicImage=refused("InvalidVideo.NotFound")), job_of_image())).state == (
        "not_found"
    )
    with pytest.raises(VendorRefused):
        await ask_one(Vendor(ListDynamicImage=refused("Forbidden.RAM", 403)), job_of_image())


# Snapshots, AI, workflows


async def test_a_snapshot_has_a_state_and_no_pictures():
    vendor = Vendor(GetJobDetail=detail("snapshot", JobId="j-1\n", VideoId=MEDIA, Status="Success", CompleteTime=TIME))
    found = await completion(vendor, job("vod", "snapshot"))
    assert (found.id, found.kind, found.outcome, found.outputs) == (("j-1",), "snapshot", "succeeded", ())
    assert (found.vendor_event, found.media_id, found.occurred_at) == ("SnapshotComplete", MEDIA, NOW)
    assert dict(vendor.queries[0].parameters) == {"JobId": "j-1", "JobType": "snapshot"}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("AI")])
async def test_an_ai_job(family):
    vendor = Vendor(GetJobDetail=detail("ai", JobId="j-1", MediaId=MEDIA, Status="success", CompleteTime=TIME))
    found = await completion(vendor, job("vod", family))
    assert (found.family, found.id, found.outcome, found.media_id) == (family, ("j-1",), "succeeded", MEDIA)
    assert found.kind == FAMILIES[family].kind
    assert vendor.queries[0].parameters["JobType"] == "ai"


@pytest.mark.parametrize("word", ["AIVideoTag", "AIMediaAudit", "AINews", None])
async def test_a_job_of_another_type_proves_nothing(word):
    reply = ai_detail()
    reply["AIJobDetail"]["JobType"] = word
    answer = await ask_one(Vendor(GetJobDetail=reply), job("vod", "AIVideoTagComplete"))
    # A word that nobody has seen contradicts nothing.
    assert answer.state == ("not_found" if word == "AIMediaAudit" else "ended")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ('{"Extend": "a"}', "a"),
        ('{"MessageCallback": {"CallbackURL": "http://cb.example.com/secret"}, "Extend": "a"}', "a"),
        ('{"MessageCallback": {"CallbackURL": "http://cb.example.com/secret"}}', None),
        ('{"mine": 1}', '{"mine": 1}'),
    ],
)
async def test_settings_of_the_vendor_are_no_user_data(told, expected):
    reply = detail("workflow", TaskId="j-1", Status="Succeed", ActivityResults="{}", UserData=told)
    found = await completion(Vendor(GetJobDetail=reply), job("vod", "WorkflowTaskComplete"))
    assert found.user_data == expected


async def test_a_workflow_and_the_extend_that_was_given_with_it():
    results = '{"Act_1": {"Status": "Failed", "ActivityId": "VideoTranslation", "Result": {"JobId": "a-1"}}}'
    reply = detail(
        "workflow",
        TaskId="j-1",
        Status="Succeed",
        ActivityResults=results,
        TaskInput=f'{{"Type": "Media", "Media": "{MEDIA}"}}',
        UserData='{"Extend": "{\\"id\\": 7}"}',
        FinishTime=TIME,
    )
    found = await completion(Vendor(GetJobDetail=reply), job("vod", "WorkflowTaskComplete"))
    assert (found.id, found.outcome, found.user_data, found.media_id) == (("j-1",), "partial", '{"id": 7}', MEDIA)
    assert found.outputs == (
        WorkflowOutput(name="Act_1", type="VideoTranslation", job_id="a-1", outcome="failed", result={"JobId": "a-1"}),
    )


async def test_user_data_without_extend_is_passed_on_whole():
    reply = detail("workflow", TaskId="j-1", Status="Succeed", UserData=" mine ")
    assert (await completion(Vendor(GetJobDetail=reply), job("vod", "WorkflowTaskComplete"))).user_data == " mine "


@pytest.mark.parametrize(
    ("family", "job_type", "words"),
    [
        ("snapshot", "snapshot", {"Processing": None, "Success": "succeeded", "Fail": "failed", "Odd": None}),
        (
            "AIVideoTagComplete",
            "ai",
            {
                "reserved": None,
                "init": None,
                "processing": None,
                "analysing": None,
                "success": "succeeded",
                "fail": "failed",
            },
        ),
        (
            "WorkflowTaskComplete",
            "workflow",
            {
                "Init": None,
                "Processing": None,
                "Succeed": "succeeded",
                "Failed": "failed",
                "Canceled": "cancelled",
                "Skip": "cancelled",
            },
        ),
    ],
)
async def test_the_words_of_job_details(family, job_type, words):
    for word, outcome in words.items():
        answer = await ask_one(Vendor(GetJobDetail=detail(job_type, Status=word)), job("vod", family, media_id=MEDIA))
        if outcome is None:
            assert answer.state == "pending", word
        else:
            [found] = read("vod", answer).completions
            assert (found.outcome, found.id) == (outcome, ("j-1",)), word


async def test_an_unknown_word_is_asked_again_and_named():
    answer = await ask_one(Vendor(GetJobDetail=detail("snapshot", Status="Exploded")), job("vod", "snapshot"))
    assert (answer.state, answer.detail) == ("pending", "Exploded is not a known state")
    answer = await ask_one(Vendor(GetJobDetail=detail("snapshot", JobId="j-1")), job("vod", "snapshot"))
    assert (answer.state, answer.detail) == ("pending", "the reply has no state")


async def test_a_reply_about_another_job_is_no_answer():
    answer = await ask_one(
        Vendor(GetJobDetail=detail("snapshot", JobId="j-9", Status="Success")), job("vod", "snapshot")
    )
    assert (answer.state, answer.detail) == ("not_found", "asked about j-1, the reply is about j-9")


@pytest.mark.parametrize("code", ["InvalidJob.NotFound", "ResourceNotFound", "InvalidParameter"])
async def test_a_job_that_does_not_exist(code):
    answer = await ask_one(Vendor(GetJobDetail=refused(code)), job("vod", "snapshot"))
    assert (answer.state, answer.detail) == ("not_found", f"the vendor says {code}")


async def test_an_empty_reply_is_about_no_job():
    for family in ("snapshot", "transcode", "transcode_task", "WorkflowTaskComplete"):
        vendor = Vendor(GetJobDetail={"RequestId": "r"}, GetTranscodeTask={"RequestId": "r"})
        assert (await ask_one(vendor, job("vod", family))).state == "not_found", family


@pytest.mark.parametrize(
    "error", [refused("InvalidAccessKeyId.NotFound"), refused("Forbidden", 403), VendorUnavailable("later")]
)
@pytest.mark.parametrize("family", ["snapshot", "transcode", "transcode_task"])
async def test_what_is_not_about_the_job_is_raised(family, error):
    vendor = Vendor(GetJobDetail=error, GetTranscodeTask=error)
    with pytest.raises(type(error)):
        await ask(vendor, job("vod", family))


async def test_jobs_that_can_not_be_asked_about():
    vendor = Vendor()
    for reference in (job("vod", "ProduceMediaComplete"), job("vod", "NoSuch"), job("vod", "snapshot", None)):
        assert (await ask_one(vendor, reference)).state == "unlearnable"
    assert vendor.queries == []
    assert FAMILIES["ProduceMediaComplete"].batch == 0


# Streams


async def test_ten_streams_are_asked_about_at_once_and_answered_in_order():
    reply = {
        "TranscodeJobInfoList": [
            stream("j-3", "TranscodeFail", ErrorCode="InvalidParameter.X", ErrorMessage="bad"),
            stream("j-1"),
            stream("j-2", "Transcoding"),
        ],
        "NonExistJobIds": ["j-4 "],
    }
    vendor = Vendor(GetTranscodeTask=reply)
    answers = await ask(vendor, *(job("vod", "transcode", f"j-{n}", media_id=MEDIA) for n in range(1, 6)))
    assert [answer.state for answer in answers] == ["ended", "pending", "ended", "not_found", "not_found"]
    assert [answer.detail for answer in answers[3:]] == [None, "the reply does not mention it"]
    [query] = vendor.queries
    assert dict(query.parameters) == {"JobIds": "j-1,j-2,j-3,j-4,j-5"}
    [found] = read("vod", answers[0]).completions
    assert (found.family, found.id, found.media_id, found.occurred_at) == ("transcode", ("j-1",), MEDIA, NOW)
    assert found.outputs == (
        TranscodeOutput(
            job_id="j-1",
            url="http://o.example.com/j-1.mp4",
            format="mp4",
            definition="HD",
            width=1280,
            height=720,
            fps=30.0,
            bitrate_kbps=925.0,
            duration_s=15.0,
            size_bytes=1815321,
            encrypted=False,
            audio_only=None,
        ),
    )
    [lost] = read("vod", answers[2]).completions
    assert lost.error == EventError(code="InvalidParameter.X", message="bad", retryable=False)
    assert lost.outputs == ()


async def test_one_bad_id_does_not_hide_the_others():
    def reply(query):
        if "j-2" in query.parameters["JobIds"]:
            raise refused("InvalidParameter.JobIds", 400)
        return {"TranscodeJobInfoList": [stream(job_id) for job_id in query.parameters["JobIds"].split(",")]}

    answers = await ask(
        Vendor(GetTranscodeTask=reply),
        *(job("vod", "transcode", f"j-{n}") for n in (1, 2, 3)),
        job("vod", "transcode", None),
    )
    assert [answer.state for answer in answers] == ["ended", "not_found", "ended", "unlearnable"]


async def test_an_encrypted_stream():
    file = stream("j-1")["OutputFile"] | {"Encryption": '{"EncryptType": "HLSEncryption"}'}
    reply = {"TranscodeJobInfoList": [stream("j-1", OutputFile=file)]}
    assert (await output(Vendor(GetTranscodeTask=reply), job("vod", "transcode"))).encrypted is True


async def test_the_asset_of_a_stream_is_asked_for_where_nobody_has_told_it():
    vendor = Vendor(
        GetTranscodeTask={"TranscodeJobInfoList": [stream("j-1")]},
        GetJobDetail={"TranscodeJobDetail": {"JobId": "j-1", "VideoId": MEDIA, "Status": "TranscodeSuccess"}},
    )
    found = await completion(vendor, job("vod", "transcode"))
    assert (found.media_id, vendor.actions) == (MEDIA, ["GetTranscodeTask", "GetJobDetail"])
    assert dict(vendor.queries[1].parameters) == {"JobId": "j-1", "JobType": "transcode"}
    vendor.queries.clear()
    assert (await completion(vendor, job("vod", "transcode", media_id="registered"))).media_id == "registered"
    assert vendor.actions == ["GetTranscodeTask"]
    for detail in (refused("Forbidden.RAM", 403), {"TranscodeJobDetail": {"JobId": "j-2", "VideoId": "other"}}, {}):
        vendor.replies["GetJobDetail"] = detail
        answer = await ask_one(vendor, job("vod", "transcode"))
        assert (answer.state, answer.lacks_result) == ("ended", False)
        assert read("vod", answer).completions[0].media_id is None
    vendor.replies["GetJobDetail"] = VendorUnavailable("later")
    assert (await ask_one(vendor, job("vod", "transcode"))).lacks_result


# Results, which GetJobDetail does not tell


def series(job_id="j-1", **fields):
    snapshots = {"Snapshot": [{"Index": 1, "Url": "http://v.example.com/1-00001.jpg?auth_key=1"}]}
    told = {
        "JobId": job_id,
        "Total": 2,
        "Regular": "http://v.example.com/1-{SnapshotCount}.jpg",
        "Snapshots": snapshots,
    }
    return {"RequestId": "r", "MediaSnapshot": told | fields}


def snapshot_job(**fields):
    return detail("snapshot", **{"JobId": "j-1", "VideoId": MEDIA, "Status": "Success"} | fields)


@pytest.mark.parametrize("snapshot_type", ["NormalSnapshot", "CoverSnapshot"])
async def test_the_pictures_of_a_snapshot_job(snapshot_type):
    def told(query):
        return series("j-1" if query.parameters["SnapshotType"] == snapshot_type else "j-2")

    vendor = Vendor(GetJobDetail=snapshot_job(), ListSnapshots=told)
    # What a message says of the asset is not asked with.
    found = await output(vendor, job("vod", "snapshot", media_id="a lie"))
    assert found == SnapshotOutput(
        url_template="http://v.example.com/1-{SnapshotCount}.jpg",
        count=2,
        urls=("http://v.example.com/1-00001.jpg", "http://v.example.com/1-00002.jpg"),
        snapshot_type=snapshot_type.lower().removesuffix("snapshot"),
    )
    assert {query.parameters["VideoId"] for query in vendor.queries[1:]} == {MEDIA}


async def test_a_sprite_has_the_pictures_that_it_was_made_of():
    vendor = Vendor(GetJobDetail=snapshot_job(SpriteConfig='{"Columns": 3}'), ListSnapshots=series())
    parsed = read("vod", await ask_one(vendor, job("vod", "snapshot")))
    types = [dict(one)["snapshot_type"] for each in parsed.completions for one in each.outputs]
    assert types == ["sprite", "spriteorigin", "webvtt"]


async def test_a_snapshot_job_has_ended_though_only_what_it_left_besides_is_listed():
    def told(query):
        return series("j-1" if query.parameters["SnapshotType"] == "WebVttSnapshot" else "j-2")

    vendor = Vendor(GetJobDetail=snapshot_job(SpriteConfig='{"Columns": 3}'), ListSnapshots=told)
    parsed = read("vod", await ask_one(vendor, job("vod", "snapshot")))
    assert [each.id for each in parsed.completions] == [("j-1",), ("j-1", "webvtt")]
    assert [len(each.outputs) for each in parsed.completions] == [0, 1]


@pytest.mark.parametrize(
    "told", [series("j-2"), {"RequestId": "r"}, refused("Forbidden.RAM", 403), refused("InvalidVideo.NotFound")]
)
async def test_a_snapshot_job_that_is_not_the_last_of_its_asset_has_no_pictures(told):
    answer = await ask_one(Vendor(GetJobDetail=snapshot_job(), ListSnapshots=told), job("vod", "snapshot"))
    [found] = read("vod", answer).completions
    assert (found.outcome, found.outputs, found.media_id, answer.lacks_result) == ("succeeded", (), MEDIA, False)


async def test_pictures_that_can_not_be_listed_just_now_are_asked_for_again():
    vendor = Vendor(GetJobDetail=snapshot_job(), ListSnapshots=VendorUnavailable("later", is_throttled=True))
    answer = await ask_one(vendor, job("vod", "snapshot"))
    assert (answer.state, answer.lacks_result) == ("ended", True)
    failed = await ask_one(Vendor(GetJobDetail=snapshot_job(Status="Fail")), job("vod", "snapshot"))
    assert (failed.state, failed.lacks_result) == ("ended", False), "there are none"


def ai_detail(status="success"):
    return detail("ai", JobId="j-1", MediaId=MEDIA, Status=status, CompleteTime=TIME)


VERDICT = {"Suggestion": "block", "Label": "porn", "VideoResult": {"Suggestion": "block"}}
DNA = {"VideoDNA": [{"PrimaryKey": "known-1", "Similarity": "0.9"}]}
TAGS = {"Keyword": [{"Tag": "beach", "Times": ["3260"]}]}


def audit_job(job_id="j-1", **fields):
    told = {"JobId": job_id, "MediaId": MEDIA, "Status": "success", "Data": VERDICT}
    return {"RequestId": "r", "MediaAuditJob": told | fields}


def ai_jobs(job_id="j-1", **fields):
    return {"RequestId": "r", "AIJobList": {"AIJob": [{"JobId": job_id, "Status": "success", **fields}]}}


REVIEW = ReviewOutput(suggestion="block", label="porn")
FINGERPRINT = FingerprintOutput(primary_key="known-1", similarity=0.9)


@pytest.mark.parametrize(
    ("family", "replies", "expected"),
    [
        ("AIMediaAuditComplete", {"GetAIMediaAuditJob": audit_job()}, REVIEW),
        ("AIMediaAuditComplete", {"GetMediaAuditResult": {"MediaAuditResult": VERDICT}}, REVIEW),
        (
            "AIMediaAuditComplete",
            {"GetAIMediaAuditJob": audit_job("j-2", Data={}), "GetMediaAuditResult": {"MediaAuditResult": VERDICT}},
            REVIEW,
        ),
        ("AIMediaAuditComplete", {"GetAIMediaAuditJob": audit_job("j-2")}, None),
        ("AIMediaAuditComplete", {"GetAIMediaAuditJob": audit_job(Status="processing")}, None),
        ("AIVideoCensorComplete", {"GetMediaAuditResult": {"MediaAuditResult": VERDICT}}, REVIEW),
        ("AIMediaDNAComplete", {"ListAIJob": ai_jobs(Data=json.dumps(DNA))}, FINGERPRINT),
        ("AIMediaDNAComplete", {"ListAIJob": ai_jobs("j-2", Data="{}"), "GetMediaDNAResult": {"DNAResult": DNA}}, FINGERPRINT),
        ("AIMediaDNAComplete", {"GetMediaDNAResult": {}}, None),
        ("AIVideoTagComplete", {"ListAIJob": ai_jobs(Data=json.dumps(TAGS))}, AiOutput(result=TAGS)),
        ("AIVideoTagComplete", {"GetAIVideoTagResult": {"VideoTagResult": TAGS}}, AiOutput(result=TAGS)),
    ],
)  # fmt: skip
async def test_what_an_ai_job_has_found(family, replies, expected):
    vendor = Vendor(GetJobDetail=ai_detail(), **replies)
    found = await completion(vendor, job("vod", family, media_id="a lie"))
    assert (found.id, found.outcome, found.media_id) == (("j-1",), "succeeded", MEDIA)
    assert found.outputs == (() if expected is None else (expected,))
    assert {query.parameters["MediaId"] for query in vendor.queries if "MediaId" in query.parameters} <= {MEDIA}


@pytest.mark.parametrize(
    ("family", "action", "reply"),
    [
        ("AIMediaAuditComplete", "GetAIMediaAuditJob", audit_job(Status="fail", Code="Bad", Message="m", Data=None)),
        ("AIVideoTagComplete", "ListAIJob", ai_jobs(Status="fail", Code="Bad", Message="m")),
    ],
)
async def test_why_an_ai_job_failed(family, action, reply):
    vendor = Vendor(GetJobDetail=ai_detail("fail"), **{action: reply})
    found = await completion(vendor, job("vod", family))
    assert (found.outcome, found.error, found.outputs) == (
        "failed",
        EventError(code="Bad", message="m", retryable=None),
        (),
    )
    assert vendor.actions == ["GetJobDetail", action], "an asset's last result says nothing of a failure"


async def test_an_ai_result_that_can_not_be_had_just_now_is_asked_for_again():
    vendor = Vendor(GetJobDetail=ai_detail(), ListAIJob=VendorUnavailable("later"))
    answer = await ask_one(vendor, job("vod", "AIVideoTagComplete"))
    assert (answer.state, answer.lacks_result, vendor.actions) == ("ended", True, ["GetJobDetail", "ListAIJob"])


# Uploads by URL


def upload(job_id, status, **fields):
    source = {"UploadURL": f"http://s.example.com/{job_id}.mp4", "MediaId": MEDIA, "FileSize": "24"}
    return {"JobId": job_id, "Status": status, "CompleteTime": TIME, **source, **fields}


async def test_uploads_by_url():
    reply = {
        "URLUploadInfoList": [
            upload("j-1", "SUCCESS", ErrorCode="200", UserData='{"Extend": {"id": 7}}'),
            upload("j-2", "DOWNLOAD_FAIL", ErrorCode="URLInvalidError", ErrorMessage="bad", MediaId=None),
            upload("j-3", "UPLOAD_SUCCESS"),
            upload("j-4", "PENDING"),
        ],
        "NonExists": '["j-5"]',
    }
    vendor = Vendor(GetURLUploadInfos=reply)
    answers = await ask(vendor, *(job("vod", "UploadByURLComplete", f"j-{n}") for n in range(1, 7)))
    assert [answer.state for answer in answers] == ["ended", "ended", "pending", "pending", "not_found", "not_found"]
    assert [dict(query.parameters) for query in vendor.queries] == [{"JobIds": "j-1,j-2,j-3,j-4,j-5,j-6"}]
    [found] = read("vod", answers[0]).completions
    assert (found.id, found.outcome, found.media_id, found.user_data) == (("j-1",), "succeeded", MEDIA, '{"id":7}')
    assert found.outputs == (UploadOutput(size_bytes=24, source_url="http://s.example.com/j-1.mp4"),)
    [lost] = read("vod", answers[1]).completions
    assert (lost.outcome, lost.error) == (
        "failed",
        EventError(code="URLInvalidError", message="bad", retryable=False),
    )


# Assets


def mezzanine(status="Normal", **fields):
    told = {"VideoId": MEDIA, "Status": status, "CreationTime": TIME, "Size": 1439213, "Width": 630, "Height": 360}
    url = "http://b.oss-cn-shanghai.aliyuncs.com/1.mp4?Expires=1&Signature=s"
    return {"RequestId": "r", "Mezzanine": told | {"Duration": "12", "FileURL": url} | fields}


def asset(family, media_id=MEDIA):
    return job("vod", family, None, media_id=media_id)


async def test_the_file_of_an_asset():
    vendor = Vendor(GetMezzanineInfo=mezzanine())
    found = await completion(vendor, asset("FileUploadComplete"))
    assert (found.kind, found.outcome, found.media_id, found.job_id) == ("upload", "succeeded", MEDIA, None)
    assert found.outputs == (UploadOutput(url="http://b.oss-cn-shanghai.aliyuncs.com/1.mp4", size_bytes=1439213),)
    assert dict(vendor.queries[0].parameters) == {"VideoId": MEDIA, "OutputType": "oss"}
    found = await completion(vendor, asset("VideoAnalysisComplete"))
    assert found.outputs == (MediaInfoOutput(width=630, height=360, duration_s=12.0, size_bytes=1439213),)
    assert (
        await completion(Vendor(GetMezzanineInfo=mezzanine("UploadFail")), asset("FileUploadComplete"))
    ).outcome == ("failed")


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (mezzanine("Uploading"), "unlearnable"),
        (mezzanine("Deleted"), "unlearnable"),
        (mezzanine(None), "unlearnable"),
        (mezzanine(VideoId="another"), "not_found"),
        ({"RequestId": "r"}, "not_found"),
        (refused("InvalidVideo.NotFound"), "not_found"),
    ],
)
async def test_an_asset_whose_file_is_not_there(reply, state):
    assert (await ask_one(Vendor(GetMezzanineInfo=reply), asset("FileUploadComplete"))).state == state
    assert (await ask_one(Vendor(), asset("FileUploadComplete", None))).state == "unlearnable"
    with pytest.raises(VendorRefused):
        await ask_one(Vendor(), asset("FileUploadComplete"))


# Tasks


@pytest.mark.parametrize(
    ("streams", "word", "outcome"),
    [
        ([stream("j-1"), stream("j-2")], "CompleteAllSucc", "succeeded"),
        ([stream("j-1"), stream("j-2")], "CompeleteAllSucc", "succeeded"),
        ([stream("j-1"), stream("j-2", "TranscodeFail")], "CompletePartialSucc", "partial"),
        # The streams decide, not the word.
        ([stream("j-1"), stream("j-2", "TranscodeFail")], "CompleteAllSucces", "partial"),
        ([stream("j-1", "TranscodeFail")], "CompleteAllFail", "failed"),
        ([], "CompleteAllFail", "failed"),
    ],
)
async def test_a_task_ends_as_its_streams_do(streams, word, outcome):
    vendor = Vendor(GetTranscodeTask=transcode_task(*streams, status=word))
    answer = await ask_one(vendor, job("vod", "transcode_task", "t-1"))
    *parts, task = read("vod", answer).completions
    assert (task.family, task.outcome) == ("transcode_task", outcome)
    assert task.id == ((MEDIA, *(f"j-{n + 1}" for n in range(len(streams)))) if streams else (MEDIA, TIME))
    assert [part.id for part in parts] == [(f"j-{n + 1}",) for n in range(len(streams))]
    assert dict(vendor.queries[0].parameters) == {"TranscodeTaskId": "t-1"}


@pytest.mark.parametrize(
    ("word", "detail"),
    [
        ("Processing", None),
        ("Partial", None),
        ("Odd", "Odd is not a known state"),
        (None, "the reply has no state"),
        ("CompleteAllSucc", "CompleteAllSucc, but one of its jobs has not ended"),
    ],
)
async def test_a_task_that_has_not_ended(word, detail):
    reply = transcode_task(stream("j-1"), stream("j-2", "Transcoding"), status=word)
    answer = await ask_one(Vendor(GetTranscodeTask=reply), job("vod", "transcode_task", "t-1"))
    assert (answer.state, answer.detail) == ("pending", detail)


async def test_another_task():
    reply = transcode_task(stream("j-1"), TranscodeTaskId="t-9")
    assert (await ask_one(Vendor(GetTranscodeTask=reply), job("vod", "transcode_task", "t-1"))).state == "not_found"


# The same job, told by a callback


def ai(*, failed):
    return detail("ai", JobId="j-1", Status="fail" if failed else "success", CompleteTime=TIME)


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize(
    ("family", "event", "build"),
    [
        (
            "snapshot",
            "SnapshotComplete",
            lambda failed: detail("snapshot", JobId="j-1", Status="Fail" if failed else "Success"),
        ),
        ("transcode", "StreamTranscodeComplete", None),
        ("transcode_task", "TranscodeComplete", None),
        (
            "WorkflowTaskComplete",
            "WorkflowTaskComplete",
            lambda failed: detail("workflow", TaskId="j-1", Status="Failed" if failed else "Succeed"),
        ),
        *((name, name, lambda failed: ai(failed=failed)) for name in FAMILIES if name.startswith("AI")),
    ],
)
async def test_a_reply_gives_the_event_of_the_callback(family, event, build, failed):
    if (family, failed) == ("snapshot", True):
        return  # the callback of a failed snapshot names no job
    word = "TranscodeFail" if failed else "TranscodeSuccess"
    one = stream("j-1", word)
    replies = {
        "transcode": {"TranscodeJobInfoList": [one]},
        "transcode_task": transcode_task(one, status="CompleteAllFail" if failed else "CompleteAllSucc"),
    }
    reply = build(failed) if build else replies[family]
    vendor = Vendor(GetJobDetail=reply, GetTranscodeTask=reply)
    answer = await ask_one(vendor, job("vod", family, "t-1" if family == "transcode_task" else "j-1", media_id=MEDIA))
    assert identities("vod", read("vod", answer)) == identities("vod", callback("vod", event, "j-1", failed=failed))


async def test_a_listed_image_gives_the_event_of_the_callback():
    vendor = Vendor(ListDynamicImage={"DynamicImageList": [image("j-1")]})
    answer = await ask_one(vendor, job_of_image())
    assert identities("vod", read("vod", answer)) == identities("vod", callback("vod", "DynamicImageComplete", "j-1"))
