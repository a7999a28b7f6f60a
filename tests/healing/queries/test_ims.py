import pytest

from media_callbacks.healing.queries.ims import FAMILIES
from media_callbacks.model.errors import VendorRefused, VendorUnavailable
from media_callbacks.model.events import EventError
from media_callbacks.model.outputs import (
    AiOutput,
    AnimatedImageOutput,
    ProductionOutput,
    ReviewOutput,
    SnapshotOutput,
    TranscodeOutput,
)
from media_callbacks.sources.products.ims import KINDS
from tests.healing.queries.vendor import (
    NOW,
    TIME,
    Vendor,
    ask_one,
    callback,
    completion,
    identities,
    job,
    output,
    read,
    refused,
)

JOBS = {
    "DynamicImageComplete": ("GetDynamicImageJob", "DynamicImageJob", "JobId", "Status"),
    "SnapshotComplete": ("GetSnapshotJob", "SnapshotJob", "JobId", "Status"),
    "TranscodeParentComplete": ("GetTranscodeJob", "TranscodeParentJob", "ParentJobId", "Status"),
    "MediaConvertComplete": ("GetMediaConvertJob", "Job", "JobId", "State"),
    "ProduceMediaComplete": ("GetMediaProducingJob", "MediaProducingJob", "JobId", "Status"),
    "BatchProduceMediaComplete": ("GetBatchMediaProducingJob", "EditingBatchJob", "JobId", "Status"),
    "WorkflowTaskComplete": ("GetWorkflowTask", "WorkflowTask", "TaskId", "Status"),
    "SmartJobComplete": ("GetSmartHandleJob", None, "JobId", "State"),
    "AIProduceComplete": ("QueryIProductionJob", None, "JobId", "Status"),
    "AIMediaAuditComplete": ("QueryMediaCensorJobDetail", "MediaCensorJobDetail", "JobId", "State"),
    "AIMediaDNAComplete": ("QueryDNAJobList", "JobList", "Id", "Status"),
    "AIVideoTagComplete": ("QuerySmarttagJob", None, "JobId", "JobStatus"),
}
# That their actions know these jobs is assumed: no page says which job the event is about.
ASSUMED = set(list(JOBS)[8:])
PARAMETERS = {"AIMediaDNAComplete": "JobIds"}
WORDS: dict[str, dict[str, str | None]] = {
    "DynamicImageComplete": {"Init": None, "Success": "succeeded", "Fail": "failed"},
    "SnapshotComplete": {"Init": None, "Success": "succeeded", "Fail": "failed"},
    "TranscodeParentComplete": {
        "Init": None,
        "Processing": None,
        "Success": "succeeded",
        "Fail": "failed",
        "Deleted": "cancelled",
    },
    "MediaConvertComplete": {
        "Inited": None,
        "Running": None,
        "Complete": "succeeded",
        "Error": "failed",
        "Cancelled": "cancelled",
    },
    "ProduceMediaComplete": {
        "Init": None,
        "Queuing": None,
        "Processing": None,
        "Success": "succeeded",
        "Failed": "failed",
    },
    "BatchProduceMediaComplete": {"Init": None, "Processing": None, "Finished": "succeeded"},
    "WorkflowTaskComplete": {
        "Init": None,
        "Processing": None,
        "Succeed": "succeeded",
        "Failed": "failed",
        "Canceled": "cancelled",
    },
    "SmartJobComplete": {"Finished": "succeeded", "Failed": "failed"},
    "AIProduceComplete": {"Queuing": None, "Analyzing": None, "Success": "succeeded", "Fail": "failed"},
    "AIMediaDNAComplete": {"Queuing": None, "Analysing": None, "Success": "succeeded", "Fail": "failed"},
    **{
        name: {"Submitted": None, "Processing": None, "Success": "succeeded", "Fail": "failed"}
        for name in ("AIMediaAuditComplete", "AIVideoTagComplete")
    },
}
NO_PICTURES = {"SnapshotUrls": [], "Total": 0}


def vendor_of(family, word, job_id="j-1\n", urls=NO_PICTURES, **fields):
    action, member, id_name, state = JOBS[family]
    told = {id_name: job_id, state: word, **fields}
    reply = {"RequestId": "r"} | (told if member is None else {member: [told] if member == "JobList" else told})
    return Vendor(**{action: reply, "GetSnapshotUrls": urls})


@pytest.mark.parametrize("family", JOBS)
async def test_every_word_of_every_job(family):
    assert set(WORDS) == set(JOBS) == {name for name, row in FAMILIES.items() if row.batch}
    for word, outcome in {**WORDS[family], "Odd": None}.items():
        answer = await ask_one(vendor_of(family, word), job("ims", family))
        if outcome is None:
            assert answer.state == "pending", word
            assert answer.detail == ("Odd is not a known state" if word == "Odd" else None)
        else:
            [found] = read("ims", answer).completions
            assert (found.outcome, found.id, found.job_id) == (outcome, ("j-1",), "j-1"), word
            assert (found.kind, found.family, found.vendor_event) == (KINDS[family], family, family)
            assert (found.error is None) == (outcome in ("succeeded", "cancelled"))


@pytest.mark.parametrize("family", JOBS)
async def test_how_a_job_is_asked_about(family):
    action, _, id_name, _ = JOBS[family]
    vendor = vendor_of(family, "Init")
    await ask_one(vendor, job("ims", family))
    [query] = vendor.queries
    assert (query.api, query.action, query.version) == ("ice", action, "2020-11-09")
    assert dict(query.parameters) == {PARAMETERS.get(family, id_name): "j-1"}


@pytest.mark.parametrize("family", JOBS)
async def test_jobs_that_are_not_there(family):
    action, member, *_ = JOBS[family]
    # That an action does not know a job proves nothing if it may not be for such jobs.
    state = "unlearnable" if family in ASSUMED else "not_found"
    prefix = f"{action} does not know it: " if family in ASSUMED else ""
    if member is not None:
        assert (await ask_one(Vendor(**{action: {"RequestId": "r"}}), job("ims", family))).state == state
    other = await ask_one(vendor_of(family, "Success", job_id="j-9"), job("ims", family))
    assert (other.state, other.detail) == (state, f"{prefix}asked about j-1, the reply is about j-9")
    missing = await ask_one(Vendor(**{action: refused("ResourceNotFound")}), job("ims", family))
    assert (missing.state, missing.detail) == (state, f"{prefix}the vendor says ResourceNotFound")
    for error in (refused("InvalidAccessKeyId.NotFound"), VendorUnavailable("throttled")):
        with pytest.raises(type(error)):
            await ask_one(Vendor(**{JOBS[family][0]: error}), job("ims", family))


async def test_families_without_a_query():
    vendor = Vendor()
    assert FAMILIES["TranscodeComplete"].batch == 0
    for reference in (job("ims", "TranscodeComplete"), job("ims", "SnapshotComplete", None)):
        assert (await ask_one(vendor, reference)).state == "unlearnable"
    assert not vendor.queries
    assert not {"MediaConvertOutputComplete", "MediaConvertOutputGroupComplete"} & set(FAMILIES)
    assert all(KINDS[name] == row.kind for name, row in FAMILIES.items())


async def test_an_animated_image_whose_reply_contradicts_itself():
    """The documented sample: Success, beside the code of an error, and a job id with a line break."""
    vendor = vendor_of(
        "DynamicImageComplete",
        "Success",
        TriggerSource="API",
        Input={"Type": "Media", "Media": "m-1", "OssFile": {"Bucket": "b"}},
        Output={"Type": "Media", "Media": "m-2"},
        OutputUrl="http://b.example.com/output.gif",
        TemplateConfig='{"Format":"gif","Fps":5,"Height":1080,"Width":1920}',
        Code="ResourceNotFound",
        Message="The specified resource could not be found.",
        CreateTime="2026-11-05T09:00:00Z",
        FinishTime=TIME,
        UserData='{"a": 1} ',
    )
    found = await completion(vendor, job("ims", "DynamicImageComplete"))
    assert (found.outcome, found.error, found.occurred_at) == ("succeeded", None, NOW)
    assert (found.media_id, found.user_data) == ("m-1", '{"a": 1} ')
    assert found.outputs == (
        AnimatedImageOutput(
            url="http://b.example.com/output.gif", format="gif", width=1920, height=1080, fps=5.0, size_bytes=None
        ),
    )


async def test_a_failure_says_why():
    vendor = vendor_of("DynamicImageComplete", "Fail", Code="InvalidParameter.X", Message="bad", OutputUrl="http://x")
    found = await completion(vendor, job("ims", "DynamicImageComplete"))
    assert found.error == EventError(code="InvalidParameter.X", message="bad", retryable=False)
    assert found.outputs == ()


# Snapshots


def pages(total):
    def reply(query):
        first = (int(query.parameters["PageNumber"]) - 1) * 30
        numbers = range(first, min(first + 30, total))
        return {"SnapshotUrls": [f"http://b.example.com/{n}.jpg?Signature=s" for n in numbers], "Total": total}

    return reply


@pytest.mark.parametrize(("total", "calls", "kept"), [(2, 1, 2), (30, 1, 30), (31, 2, 31), (500, 7, 200), (0, 1, 0)])
async def test_pictures_are_listed_page_by_page(total, calls, kept):
    place = {"Type": "OSS", "Media": "oss://b/{Count}.jpg"}
    vendor = vendor_of("SnapshotComplete", "Success", urls=pages(total), Count=total, Type="Normal", Output=place)
    picture = await output(vendor, job("ims", "SnapshotComplete"))
    assert (picture.url_template, picture.count, picture.snapshot_type) == ("oss://b/{Count}.jpg", total, "normal")
    assert picture.urls == tuple(f"http://b.example.com/{n}.jpg?Signature=s" for n in range(kept))
    asked = [query.parameters for query in vendor.queries if query.action == "GetSnapshotUrls"]
    assert [one["PageNumber"] for one in asked] == [str(n + 1) for n in range(calls)]
    assert (asked[0]["JobId"], asked[0]["PageSize"], asked[0]["Timeout"]) == ("j-1", "30", "129600")


async def test_pictures_without_the_right_to_list_them():
    output = {"Type": "OSS", "Media": "http://b.example.com/{Count}.jpg"}
    vendor = vendor_of("SnapshotComplete", "Success", urls=refused("Forbidden.RAM", 403), Count=2, Output=output)
    found = await completion(vendor, job("ims", "SnapshotComplete"))
    assert found.outputs == (
        SnapshotOutput(
            url_template="http://b.example.com/{Count}.jpg",
            count=2,
            urls=("http://b.example.com/00001.jpg", "http://b.example.com/00002.jpg"),
        ),
    )
    with pytest.raises(VendorUnavailable):
        await ask_one(
            vendor_of("SnapshotComplete", "Success", urls=VendorUnavailable("x")), job("ims", "SnapshotComplete")
        )


async def test_the_pictures_of_a_failed_job_are_not_asked_for():
    vendor = vendor_of("SnapshotComplete", "Fail", Code="X")
    assert (await completion(vendor, job("ims", "SnapshotComplete"))).outcome == "failed"
    assert vendor.actions == ["GetSnapshotJob"]


# Jobs with several outputs


def sub(number, word, **fields):
    return {
        "JobId": f"s-{number}",
        "Name": f"out-{number}",
        "Status": word,
        "Output": {"Type": "OSS", "Media": f"http://b.example.com/{number}.mp4"},
        "OutFileMeta": {
            "FileBasicInfo": {
                "Width": "1280",
                "Height": "720",
                "Bitrate": "925.5",
                "Duration": "15.0",
                "FileSize": "1815321",
                "FormatName": "mov,mp4",
            },
            "VideoStreamInfoList": [{"Fps": "30.0"}],
        },
        **fields,
    }


def expected(number, job_id):
    return TranscodeOutput(
        job_id=job_id,
        url=f"http://b.example.com/{number}.mp4",
        format="mp4",
        width=1280,
        height=720,
        fps=30.0,
        bitrate_kbps=925.5,
        duration_s=15.0,
        size_bytes=1815321,
    )


def detail(number, word):
    one = sub(number, word)
    file = {"Type": "OSS", "Url": one["Output"]["Media"]}
    result = {"OutputFile": file, "OutFileMeta": one["OutFileMeta"]}
    return {"TaskId": f"s-{number}", "Name": f"out-{number}", "Status": word, "Result": result}


@pytest.mark.parametrize(
    ("own", "words", "outcome"),
    [
        ("Success", ["Success", "Success"], "succeeded"),
        ("Success", ["Success", "Fail"], "partial"),
        ("Fail", ["Fail", "Fail"], "failed"),
        ("Fail", ["Success", "Fail"], "partial"),
        ("Fail", ["Fail", "Init"], "failed"),
        ("Fail", ["Success", "Odd"], "partial"),
        ("Success", ["Success", "Processing"], None),
        ("Success", ["Success", "Odd"], None),
        ("Processing", ["Success"], None),
    ],
)
async def test_a_transcoding_ends_as_its_sub_jobs_do(own, words, outcome):
    subs = [sub(n, word) for n, word in enumerate(words)]
    answer = await ask_one(
        vendor_of("TranscodeParentComplete", own, TranscodeJobList=subs), job("ims", "TranscodeParentComplete")
    )
    if outcome is None:
        assert answer.state == "pending"
        return
    [found] = read("ims", answer).completions
    assert (found.outcome, found.id) == (outcome, ("j-1",))
    assert found.outputs == tuple(expected(n, f"s-{n}") for n, word in enumerate(words) if word == "Success")


async def test_where_a_transcoded_asset_is():
    media = sub(1, "Success", Output={"Type": "Media", "Media": "m-2"})
    media["OutFileMeta"]["FileBasicInfo"]["FileUrl"] = "http://b.example.com/file.m3u8"
    vendor = vendor_of(
        "TranscodeParentComplete",
        "Success",
        TranscodeJobList=[media],
        InputGroup=[{"Type": "Media", "Media": "m-1"}],
    )
    found = await output(vendor, job("ims", "TranscodeParentComplete"))
    assert (found.url, found.format) == ("http://b.example.com/file.m3u8", "m3u8")
    assert (await completion(vendor, job("ims", "TranscodeParentComplete"))).media_id == "m-1"


@pytest.mark.parametrize(
    ("own", "words", "outcome"),
    [
        ("Complete", ["Success", "Skipped"], "succeeded"),
        ("Complete", ["Success", "Failed"], "partial"),
        ("Error", ["Failed", "Scheduled"], "failed"),
        ("Cancelled", ["Success", "Init"], "cancelled"),
        ("Complete", ["Success", "Scheduled"], None),
    ],
)
async def test_a_conversion_ends_as_its_outputs_do(own, words, outcome):
    first, second = (detail(n, word) for n, word in enumerate(words))
    vendor = vendor_of(
        "MediaConvertComplete", own, OutputDetails=[first], OutputGroupDetails=[{"Name": "g", "Outputs": [second]}]
    )
    answer = await ask_one(vendor, job("ims", "MediaConvertComplete"))
    if outcome is None:
        assert answer.state == "pending"
        return
    [found] = read("ims", answer).completions
    assert found.outcome == outcome
    made = [n for n, word in enumerate(words) if word == "Success" and outcome != "cancelled"]
    assert found.outputs == tuple(expected(n, f"s-{n}") for n in made)


# Productions


async def test_a_production():
    vendor = vendor_of(
        "ProduceMediaComplete",
        "Success",
        MediaId="m-1",
        MediaURL="https://b.example.com/1.mp4",
        ProjectId="p-1",
        CompleteTime=TIME,
    )
    found = await completion(vendor, job("ims", "ProduceMediaComplete"))
    assert found.outputs == (ProductionOutput(url="https://b.example.com/1.mp4", media_id="m-1", project_id="p-1"),)
    assert (found.media_id, found.occurred_at) == ("m-1", NOW)


async def test_the_productions_of_a_batch():
    subs = [{"JobId": f"s-{n}", "Status": word, "MediaId": f"m-{n}"} for n, word in enumerate(["Success", "Failed"])]
    vendor = vendor_of("BatchProduceMediaComplete", "Finished", SubJobList=subs)
    found = await completion(vendor, job("ims", "BatchProduceMediaComplete"))
    assert found.outputs == (ProductionOutput(media_id="m-0"),)


@pytest.mark.parametrize(
    ("word", "subs", "outcome"),
    [
        ("Finished", ["Success", "Success"], "succeeded"),
        ("Finished", ["Success", "Failed"], "partial"),
        ("Finished", ["Failed", "Failed"], "failed"),
        ("Failed", ["Success"], "partial"),
        ("Failed", [], "failed"),
        ("Finished", ["Success", "Processing"], None),
    ],
)
async def test_how_a_batch_ended_is_told_by_its_productions(word, subs, outcome):
    vendor = vendor_of("BatchProduceMediaComplete", word, SubJobList=[{"Status": sub} for sub in subs])
    reference = job("ims", "BatchProduceMediaComplete")
    if outcome is None:
        assert (await ask_one(vendor, reference)).state == "pending"
    else:
        assert (await completion(vendor, reference)).outcome == outcome


async def test_the_asset_of_a_production_is_the_one_that_it_made():
    for made, expected in ((["m-new"], "m-new"), (["m-new", "m-other"], None), ([], None)):
        told = {"Input": {"Type": "Media", "Media": "m-source"}, "OutputMediaIds": made}
        found = await completion(vendor_of("AIProduceComplete", "Success", **told), job("ims", "AIProduceComplete"))
        assert found.media_id == expected


@pytest.mark.parametrize("family", ["AIVideoCensorComplete", "MediaAiAnalysisComplete"])
async def test_an_action_tells_of_one_sort_of_jobs(family):
    """An answer does not say of which of two, so one job would prove a message of each."""
    vendor = Vendor()
    assert (await ask_one(vendor, job("ims", family))).state == "unlearnable"
    assert vendor.queries == []


async def test_a_smart_job():
    """The reply is about the job itself, and says by other names than all others what it has made."""
    vendor = vendor_of(
        "SmartJobComplete",
        "Finished",
        JobResult={"MediaId": "m-1", "MediaUrl": "http://b.example.com/1.mp4", "AiResult": "{}"},
        SmartJobInfo={"JobType": "ASR", "InputConfig": {"InputFile": "m-0"}},
        UserData='{"user":"data"}',
    )
    found = await completion(vendor, job("ims", "SmartJobComplete"))
    assert found.outputs == (ProductionOutput(url="http://b.example.com/1.mp4", media_id="m-1"),)
    assert (found.media_id, found.user_data) == ("m-1", '{"user":"data"}')
    failed = await completion(
        vendor_of("SmartJobComplete", "Failed", ErrorCode="Bad", ErrorMessage="m"), job("ims", "SmartJobComplete")
    )
    assert failed.error == EventError(code="Bad", message="m", retryable=None)


@pytest.mark.parametrize(
    ("family", "fields", "expected"),
    [
        ("AIMediaAuditComplete", {"Suggestion": "Block"}, (ReviewOutput(suggestion="block"),)),
        (
            "AIVideoTagComplete",
            {"Results": {"Result": [{"Type": "Meta", "Data": '{"title": "beach"}'}]}},
            (AiOutput(result=[{"Type": "Meta", "Data": {"title": "beach"}}]),),
        ),
        ("AIMediaDNAComplete", {"DNAResult": "http://b.example.com/dna.json"}, ()),
        (
            "AIProduceComplete",
            {
                "FunctionName": "Cover",
                "OutputUrls": ["http://b.example.com/1.jpg", "http://b.example.com/2.jpg"],
                "OutputMediaIds": ["m-1"],
            },
            (
                ProductionOutput(url="http://b.example.com/1.jpg", media_id="m-1", function="Cover"),
                ProductionOutput(url="http://b.example.com/2.jpg", function="Cover"),
            ),
        ),
    ],
)
async def test_what_an_ai_job_has_found(family, fields, expected):
    word = next(word for word, outcome in WORDS[family].items() if outcome == "succeeded")
    assert (await completion(vendor_of(family, word, **fields), job("ims", family))).outputs == expected


async def test_the_asset_that_the_job_was_registered_with():
    found = await completion(vendor_of("SnapshotComplete", "Success"), job("ims", "SnapshotComplete", media_id="m-7"))
    assert found.media_id == "m-7"


# The same job, told by a callback


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("family", JOBS)
async def test_a_reply_gives_the_event_of_the_callback(family, failed):
    outcome = "failed" if failed else "succeeded"
    fields = {}
    if family == "BatchProduceMediaComplete":
        # It has one word for both.
        word, fields["SubJobList"] = "Finished", [{"Status": "Failed" if failed else "Success"}]
    else:
        word = next(word for word, meaning in WORDS[family].items() if meaning == outcome)
    answer = await ask_one(vendor_of(family, word, **fields), job("ims", family))
    told = callback("ims", family, "j-1", failed=failed)
    assert identities("ims", read("ims", answer)) == identities("ims", told)


async def test_refusals_of_other_kinds_are_raised():
    with pytest.raises(VendorRefused):
        await ask_one(Vendor(GetSnapshotJob=refused("Forbidden.RAM", 403)), job("ims", "SnapshotComplete"))
