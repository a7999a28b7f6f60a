import html
import json

import pytest

from media_callbacks.healing.queries.multimediaai import FAMILIES
from media_callbacks.model.errors import VendorRefused, VendorUnavailable
from media_callbacks.model.events import EventError
from media_callbacks.model.outputs import AnimatedImageOutput
from media_callbacks.rehearsal.payloads import PAYLOADS
from media_callbacks.sources.base import Message
from media_callbacks.sources.products import multimediaai
from media_callbacks.sources.transports.url_tokens import bind_task
from tests.healing.queries.vendor import NOW, Vendor, ask, ask_one, completion, identities, job, read, refused

NONCE = "5f0c9d3a11e24b7788aa01ff"
APPLICATION, URL, NAME = "app-1", "https://v.example.com/in.mp4?a=1&b=2", f"clip-{NONCE}.mp4"
BIND = bind_task(APPLICATION, URL, NAME).hex()
RESULT_URL = "http://b.oss-cn-beijing.aliyuncs.com/processResult/r.txt?Expires=1&amp;Signature=s%3D"


def reference(job_id="77", *, nonce=NONCE, bind=BIND):
    return job("multimediaai", "animated_image", job_id, nonce=nonce, bind=bind)


def result(**fields):
    made = {"ApplicationId": APPLICATION, "VideoUrl": URL, "VideoName": NAME, "ProcessResultUrl": RESULT_URL}
    return made | fields


def vendor_of(status=2, *, tasks=(), **fields):
    return Vendor(
        GetTaskStatus={"Status": status, "RequestId": "r"},
        GetTaskResult={"Status": status, "RequestId": "r", "Result": result(**fields)},
        ListTasks=tasks if callable(tasks) else {"Tasks": list(tasks), "TotalCount": len(tasks)},
    )


def task(task_id, **fields):
    return {"TaskId": task_id, "Status": "2", "Template": {"Id": "1"}, **result(**fields)}


async def test_a_task_that_succeeded():
    vendor = vendor_of()
    found = await completion(vendor, reference())
    assert (found.family, found.id, found.job_id, found.binding) == ("animated_image", (NONCE,), "77", "77")
    assert (found.outcome, found.vendor_event, found.subject) == ("succeeded", "CreateGifTask", NONCE)
    assert found.outputs == (AnimatedImageOutput(url=html.unescape(RESULT_URL), format="txt"),)
    assert [(query.action, dict(query.parameters)) for query in vendor.queries] == [
        ("GetTaskStatus", {"TaskId": "77"}),
        ("GetTaskResult", {"TaskId": "77"}),
    ]
    assert {(query.api, query.version) for query in vendor.queries} == {("multimediaai", "2019-08-10")}


async def test_a_task_that_failed():
    found = await completion(
        vendor_of(3, ErrorCode="1000", ErrorMessage="Download fail", ErrorName="InternalError"), reference()
    )
    assert (found.outcome, found.outputs) == ("failed", ())
    assert found.error == EventError(code="InternalError", message="Download fail", retryable=True)


async def test_a_task_without_a_minted_url_goes_by_its_id():
    found = await completion(vendor_of(VideoName="x"), reference(nonce=None, bind=None))
    assert (found.id, found.binding, found.subject) == (("77",), None, "77")


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (0, None),
        ("1", None),
        (4, "4 is not a known state"),
        ("done", "done is not a known state"),
        (None, "the reply has no state"),
    ],
)
async def test_a_task_that_has_not_ended(status, detail):
    vendor = vendor_of(status)
    answer = await ask_one(vendor, reference())
    assert (answer.state, answer.detail) == ("pending", detail)
    assert vendor.actions == ["GetTaskStatus"]


async def test_replies_that_contradict_each_other():
    vendor = vendor_of()
    vendor.replies["GetTaskResult"] = {"Status": 1}
    assert (await ask_one(vendor, reference())).state == "pending"
    vendor.replies["GetTaskResult"] = {"Status": 2}
    answer = await ask_one(vendor, reference())
    assert (answer.state, answer.detail) == ("pending", "the task ended, but the reply has no Result")
    vendor.replies["GetTaskResult"] = {"Status": "3", "Result": result()}
    assert read("multimediaai", await ask_one(vendor, reference())).completions[0].outcome == "failed"


@pytest.mark.parametrize(
    "url",
    [
        None,
        "javascript:alert(1)",
        "http://" + "x" * 2048,
    ],
)
async def test_a_result_that_is_no_url(url):
    assert (await completion(vendor_of(ProcessResultUrl=url), reference())).outputs == ()


# Whose task it is


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "ended"),
        ({"VideoUrl": html.escape(URL)}, "ended"),
        # Written another way, but the nonce is in the name.
        ({"VideoUrl": "https://v.example.com/in.mp4%3Fa=1"}, "ended"),
        ({"VideoUrl": "https://other", "VideoName": f"{NONCE.upper()}.mp4"}, "ended"),
        ({"VideoName": "other.mp4"}, "foreign"),
        ({"VideoUrl": "https://other", "VideoName": "other.mp4"}, "foreign"),
        ({"ApplicationId": "app-2", "VideoName": "other"}, "foreign"),
        ({"VideoName": None}, "foreign"),
        ({"VideoName": "\ud800"}, "foreign"),
    ],
)
@pytest.mark.parametrize("status", [2, 3])
async def test_only_the_task_that_the_url_was_made_for(fields, state, status):
    answer = await ask_one(vendor_of(status, **fields), reference())
    assert answer.state == state
    if state == "foreign":
        assert answer.body == b""
        assert answer.detail == "task 77 is for another application or video than the URL was made for"


async def test_a_name_without_nonce_is_bound_by_the_hash():
    bind = bind_task(APPLICATION, URL, "plain.mp4").hex()
    for url in (URL, html.escape(URL)):
        vendor = vendor_of(VideoName="plain.mp4", VideoUrl=url)
        assert (await ask_one(vendor, reference(bind=bind))).state == "ended"


# When there is none, or no answer


async def test_a_task_that_does_not_exist():
    vendor = Vendor(GetTaskStatus=refused("ResourceNotFound"))
    answer = await ask_one(vendor, reference())
    assert (answer.state, answer.detail) == ("not_found", "the vendor says ResourceNotFound")


@pytest.mark.parametrize("task_id", ["0", "-1", "12345678901234567890", "abc", "7 7"])
async def test_an_id_that_is_none(task_id):
    vendor = Vendor()
    assert (await ask_one(vendor, reference(task_id))).state == "not_found"
    assert not vendor.queries


@pytest.mark.parametrize("error", [refused("Unauthorized", 401), VendorUnavailable("later")])
async def test_each_task_that_could_not_be_asked_about_has_the_error(error):
    for vendor in (Vendor(GetTaskStatus=error), Vendor(GetTaskStatus={"Status": 2}, GetTaskResult=error)):
        assert await ask(vendor, reference(), reference("78")) == [error, error]
    assert await ask(Vendor(ListTasks=error), reference(None)) == [error]


async def test_one_error_does_not_hide_the_others():
    def status(query):
        if query.parameters["TaskId"] == "1":
            raise VendorUnavailable("broken")
        return {"Status": 2}

    vendor = vendor_of()
    vendor.replies |= {"GetTaskStatus": status, "ListTasks": refused("Forbidden", 403)}
    answers = await ask(vendor, reference("1"), reference(None), reference("77"))
    assert [str(answer) for answer in answers[:2]] == ["broken", "refused"]
    assert answers[2].state == "ended"


async def test_when_throttled_no_more_is_asked():
    calls = []

    def status(query):
        calls.append(query.parameters["TaskId"])
        if len(calls) > 1:
            raise VendorUnavailable("slow down", is_throttled=True)
        return {"Status": 1}

    answers = await ask(Vendor(GetTaskStatus=status), *(reference(str(n)) for n in range(1, 6)))
    assert calls == ["1", "2"]
    assert answers[0].state == "pending"
    assert [str(answer) for answer in answers[1:]] == ["slow down"] * 4


# Searching the list


async def test_tasks_without_an_id_are_found_by_name_or_hash():
    plain = "7" * 24
    bind = bind_task(APPLICATION, URL, "plain.mp4").hex()
    tasks = [
        {"TaskId": "", "VideoName": NAME},
        task("99", VideoName="other.mp4"),
        task("80"),
        task(79),
        task("82"),
        task("81", VideoName="plain.mp4"),
    ]
    vendor = vendor_of(tasks=tasks)
    vendor.replies["GetTaskResult"] = lambda query: {
        "Status": 2,
        "Result": result(VideoName="plain.mp4" if query.parameters["TaskId"] == "81" else NAME),
    }
    unknown = reference(None, nonce="1" * 24, bind="0" * 32)
    answers = await ask(vendor, reference(None), unknown, reference(None, nonce=plain, bind=bind), reference("5"))
    assert [answer.state for answer in answers] == ["ended", "not_found", "ended", "ended"]
    assert answers[1].detail == "no task in the list is the one that the URL was made for"
    found = [read("multimediaai", answers[place]).completions[0] for place in (0, 2, 3)]
    # Three tasks carry the nonce: a URL is bound to the first.
    assert [(one.id, one.job_id) for one in found] == [((NONCE,), "79"), ((plain,), "81"), ((NONCE,), "5")]
    listings = [dict(query.parameters) for query in vendor.queries if query.action == "ListTasks"]
    assert listings == [{"PageNumber": "1", "PageSize": "100", "ServiceType": "3"}]
    assert FAMILIES["animated_image"].batch > 1


async def test_the_list_is_read_to_its_end():
    def tasks(query):
        page = int(query.parameters["PageNumber"])
        return {"Tasks": [task("77")] if page == 3 else [task("1", VideoName="x")] * 100, "TotalCount": "450"}

    vendor = vendor_of(tasks=tasks)
    assert (await ask_one(vendor, reference(None))).state == "ended"
    assert vendor.actions == ["ListTasks"] * 3 + ["GetTaskStatus", "GetTaskResult"]
    vendor = vendor_of(tasks=lambda _: {"Tasks": [task("1", VideoName="x")] * 100, "TotalCount": "450"})
    assert (await ask_one(vendor, reference(None))).state == "not_found"
    assert vendor.actions == ["ListTasks"] * 5


async def test_a_list_without_an_end_is_given_up():
    vendor = vendor_of(tasks=lambda _: {"Tasks": [task("1", VideoName="x")]})
    assert (await ask_one(vendor, reference(None))).state == "not_found"
    assert len(vendor.queries) == 50


@pytest.mark.parametrize("tasks", [{}, {"Tasks": []}, {"Tasks": {"TaskId": "", "VideoName": ""}, "TotalCount": ""}])
async def test_an_empty_list(tasks):
    """The documented sample is one object of empty texts."""
    answer = await ask_one(
        vendor_of(tasks=lambda query: tasks if query.parameters["PageNumber"] == "1" else {}), reference(None)
    )
    assert answer.state == "not_found"


async def test_the_list_may_be_one_object():
    assert (await ask_one(vendor_of(tasks=lambda _: {"Tasks": task("77")}), reference(None))).state == "ended"


# The same job, told by a callback


@pytest.mark.parametrize("failed", [False, True])
async def test_a_reply_gives_the_event_of_the_callback(failed):
    payload = PAYLOADS["multimediaai"]["CreateGifTask"]("j-1", NOW, failed)
    body = json.dumps(payload).encode()
    told = multimediaai.parse(Message(body, body, "token", meta={"nonce": NONCE, "bind": BIND}))
    answer = await ask_one(vendor_of(3 if failed else 2, ErrorCode="1000"), reference(str(payload["TaskId"])))
    assert identities("multimediaai", read("multimediaai", answer)) == identities("multimediaai", told)
    assert read("multimediaai", answer).completions[0].binding == told.completions[0].binding


async def test_the_vendor_refuses_a_result():
    vendor = Vendor(GetTaskStatus={"Status": 2}, GetTaskResult=refused("Forbidden", 403))
    with pytest.raises(VendorRefused):
        await ask_one(vendor, reference())
