import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.events import EventError
from media_callbacks.model.outputs import AnimatedImageOutput
from media_callbacks.sources.base import Message
from media_callbacks.sources.products import multimediaai

SAMPLES = Path(__file__).parents[2] / "samples" / "multimediaai"
NONCE = "000102030405060708090a0b"
TASK = "43567811"


def parse(body=b"", query=""):
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    meta = {"nonce": NONCE, "bind": "00" * 16} | ({"query": query} if query else {})
    return multimediaai.parse(Message(payload, payload, "token", meta=meta))


def one(body=b"", query=""):
    (completion,) = parse(body, query).completions
    return completion


# Per sample: kind, outcome, job id. The key is the nonce, always.
TABLE = {
    "data_string_fail": ("animated_image", "failed", TASK),
    "empty_object": ("animated_image", "unknown", None),
    "flat_success": ("animated_image", "succeeded", TASK),
    "result_object_success": ("animated_image", "succeeded", TASK),
    "task_list_running": ("notice", "received", TASK),
    "without_status": ("animated_image", "unknown", TASK),
    "words_failed": ("animated_image", "failed", TASK),
}


def test_every_sample_has_a_row():
    assert {path.stem for path in SAMPLES.glob("*.json")} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_sample(name):
    completion = one((SAMPLES / f"{name}.json").read_bytes())
    assert (completion.kind, completion.outcome, completion.job_id) == TABLE[name]
    assert (completion.family, completion.id, completion.subject) == ("animated_image", (NONCE,), NONCE)
    assert (completion.media_id, completion.user_data, completion.occurred_at) == (None, None, None)
    assert (completion.binding, completion.vendor_event) == (completion.job_id, "CreateGifTask")
    assert (completion.error is not None) == (completion.outcome == "failed")


def test_the_picture_of_a_success():
    assert one((SAMPLES / "flat_success.json").read_bytes()).outputs == (
        AnimatedImageOutput(url="http://media.example.com/gif/43567811.gif", format="gif"),
    )


@pytest.mark.parametrize("name", ["GifUrl", "gifUrl", "ResultUrl", "Url", "url"])
def test_names_of_the_picture(name):
    completion = one({"Status": 2, "Result": {name: "http://media.example.com/1.gif"}})
    assert completion.outputs == (AnimatedImageOutput(url="http://media.example.com/1.gif", format="gif"),)


@pytest.mark.parametrize("name", ["VideoUrl", "ProcessResultUrl", "processResultUrl"])
def test_other_urls_are_not_the_picture(name):
    assert one({"Status": 2, name: "http://media.example.com/1.mp4"}).outputs == ()


def test_a_pre_signed_result_file_is_neither_the_picture_nor_told():
    completion = one((SAMPLES / "result_object_success.json").read_bytes())
    assert completion.outputs == ()
    assert "Signature" not in repr(completion)


def test_a_picture_of_a_failure_is_not_told():
    assert one({"Status": 3, "GifUrl": "http://media.example.com/1.gif"}).outputs == ()


@pytest.mark.parametrize(
    "body, error",
    [
        ({"ErrorCode": "1000", "ErrorMessage": "Download fail"}, ("1000", "Download fail", None)),
        ({"ErrorCode": "400", "ErrorName": "ServiceNotSelected"}, ("ServiceNotSelected", None, False)),
        ({"Code": "InternalError", "Message": "later"}, ("InternalError", "later", True)),
        ({"Code": "OK", "Result": {"ErrorCode": "1000", "ErrorReason": "r"}}, ("1000", "r", None)),
        ({"ErrorName": "n", "Result": {"Code": "OK"}}, ("n", None, None)),
        ({"ErrorCode": "c", "Result": {"Code": "OK"}}, ("c", None, None)),
        ({"ErrorMessage": "m", "Result": {"Code": "OK"}}, (None, "m", None)),
        ({"ErrorReason": "r", "Result": {"Code": "OK"}}, (None, "r", None)),
        ({"Code": "Forbidden", "Result": {"Status": 3}}, ("Forbidden", None, False)),
        ({"errorName": "Forbidden"}, ("Forbidden", None, False)),
        ({}, (None, None, None)),
    ],
)
def test_error(body, error):
    code, message, retryable = error
    assert one({"Status": 3, **body}).error == EventError(code=code, message=message, retryable=retryable)


@pytest.mark.parametrize(
    "code, retryable",
    [
        ("InternalError", True),
        ("ServiceUnavailable", True),
        ("UnknownError", True),
        ("InvalidParameter", False),
        ("InvalidParameterLengthLimit", False),
        ("MissingParameter", False),
        ("ResourceNotFound", False),
        ("Unauthorized", False),
        ("ServiceNotSelected", False),
        ("ServiceNotOpened", False),
        ("BalanceNotEnough", False),
        ("FileContentInvalid", False),
        ("Forbidden", False),
        ("Download fail", None),
    ],
)
def test_whether_it_is_worth_trying_again(code, retryable):
    assert one({"Status": 3, "Code": code}).error.retryable is retryable


WANTED = {"TaskId": 43567811, "Status": 2}


@pytest.mark.parametrize(
    "body",
    [
        WANTED,
        b"\xef\xbb\xbf" + json.dumps(WANTED).encode(),
        json.dumps(WANTED, indent=2).encode(),
        [WANTED],
        *({name: WANTED} for name in ("Result", "result", "Data", "data", "Task", "task", "Body", "body", "content")),
        {"Data": json.dumps(WANTED)},
        {"Data": [WANTED]},
        {"Data": [json.dumps(WANTED)]},
        {"Result": {"Message": "", "Url": None}, "Data": WANTED},
        {"Code": "OK", "Data": {"Result": {"Task": WANTED}}},
        b"TaskId=43567811&Status=2",
        b"task_id=43567811&State=SUCCESS",
        *(f"{name}={quote(json.dumps(WANTED))}".encode() for name in ("data", "result", "body", "content")),
        f"data={quote(json.dumps(WANTED, indent=2))}".encode(),
    ],
)
def test_every_shape_of_body(body):
    completion = one(body)
    assert (completion.job_id, completion.outcome) == (TASK, "succeeded")


@pytest.mark.parametrize("query", ["TaskId=43567811&Status=2", "data=" + quote(json.dumps(WANTED))])
@pytest.mark.parametrize("body", [b"", b"success", b"\xff"])
def test_a_query_where_the_body_says_nothing(body, query):
    completion = one(body, query)
    assert (completion.job_id, completion.outcome) == (TASK, "succeeded")


def test_the_body_comes_before_the_query():
    assert one({"TaskId": 1}, "TaskId=2").job_id == "1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"5",
        b'"success"',
        b"{",
        b"&" * 500,
        b"a=1&" * 200,
        b"[1,2]",
        {"Data": "text"},
    ],
)
def test_nothing_usable_is_still_an_event(body):
    completion = one(body)
    assert (completion.kind, completion.outcome, completion.job_id, completion.id) == (
        "animated_image",
        "unknown",
        None,
        (NONCE,),
    )


@pytest.mark.parametrize(
    "fields, task_id",
    [
        *(({name: 7}, "7") for name in ("TaskId", "taskId", "task_id", "taskid", "Id", "id", "TASK_ID")),
        ({"TaskId": " 7 "}, "7"),
        ({"TaskId": 9999999999999999999}, "9999999999999999999"),
        ({"TaskId": 10**19}, None),
        ({"TaskId": 7.0}, None),
        ({"TaskId": 7e3}, None),
        ({"TaskId": -7}, None),
        ({"TaskId": "+7"}, None),
        ({"TaskId": 0}, None),
        ({"TaskId": "7x"}, None),
        ({"TaskId": "٧"}, None),
        ({"TaskId": True}, None),
        ({"TaskId": {}}, None),
        ({"TaskId": 7, "Id": 8}, "7"),
        ({"TaskId": "x", "Id": 8}, None),
        ({"TaskId": "", "Id": 8}, "8"),
        ({"Id": 8, "Result": {"TaskId": 7}}, "7"),
        ({"RequestId": 7}, None),
    ],
)
def test_task_id(fields, task_id):
    completion = one(fields)
    assert (completion.job_id, completion.binding) == (task_id, task_id)


@pytest.mark.parametrize(
    "status, outcome",
    [
        (2, "succeeded"),
        ("2", "succeeded"),
        ("SUCCESS", "succeeded"),
        ("task_succeeded", "succeeded"),
        ("Finished", "succeeded"),
        (3, "failed"),
        ("3", "failed"),
        ("Fail", "failed"),
        ("process error", "failed"),
        ("finished with errors", "failed"),
        (0, "received"),
        ("1", "received"),
        ("Running", "received"),
        ("waiting", "received"),
        (4, "unknown"),
        (2.0, "unknown"),
        ("unsuccessful", "unknown"),
        ("unfinished", "unknown"),
        ("not finished", "unknown"),
        ("Surprise", "unknown"),
        (None, "unknown"),
        ({}, "unknown"),
    ],
)
@pytest.mark.parametrize("name", ["Status", "status", "State", "state", "TaskStatus", "task_status"])
def test_status(name, status, outcome):
    assert one({"TaskId": 7, name: status}).outcome == outcome


def test_the_inner_status_is_nearer_to_the_task():
    assert one({"Status": 2, "Result": {"Status": 3}}).outcome == "failed"
    assert one({"Status": 2, "Result": {"Status": "Surprise"}}).outcome == "succeeded"


def test_progress_has_the_key_of_the_task():
    """So that the first task id binds to the nonce whenever it comes."""
    progress = one({"TaskId": 7, "Status": 1})
    assert (progress.kind, progress.id, progress.binding) == ("notice", (NONCE,), "7")


def test_a_message_without_nonce_can_not_be_read():
    with pytest.raises(Unparseable, match="nonce"):
        multimediaai.parse(Message(b"{}", b"{}", "token"))


@given(st.binary(max_size=200), st.text(max_size=50))
@settings(max_examples=300, deadline=None)
def test_any_body_and_query_give_one_event_of_the_nonce(body, query):
    assert one(body, query).id == (NONCE,)


def test_a_form_value_that_can_not_be_stored_is_left_out():
    completion = one(b"Status=3&ErrorMessage=a%00b&TaskId=7")
    assert (completion.job_id, completion.error.message) == ("7", None)


def test_the_code_stands_where_the_status_does_not():
    assert one({"Code": "Forbidden", "Data": {"Status": 3, "TaskId": 7}}).error.code == "Forbidden"
