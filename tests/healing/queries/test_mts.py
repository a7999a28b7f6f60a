import pytest

from media_callbacks.healing.queries.mts import FAMILIES
from media_callbacks.model.errors import VendorUnavailable
from media_callbacks.model.events import EventError
from media_callbacks.model.outputs import (
    AiOutput,
    FingerprintOutput,
    MediaInfoOutput,
    ProductionOutput,
    ReviewOutput,
    SnapshotOutput,
    TranscodeOutput,
    WorkflowOutput,
)
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

# Action, its parameter, both names of the list, that of the ids, the list of those that do not exist and the name in it.
LISTS = {
    "snapshot": (
        "QuerySnapshotJobList",
        "SnapshotJobIds",
        "SnapshotJobList",
        "SnapshotJob",
        "Id",
        "NonExistSnapshotJobIds",
    ),
    "transcode": ("QueryJobList", "JobIds", "JobList", "Job", "JobId", "NonExistJobIds"),
    "mediainfo": (
        "QueryMediaInfoJobList",
        "MediaInfoJobIds",
        "MediaInfoJobList",
        "MediaInfoJob",
        "JobId",
        "NonExistMediaInfoJobIds",
    ),
    "analysis": (
        "QueryAnalysisJobList",
        "AnalysisJobIds",
        "AnalysisJobList",
        "AnalysisJob",
        "Id",
        "NonExistAnalysisJobIds",
    ),
    "fpshot": ("QueryFpShotJobList", "JobIds", "FpShotJobList", "FpShotJob", "Id", "NonExistIds"),
    "run": (
        "QueryMediaWorkflowExecutionList",
        "RunIds",
        "MediaWorkflowExecutionList",
        "MediaWorkflowExecution",
        "RunId",
        "NonExistRunIds",
    ),
}
SINGLES = {
    "iproduction": ("QueryIProductionJob", None, "State"),
    "smarttag": ("QuerySmarttagJob", None, "JobStatus"),
    "mediacensor": ("QueryMediaCensorJobDetail", "MediaCensorJobDetail", "State"),
}
NAMES = {
    "snapshot": "Snapshot",
    "transcode": "Transcode",
    "mediainfo": "MediaInfo",
    "analysis": "Analysis",
    "fpshot": "FpShot",
    "run": "Report",
    "iproduction": "IProduction",
    "smarttag": "smarttag",
    "mediacensor": "MediaCensor",
}
COMMON = {"Success": "succeeded", "Fail": "failed", "Odd": None}
WORDS = {
    "snapshot": {"Submitted": None, "Snapshoting": None, **COMMON},
    "transcode": {
        "Submitted": None,
        "Transcoding": None,
        "TranscodeSuccess": "succeeded",
        "TranscodeFail": "failed",
        "TranscodeCancelled": "cancelled",
        "Odd": None,
    },
    "mediainfo": {"Analyzing": None, **COMMON},
    "analysis": {"Submitted": None, "Analyzing": None, **COMMON},
    "fpshot": {"Queuing": None, **COMMON},
    # Documents print Success for a run, real replies Completed.
    "run": {"Running": None, "Completed": "succeeded", "Success": "succeeded", "Fail": "failed", "Odd": None},
    "iproduction": {"Queuing": None, "Analysing": None, **COMMON},
    "smarttag": {"Submitted": None, "Processing": None, **COMMON},
    "mediacensor": {"Queuing": None, **COMMON},
}


def item(family, job_id, word, **fields):
    return {LISTS[family][4]: job_id, "State": word, **fields}


def listed(family, *items, missing=(), flat=False):
    _, _, outer, inner, _, absent = LISTS[family]
    name = "RunId" if family == "run" else "String"
    return {
        "RequestId": "r",
        outer: list(items) if flat else {inner: list(items)},
        absent: list(missing) if flat else {name: list(missing)},
    }


def vendor_of(family, word, job_id="j-1\n", *, flat=False, **fields):
    if family in LISTS:
        return Vendor(**{LISTS[family][0]: listed(family, item(family, job_id, word, **fields), flat=flat)})
    action, member, state = SINGLES[family]
    job_of_reply = {"JobId": job_id, state: word, **fields}
    return Vendor(**{action: {"RequestId": "r", **({member: job_of_reply} if member else job_of_reply)}})


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("family", WORDS)
async def test_every_word_of_every_job(family, flat):
    assert set(WORDS) == set(FAMILIES)
    for word, outcome in WORDS[family].items():
        answer = await ask_one(vendor_of(family, word, flat=flat), job("mts", family))
        if outcome is None:
            assert answer.state == "pending", word
            assert answer.detail == ("Odd is not a known state" if word == "Odd" else None)
        else:
            [found] = read("mts", answer).completions
            assert (found.outcome, found.id, found.job_id) == (outcome, ("j-1",), "j-1"), word
            assert (found.family, found.kind, found.vendor_event) == (family, FAMILIES[family].kind, NAMES[family])


@pytest.mark.parametrize("family", LISTS)
@pytest.mark.parametrize("flat", [False, True])
async def test_ten_jobs_are_asked_about_at_once_and_answered_in_order(family, flat):
    done = "TranscodeSuccess" if family == "transcode" else "Success"
    reply = listed(
        family,
        item(family, "j-3", done),
        {"Odd": "no id"},
        item(family, "j-1", done),
        item(family, "j-2", "Submitted"),
        missing=["j-4 ", "j-9"],
        flat=flat,
    )
    vendor = Vendor(**{LISTS[family][0]: reply})
    answers = await ask(vendor, *(job("mts", family, f"j-{n}") for n in (1, 2, 3, 4, 5)))
    assert [answer.state for answer in answers] == ["ended", "pending", "ended", "not_found", "not_found"]
    assert [answer.detail for answer in answers[3:]] == [None, "the reply does not mention it"]
    assert [read("mts", answers[place]).completions[0].id for place in (0, 2)] == [("j-1",), ("j-3",)]
    [query] = vendor.queries
    assert (query.api, query.version, query.action) == ("mts", "2014-06-18", LISTS[family][0])
    assert dict(query.parameters) == {LISTS[family][1]: "j-1,j-2,j-3,j-4,j-5"}
    assert FAMILIES[family].batch == 10


async def test_more_than_ten_take_several_calls():
    def reply(query):
        ids = query.parameters["SnapshotJobIds"].split(",")
        assert len(ids) <= 10
        return listed("snapshot", *(item("snapshot", job_id, "Success") for job_id in ids))

    vendor = Vendor(QuerySnapshotJobList=reply)
    answers = await ask(vendor, *(job("mts", "snapshot", f"j-{n}") for n in range(21)))
    assert [read("mts", answer).completions[0].job_id for answer in answers] == [f"j-{n}" for n in range(21)]
    assert len(vendor.queries) == 3


async def test_one_bad_id_does_not_hide_the_others():
    def reply(query):
        if "bad" in query.parameters["JobIds"]:
            raise refused("InvalidParameter.UUIDFormatInvalid", 400)
        ids = query.parameters["JobIds"].split(",")
        return listed("transcode", *(item("transcode", job_id, "TranscodeSuccess") for job_id in ids))

    answers = await ask(Vendor(QueryJobList=reply), *(job("mts", "transcode", name) for name in ("j-1", "bad", "j-2")))
    assert [answer.state for answer in answers] == ["ended", "not_found", "ended"]
    assert answers[1].detail == "the vendor says InvalidParameter.UUIDFormatInvalid"


@pytest.mark.parametrize("family", SINGLES)
async def test_jobs_with_a_question_of_their_own(family):
    action = SINGLES[family][0]
    vendor = vendor_of(family, "Success")
    await ask(vendor, job("mts", family, "j-1"), job("mts", family, "j-1"))
    assert [dict(query.parameters) for query in vendor.queries] == [{"JobId": "j-1"}] * 2
    assert (await ask_one(vendor, job("mts", family, "j-2"))).detail == "asked about j-2, the reply is about j-1"
    for code in ("InvalidJob.NotFound", "JobNotExist"):
        assert (await ask_one(Vendor(**{action: refused(code)}), job("mts", family))).state == "not_found"
    empty = await ask_one(Vendor(**{action: {"RequestId": "r"}}), job("mts", family))
    assert empty.state == ("not_found" if family == "mediacensor" else "pending")


async def test_what_is_not_about_the_job_is_raised():
    for error in (refused("InvalidAccessKeyId.NotFound"), VendorUnavailable("later")):
        with pytest.raises(type(error)):
            await ask(Vendor(QueryJobList=error), job("mts", "transcode", "j-1"), job("mts", "transcode", "j-2"))


async def test_a_family_without_a_query():
    vendor = Vendor()
    assert (await ask_one(vendor, job("mts", "other"))).state == "unlearnable"
    assert (await ask_one(vendor, job("mts", "snapshot", None))).state == "unlearnable"
    assert not vendor.queries


# Whether the vendor told us


@pytest.mark.parametrize(
    ("result", "notification"),
    [
        ({"MNSMessageResult": {"MessageId": "m-1"}}, "sent"),
        ({"MNSMessageResult": {"MessageId": "m-1", "ErrorCode": "InvalidParameter"}}, "sent"),
        ({"MNSMessageResult": {"ErrorCode": "QueueNotExist", "ErrorMessage": "no"}}, "not sent: QueueNotExist"),
        ({"MNSMessageResult": {}}, "not configured"),
        ({"MNSMessageResult": {"MessageId": "", "ErrorCode": ""}}, "not configured"),
        ({}, "not configured"),
    ],
)
@pytest.mark.parametrize("family", ["snapshot", "transcode", "mediainfo", "analysis"])
async def test_the_vendor_says_whether_it_told_us(family, result, notification):
    done = "TranscodeSuccess" if family == "transcode" else "Success"
    answer = await ask_one(vendor_of(family, done, **result), job("mts", family))
    assert answer.notification == notification


async def test_a_run_was_told_by_its_report():
    def execution(**result):
        activities = [
            {"Type": "Start", "State": "Success", "MNSMessageResult": {"MessageId": "m-1"}},
            {"Type": "Report", "State": "Success", **result},
        ]
        return vendor_of("run", "Completed", ActivityList={"Activity": activities})

    answer = await ask_one(execution(MNSMessageResult={"ErrorCode": "TopicNotExist"}), job("mts", "run"))
    assert answer.notification == "not sent: TopicNotExist"
    assert (await ask_one(execution(), job("mts", "run"))).notification == "not configured"
    assert (await ask_one(vendor_of("run", "Completed"), job("mts", "run"))).notification == "not configured"


async def test_other_jobs_do_not_say_whether_the_vendor_told_us():
    for family in (*SINGLES, "fpshot"):
        assert (await ask_one(vendor_of(family, "Success"), job("mts", family))).notification is None


# Outputs


def file(name):
    return {"Bucket": "b-1", "Location": "oss-cn-hangzhou", "Object": name}


async def test_a_snapshot():
    vendor = vendor_of(
        "snapshot",
        "Success",
        Code="InvalidParameter",
        Count="2",
        UserData="{}",
        SnapshotConfig={
            "OutputFile": file("a%2Fb-%7BCount%7D.jpg"),
            "TimeArray": {"TimePointList": [1000, 2500]},
            "Num": "2",
        },
    )
    found = await completion(vendor, job("mts", "snapshot"))
    assert (found.error, found.user_data) == (None, "{}")
    base = "http://b-1.oss-cn-hangzhou.aliyuncs.com/a/b-"
    assert found.outputs == (
        SnapshotOutput(
            url_template=f"{base}{{Count}}.jpg",
            count=2,
            urls=(f"{base}00001.jpg", f"{base}00002.jpg"),
            times_s=(1.0, 2.5),
        ),
    )


async def test_a_single_picture_has_one_url():
    vendor = vendor_of("snapshot", "Success", SnapshotConfig={"OutputFile": file("one.png"), "TimeArray": "1"})
    found = await output(vendor, job("mts", "snapshot"))
    assert (found.urls, found.times_s) == (("http://b-1.oss-cn-hangzhou.aliyuncs.com/one.png",), ())


@pytest.mark.parametrize(
    "place",
    [
        {},
        {"Bucket": "b-1", "Location": "oss-x"},
        file("x") | {"Bucket": "evil.example.com/"},
        file("x") | {"Location": "host"},
        file("x" * 2000),
    ],
)
async def test_a_place_that_makes_no_url(place):
    found = await output(vendor_of("snapshot", "Success", SnapshotConfig={"OutputFile": place}), job("mts", "snapshot"))
    assert (found.url_template, found.urls) == (None, ())


PROPERTIES = {
    "Width": "1280",
    "Height": "720",
    "Bitrate": "925.5",
    "Duration": "15",
    "Fps": "25.0",
    "FileSize": "1815321",
    "FileFormat": "QuickTime / MOV",
}
MEASURED = {
    "width": 1280,
    "height": 720,
    "bitrate_kbps": 925.5,
    "duration_s": 15.0,
    "fps": 25.0,
    "size_bytes": 1815321,
}


async def test_a_transcode_job():
    vendor = vendor_of(
        "transcode",
        "TranscodeSuccess",
        Output={
            "OutputFile": file("a b%20c%25.m3u8"),
            "Properties": PROPERTIES,
            "Container": {"Format": "m3u8"},
            "UserData": "mine",
        },
        FinishTime=TIME,
    )
    found = await completion(vendor, job("mts", "transcode"))
    assert (found.user_data, found.occurred_at) == ("mine", NOW)
    url = "http://b-1.oss-cn-hangzhou.aliyuncs.com/a%20b%20c%25.m3u8"
    assert found.outputs == (TranscodeOutput(job_id="j-1", url=url, format="m3u8", **MEASURED),)


async def test_media_info():
    found = await completion(vendor_of("mediainfo", "Success", Properties=PROPERTIES), job("mts", "mediainfo"))
    assert found.outputs == (MediaInfoOutput(**MEASURED),)
    assert (await completion(vendor_of("mediainfo", "Success"), job("mts", "mediainfo"))).outputs == ()


async def test_intelligent_jobs():
    produced = await completion(vendor_of("iproduction", "Success", FunctionName="Cover"), job("mts", "iproduction"))
    assert produced.outputs == (ProductionOutput(function="Cover"),)
    results = {"Result": [{"Type": "TextLabel", "Data": '{"tags": [1]}'}]}
    tagged = await completion(vendor_of("smarttag", "Success", Results=results), job("mts", "smarttag"))
    assert tagged.outputs == (AiOutput(result=[{"Type": "TextLabel", "Data": {"tags": [1]}}]),)
    reviewed = await completion(
        vendor_of("mediacensor", "Success", Suggestion="Block", FinishTime=TIME), job("mts", "mediacensor")
    )
    assert (reviewed.outputs, reviewed.occurred_at) == ((ReviewOutput(suggestion="block"),), NOW)
    shots = {"FpShots": {"FpShot": [{"PrimaryKey": "k", "Similarity": "0.9"}]}}
    compared = await completion(vendor_of("fpshot", "Success", FpShotResult=shots), job("mts", "fpshot"))
    assert compared.outputs == (FingerprintOutput(primary_key="k", similarity=0.9),)


async def test_a_failure_says_why():
    vendor = vendor_of("snapshot", "Fail", Code="SnapshotTimeOut", Message="too long", Count="1")
    found = await completion(vendor, job("mts", "snapshot"))
    assert found.error == EventError(code="SnapshotTimeOut", message="too long", retryable=False)
    assert found.outputs == ()


# Runs


def activity(name, activity_type, state="Success", **fields):
    return {"Name": name, "Type": activity_type, "State": state, "EndTime": TIME, **fields}


@pytest.mark.parametrize("flat", [False, True])
async def test_a_run_and_what_it_did(flat):
    activities = [
        activity("Act-7", "Report", MNSMessageResult={"MessageId": "m-1"}),
        activity("Act-1", "Start", JobId="j-start"),
        activity("Act-2", "Transcode", "Fail", JobId="j-2", Code="InvalidParameter.X", Message="bad"),
        activity("Act-3", "Snapshot", JobId="j-3"),
        activity("Act-4", "Transcode", "Skipped", JobId="j-4"),
    ]
    vendor = vendor_of(
        "run",
        "Completed",
        MediaId="m-1",
        Input={"InputFile": file("in.mp4"), "UserData": "mine"},
        ActivityList=activities if flat else {"Activity": activities},
    )
    answer = await ask_one(vendor, job("mts", "run"))
    failed, snapshot, run = read("mts", answer).completions
    assert (failed.family, failed.id, failed.outcome, failed.media_id) == ("transcode", ("j-2",), "failed", "m-1")
    assert (snapshot.family, snapshot.id, snapshot.outcome) == ("snapshot", ("j-3",), "succeeded")
    assert (run.family, run.id, run.outcome, run.user_data) == ("run", ("j-1",), "partial", "mine")
    assert run.error == EventError(code="InvalidParameter.X", message="bad", retryable=False)
    assert (run.occurred_at, run.media_id) == (NOW, "m-1")
    assert run.outputs[2] == WorkflowOutput(name="Act-2", type="Transcode", job_id="j-2", outcome="failed")
    assert len(run.outputs) == 5


# The same job, told by a callback


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("family", [family for family in WORDS if family != "run"])
async def test_a_reply_gives_the_event_of_the_callback(family, failed):
    outcome = "failed" if failed else "succeeded"
    word = next(word for word, meaning in WORDS[family].items() if meaning == outcome)
    answer = await ask_one(vendor_of(family, word, Code="X" if failed else ""), job("mts", family))
    told = callback("mts", NAMES[family], "j-1", failed=failed)
    assert identities("mts", read("mts", answer)) == identities("mts", told)


@pytest.mark.parametrize("failed", [False, True])
async def test_a_run_gives_the_events_of_its_report(failed):
    told = callback("mts", "Report", "j-1", failed=failed)
    stream = next(one.job_id for one in told.completions if one.family == "transcode")
    activities = [
        activity("Act-Report", "Report"),
        activity("HD", "Transcode", "Fail" if failed else "Success", JobId=stream, **({"Code": "X"} if failed else {})),
    ]
    answer = await ask_one(vendor_of("run", "Completed", ActivityList={"Activity": activities}), job("mts", "run"))
    assert identities("mts", read("mts", answer)) == identities("mts", told)
