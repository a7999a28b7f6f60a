"""What holds for every product, whatever the vendor says."""

import asyncio
import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.healing.queries.base import JobAnswer
from media_callbacks.healing.queries.catalogue import QUERIES
from media_callbacks.healing.queries.replies import find_object, find_objects, find_texts
from media_callbacks.model.errors import Unparseable
from media_callbacks.model.events import DATA_MODELS
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.kinds import PRODUCTS
from media_callbacks.sources.base import Message

FAMILIES = [
    (product, family)
    for product in PRODUCTS
    for family in (*QUERIES[product].families, *QUERIES[product].asset_families)
]


def row_of(product, family):
    found = QUERIES[product].find(family)
    assert found is not None
    return found


OUTPUTS = {kind: get_args(model.model_fields["outputs"].annotation)[:1] for kind, model in DATA_MODELS.items()}
ASKED = [(product, family) for product, family in FAMILIES if row_of(product, family).batch]

# Names and words that the modules look for, so that random replies get far.
NAMES = st.sampled_from(
    [
        "DynamicImageList", "TranscodeTask", "TranscodeJobInfoList", "TranscodeJobId", "TranscodeJobStatus", "TaskStatus",
        "SnapshotJobDetail", "AIJobDetail", "WorkflowTaskDetail", "DynamicImageJob", "SnapshotJob", "TranscodeParentJob",
        "TranscodeJobList", "Job", "OutputDetails", "MediaProducingJob", "EditingBatchJob", "SubJobList", "WorkflowTask",
        "SnapshotJobList", "JobList", "MediaWorkflowExecutionList", "MediaWorkflowExecution", "ActivityList", "Activity",
        "JobId", "Id", "RunId", "TaskId", "State", "Status", "JobStatus", "Type", "Output", "OutputFile", "Properties",
        "MNSMessageResult", "ErrorCode", "NonExistJobIds", "SnapshotUrls", "Total", "Tasks", "Result", "ProcessResultUrl",
        "URLUploadInfoList", "MediaSnapshot", "SnapshotInfos", "SpriteConfig", "MediaAuditJob", "AIJobList", "AIJob", "Data",
        "Mezzanine", "MediaAuditResult", "DNAResult", "VideoTagResult", "TranscodeJobDetail", "JobResult", "Results",
        "VideoName", "VideoId", "CompleteTime", "FinishTime", "UserData", "Input", "TaskInput", "MediaCensorJobDetail",
    ]
)  # fmt: skip
WORDS = st.sampled_from(
    ["Success", "Fail", "Complete", "Completed", "CompleteAllSucc", "TranscodeSuccess", "Succeed", "Finished", "2", "3"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | WORDS
    | st.sampled_from(["j-1", "1", "\ud800", "a\0b", "{}", '[{"JobId": "j-1"}]', "9" * 400, "x" * 5000])
    | st.text(max_size=8)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=5),
    max_leaves=25,
)


def reference(product, family, job_id):
    return JobReference(
        product=product, account="default", family=family, job_id=job_id, media_id="m-1", nonce=None, bind=None
    )


def ask(product, references, call):
    async def answers():
        return await QUERIES[product].ask(references, call)

    return asyncio.run(answers())


def check_events(parsed):
    assert parsed.completions
    for one in parsed.completions:
        assert one.outcome != "received" or one.kind == "notice"
        assert one.id[0]
        for output in one.outputs:
            assert isinstance(output, OUTPUTS[one.kind])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(ASKED), st.dictionaries(NAMES, JSON, max_size=8), st.sampled_from(["j-1", "1"]))
def test_any_reply_gives_answers(which, reply, job_id):
    product, family = which
    queries = QUERIES[product]

    async def call(_):
        return reply

    references = [reference(product, family, name) for name in (job_id, "2")[: row_of(product, family).batch]]
    answers = ask(product, references, call)
    assert len(answers) == len(references)
    for answer in answers:
        assert answer.detail is None or len(answer.detail) < 300
        if answer.state == "ended":
            message = Message(answer.body, answer.body, "query", meta=answer.meta)
            parsed = queries.parse(message)
            check_events(parsed)
            assert parsed.completions == queries.parse(message).completions
        else:
            assert answer.body == b""


@pytest.mark.parametrize(("product", "family"), ASKED)
def test_a_job_of_the_right_shape_ends(product, family):
    """So that the test above is about more than refusals."""
    words = {
        "State": "Success", "Status": "Success", "JobStatus": "Success", "TaskStatus": "CompleteAllSucc",
        "TranscodeJobStatus": "TranscodeSuccess",
        "JobId": "1", "TranscodeJobId": "1", "VideoId": "m-1",
    }  # fmt: skip
    if product == "multimediaai":
        words["Status"] = "2"
    if family in QUERIES[product].asset_families:
        words["Status"] = "Normal"

    names = [
        "SnapshotJobDetail", "AIJobDetail", "WorkflowTaskDetail", "DynamicImageJob", "SnapshotJob", "TranscodeParentJob",
        "Job", "MediaProducingJob", "EditingBatchJob", "WorkflowTask", "MediaCensorJobDetail", "TranscodeTask", "Result",
        "Mezzanine",
    ]  # fmt: skip
    lists = [
        "DynamicImageList", "TranscodeJobInfoList", "SnapshotJobList", "JobList", "MediaInfoJobList", "AnalysisJobList",
        "FpShotJobList", "MediaWorkflowExecutionList", "URLUploadInfoList",
    ]  # fmt: skip
    run = {key: word for key, word in words.items() if key != "JobId"} | {"RunId": "1"}
    reply = {**words, **dict.fromkeys(names, words), **{name: [words, run] for name in lists}}

    async def call(_):
        return reply

    [answer] = ask(product, [reference(product, family, "1")], call)
    assert answer.state == "ended", answer
    check_events(QUERIES[product].parse(Message(answer.body, answer.body, "query", meta=answer.meta)))


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(PRODUCTS),
    st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {},
        optional={
            "action": st.text(max_size=5),
            "family": st.sampled_from([family for _, family in FAMILIES]) | st.text(max_size=5),
            "job_id": st.sampled_from(["j-1", ""]) | st.text(max_size=5),
            "media_id": st.text(max_size=5),
            "nonce": st.text(max_size=5),
        },
    ),
)
def test_any_body_is_parsed_or_refused(product, body, meta):
    message = Message(body, body, "query", meta=meta)
    try:
        parsed = QUERIES[product].parse(message)
    except Unparseable:
        return
    check_events(parsed)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("meta", [{}, {"family": "snapshot"}, {"family": "Odd", "job_id": "j-1"}])
def test_a_body_without_its_meta_is_refused(product, meta):
    if product == "multimediaai" and "job_id" in meta:
        meta = {"family": "animated_image"}
    body = b'{"Status": "Success", "State": "Success"}'
    with pytest.raises(Unparseable):
        QUERIES[product].parse(Message(body, body, "query", meta=meta))


@pytest.mark.parametrize(("product", "family"), ASKED)
def test_a_job_that_has_not_ended_is_refused(product, family):
    body = b'{"Status": "Running", "State": "Running", "JobStatus": "Running", "TaskStatus": "Processing"}'
    if (product, family) == ("vod", "animated_image"):
        return  # being listed is its only state
    with pytest.raises(Unparseable):
        QUERIES[product].parse(Message(body, body, "query", meta={"family": family, "job_id": "j-1"}))


@pytest.mark.parametrize(("product", "family"), FAMILIES)
def test_kinds_exist_and_no_family_gives_notices(product, family):
    row = row_of(product, family)
    assert row.kind in DATA_MODELS
    assert row.kind != "notice"
    assert row.batch >= 0


def nested(levels):
    value: object = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [100, 100_000])
def test_a_reply_that_is_nested_too_deeply_is_asked_for_again(levels):
    async def call(_):
        return {"SnapshotJob": {"JobId": "j-1", "Status": "Fail", "Input": nested(levels)}}

    [answer] = ask("ims", [reference("ims", "SnapshotComplete", "j-1")], call)
    assert isinstance(answer, JobAnswer)
    assert answer.state == "pending"
    assert "nested" in (answer.detail or "")


ONE, TWO = {"Id": "1"}, {"Id": "2"}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([ONE, TWO], [ONE, TWO]),
        ({"Job": [ONE, TWO]}, [ONE, TWO]),
        ({"job": [ONE, "odd", TWO]}, [ONE, TWO]),
        (json.dumps([ONE, TWO]), [ONE, TWO]),
        (ONE, [ONE]),
        ({"Job": ONE}, [ONE]),
        (None, []),
        ("", []),
        (7, []),
        ({"Job": None}, []),
        ({"Job": 7}, []),
    ],
)
def test_a_list_in_every_wrapping(value, found):
    assert find_objects({"JobList": value}, "JobList", "Job") == found
    assert find_objects({"jobList": value}, "JobList", "Job") == found


NO_LISTS: list[Any] = [None, {}, 7, {"String": None}]


@pytest.mark.parametrize(
    ("value", "found"),
    [(ONE, ONE), ([ONE], ONE), (json.dumps(ONE), ONE), ([ONE, TWO], None), ("x", None), (None, None)],
)
def test_an_object_in_every_wrapping(value, found):
    assert find_object({"job": value}, "Job") == found


TWO_IDS: list[Any] = [["a ", "b", 7], {"String": ["a", "b"]}, '["a", "b"]']


@pytest.mark.parametrize("value", TWO_IDS)
def test_ids_in_every_wrapping(value):
    assert find_texts({"Missing": value}, "Missing") == {"a", "b"}
    assert find_texts({"missing": {"String": "a"}}, "Missing") == {"a"}


@pytest.mark.parametrize("value", NO_LISTS)
def test_no_ids(value):
    assert find_texts({"Missing": value}, "Missing") == frozenset()
