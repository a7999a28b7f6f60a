import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.events import DATA_MODELS, EventError
from media_callbacks.model.outputs import AiOutput, FingerprintOutput, ProductionOutput, ReviewOutput, SnapshotOutput
from media_callbacks.sources.base import Message
from media_callbacks.sources.products import mts

SAMPLES = Path(__file__).parents[2] / "samples" / "mts"
VIDEO = "8e1f0c52a7b34d6990c1d2e3f4a5b601"
OTHER = "8e1f0c52a7b34d6990c1d2e3f4a5b602"
RUN = "8f8a0000000000000000000000000001"


def job(number):
    return f"b7d4{number:04d}c9e84f21a06b5d3c2e1f0a99"


def parse(body):
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return mts.parse(Message(payload, payload, "signature"))


def sample(name):
    return (SAMPLES / f"{name}.json").read_bytes()


def one(body):
    (completion,) = parse(body).completions
    return completion


# Per sample: kind, outcome, family and id of the key, job id, media id of each completion.
TABLE = {
    "analysis": [("analysis", "succeeded", "analysis", (job(210),), job(210), None)],
    "analysis_fail": [("analysis", "failed", "analysis", (job(211),), job(211), None)],
    "fp_shot_fail": [("fingerprint", "failed", "fpshot", (job(222),), job(222), None)],
    "fp_shot_inner": [("fingerprint", "succeeded", "fpshot", (job(221),), job(221), None)],
    "fp_shot_outer": [("fingerprint", "succeeded", "fpshot", (job(221),), job(221), None)],
    "iproduction": [("production", "succeeded", "iproduction", (job(212),), job(212), None)],
    "iproduction_fail": [("production", "failed", "iproduction", (job(214),), job(214), None)],
    "iproduction_user_data": [("production", "succeeded", "iproduction", (job(213),), job(213), None)],
    "media_censor_fail_inner": [("review", "failed", "mediacensor", (job(220),), job(220), None)],
    "media_censor_inner": [("review", "succeeded", "mediacensor", (job(219),), job(219), None)],
    "media_censor_outer": [("review", "succeeded", "mediacensor", (job(219),), job(219), None)],
    "media_info": [("media_info", "succeeded", "mediainfo", (job(208),), job(208), None)],
    "media_info_fail": [("media_info", "failed", "mediainfo", (job(209),), job(209), None)],
    "smarttag": [("ai", "succeeded", "smarttag", (job(217),), job(217), None)],
    "smarttag_fail": [("ai", "failed", "smarttag", (job(218),), job(218), None)],
    "smarttag_processing": [
        ("notice", "received", "smarttag", (job(217), "processing", "a751ccd46def34c52e80dd780506a553"), job(217), None)
    ],
    "snapshot_fail": [("snapshot", "failed", "snapshot", (job(207),), job(207), None)],
    "snapshot_plain": [("snapshot", "succeeded", "snapshot", (job(206),), job(206), None)],
    "snapshot_time_points": [("snapshot", "succeeded", "snapshot", (job(205),), job(205), None)],
    "text_to_speech": [("production", "succeeded", "iproduction", (job(215),), job(215), None)],
    "text_to_speech_fail": [("production", "failed", "iproduction", (job(216),), job(216), None)],
    "transcode": [("transcode", "succeeded", "transcode", (job(201),), job(201), None)],
    "transcode_2015": [("transcode", "succeeded", "transcode", (job(203),), job(203), None)],
    "transcode_fail": [("transcode", "failed", "transcode", (job(202),), job(202), None)],
    "transcode_without_request_id": [("transcode", "succeeded", "transcode", (job(204),), job(204), None)],
    "unknown_type": [("ai", "succeeded", "videoquality", (job(250),), job(250), None)],
    "workflow_report": [
        ("snapshot", "succeeded", "snapshot", (job(231),), job(231), VIDEO),
        ("transcode", "succeeded", "transcode", (job(232),), job(232), VIDEO),
        ("transcode", "succeeded", "transcode", (job(233),), job(233), VIDEO),
        ("workflow", "succeeded", "run", (RUN,), RUN, VIDEO),
    ],
    "workflow_report_documented_blanks": [
        ("transcode", "succeeded", "transcode", (job(234),), job(234), VIDEO),
        ("snapshot", "succeeded", "snapshot", (job(235),), job(235), VIDEO),
        ("workflow", "succeeded", "run", (RUN,), RUN, VIDEO),
    ],
    "workflow_report_fail": [
        ("analysis", "failed", "analysis", (job(240),), job(240), VIDEO),
        ("workflow", "failed", "run", (RUN,), RUN, VIDEO),
    ],
    "workflow_report_failed_activity": [
        ("transcode", "failed", "transcode", (job(236),), job(236), VIDEO),
        ("transcode", "succeeded", "transcode", (job(237),), job(237), VIDEO),
        ("notice", "received", "generatemasterplaylist", (job(239), "List", "2020-04-29T11:35:54Z"), job(239), VIDEO),
        ("workflow", "partial", "run", (RUN,), RUN, VIDEO),
    ],
    "workflow_start": [("notice", "received", "run-start", (RUN,), RUN, VIDEO)],
}


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


def test_snapshot_at_time_points():
    completion = one(sample("snapshot_time_points"))
    assert completion.outputs == (
        SnapshotOutput(
            url_template="http://media.example.com/out/Async-{Count}.jpg",
            count=5,
            urls=tuple(f"http://media.example.com/out/Async-0000{n}.jpg" for n in range(1, 6)),
            times_s=(10.05, 50.0, 110.0, 1000.5, 1100.5),
        ),
    )
    assert completion.user_data == "{}"
    assert completion.occurred_at is None


@pytest.mark.parametrize(
    "name, error",
    [
        ("transcode_fail", EventError(code="InvalidParameter.NoAudioStream", message="The input has no audio stream", retryable=False)),
        ("snapshot_fail", EventError(code="InvalidParameter.TimeArray", message="TimeArray greater than video duration.", retryable=False)),
        ("media_info_fail", EventError(code="TransientNetWorkError", message="try again", retryable=True)),
        ("analysis_fail", EventError(code="InternalError", message="internal", retryable=None)),
        ("iproduction_fail", EventError(code="InvalidParameter.NotSupported", message="not supported", retryable=False)),
        ("text_to_speech_fail", EventError(code="InvalidParameter.EmptyValue", message="text is empty", retryable=False)),
        ("media_censor_fail_inner", EventError(code="InvalidParameter.ResourceNotFound", message="no such object", retryable=False)),
        ("fp_shot_fail", EventError(code="Throttling", message="slow down", retryable=True)),
        ("smarttag_fail", EventError(code=None, message=None, retryable=None)),
    ],
)  # fmt: skip
def test_error(name, error):
    assert one(sample(name)).error == error


@pytest.mark.parametrize(
    "code, retryable",
    [
        ("TransientNetWorkError", True),
        ("Throttling.User", True),
        ("SnapshotTimeOut", False),
        ("InvalidIdentity.ServiceDisabled", False),
        ("InternalError", None),
        ("EntityNotExist.Role", False),
        ("PermissionDenied.ResourceAccess", False),
        ("PermissionDenied.JobInRunning", None),
        ("NotSupportedJob.Anything", False),
        ("NeverSeen", None),
    ],
)
def test_whether_it_is_worth_trying_again(code, retryable):
    assert one({"type": "Snapshot", "jobId": "j", "state": "Fail", "code": code}).error.retryable is retryable


@pytest.mark.parametrize(
    "name, outputs",
    [
        ("transcode", ()),
        ("iproduction", (ProductionOutput(function="VideoGreenScreenMatting"),)),
        ("text_to_speech", (ProductionOutput(function="TextToSpeech"),)),
        ("media_censor_inner", (ReviewOutput(suggestion="review"),)),
        ("media_censor_outer", (ReviewOutput(suggestion="review"),)),
        *(
            (
                name,
                (
                    FingerprintOutput(primary_key=VIDEO, similarity=0.87),
                    FingerprintOutput(primary_key=OTHER, similarity=0.5),
                ),
            )
            for name in ("fp_shot_inner", "fp_shot_outer")
        ),
    ],
)
def test_outputs(name, outputs):
    assert one(sample(name)).outputs == outputs


@pytest.mark.parametrize(
    "name, user_data",
    [
        ("transcode", None),
        ("transcode_fail", '{"order":7}'),
        ("iproduction_user_data", "test"),
        ("smarttag", "tag-1"),
        ("media_censor_inner", "outer"),
        ("media_censor_fail_inner", "inner"),
        ("fp_shot_inner", "dna"),
        ("workflow_report_documented_blanks", "test"),
        ("workflow_report_failed_activity", "{}"),
        ("workflow_start", None),
    ],
)
def test_user_data(name, user_data):
    assert {completion.user_data for completion in parse(sample(name)).completions} == {user_data}


def test_every_message_of_the_job_families_has_the_vendors_name():
    assert one(sample("transcode_2015")).vendor_event == "Transcode"
    assert one(sample("smarttag")).vendor_event == "smarttag"
    assert one(sample("text_to_speech")).vendor_event == "TextToSpeech"


def test_the_spelling_in_lower_case_wins_and_the_other_is_noted():
    for body in ({"JobId": "upper", "jobId": "lower"}, {"jobId": "lower", "JobId": "upper"}):
        parsed = parse({**body, "Type": "Transcode", "State": "Success"})
        assert parsed.completions[0].job_id == "lower"
        assert len(parsed.warnings) == 1


def test_the_case_of_a_type_does_not_matter():
    assert one({"Type": "SNAPSHOT", "JobId": "j"}).key("mts", "a") == one({"type": "snapshot", "jobId": "j"}).key(
        "mts", "a"
    )


@pytest.mark.parametrize(
    "state, outcome", [("Success", "succeeded"), ("Fail", "failed"), ("Surprise", "unknown"), (None, "unknown")]
)
def test_state(state, outcome):
    assert one({"Type": "Transcode", "JobId": "j", "State": state}).outcome == outcome


def test_every_state_of_a_tagging_job_is_told_and_the_end_has_the_key_of_the_job():
    submitted, processing, ended = (
        one({"Type": "smarttag", "JobId": "j", "State": state}) for state in ("Submitted", "Processing", "Success")
    )
    assert [submitted.kind, processing.kind, ended.kind] == ["notice", "notice", "ai"]
    assert ended.id == ("j",)
    assert len({submitted.id, processing.id, ended.id}) == 3


def test_a_result_object_instead_of_text():
    body = json.loads(sample("text_to_speech"))
    assert parse(body | {"result": json.loads(body["result"])}) == parse(body)


def test_a_censor_message_without_type_is_known_by_its_inner_object():
    body = json.loads(sample("media_censor_inner"))
    del body["Type"]
    assert parse(body) == parse(sample("media_censor_inner"))


NOTHING: list[Any] = [
    None,
    "",
    [],
    {},
    "{}",
    [{}],
    {"x": 1},
    {"Input": {}},
    {"Input": {"UserData": None}},
    {"ActivityList": [{}]},
]


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize("name", ["transcode", "text_to_speech", "media_info", "workflow_start"])
def test_an_execution_of_which_nothing_can_be_read_is_none(name, nothing):
    body = json.loads(sample(name))
    body.pop("MediaWorkflowExecution", None)
    assert told(body | {"MediaWorkflowExecution": nothing}) == told(body)


@pytest.mark.parametrize("nothing", [{}, "{}", [{}], {"x": 1}, {"JobId": None}, {"FpShots": [{}]}])
@pytest.mark.parametrize("member", ["MediaCensorJobNotify", "FpShotJobNotify"])
@pytest.mark.parametrize("name", ["text_to_speech", "text_to_speech_fail", "media_censor_inner", "fp_shot_inner"])
def test_a_notification_of_which_nothing_can_be_read_makes_no_type(name, member, nothing):
    body = json.loads(sample(name))
    body.pop("Type", None)
    if member not in body:
        assert told({member: nothing, **body}) == told(body)


def told(body):
    """Apart from hashes of the whole message."""
    return [(c.kind, c.outcome, c.family, c.job_id, c.outputs, c.error, c.user_data) for c in parse(body).completions]


# Workflows


def test_start_and_report_of_one_run_are_two_events():
    (start,) = parse(sample("workflow_start")).completions
    run = parse(sample("workflow_report")).completions[-1]
    assert start.job_id == run.job_id == RUN
    assert start.key("mts", "a").digest() != run.key("mts", "a").digest()


def test_activities_carry_media_user_data_and_their_own_end():
    transcode, snapshot, run = parse(sample("workflow_report_documented_blanks")).completions
    assert transcode.occurred_at == datetime(2016, 3, 15, 2, 53, 47, tzinfo=UTC)
    assert snapshot.occurred_at == datetime(2016, 3, 15, 2, 53, 45, tzinfo=UTC)
    assert {c.media_id for c in (transcode, snapshot, run)} == {VIDEO}
    assert {c.user_data for c in (transcode, snapshot, run)} == {"test"}
    assert run.occurred_at is None


def test_an_activity_and_the_message_of_its_job_are_one_event():
    activity = parse(sample("workflow_report")).completions[0]
    plain = one({"type": "Snapshot", "jobId": job(231), "state": "Success"})
    assert activity.key("mts", "a").digest() == plain.key("mts", "a").digest()


def test_a_run_lists_all_its_activities():
    run = parse(sample("workflow_report_failed_activity")).completions[-1]
    assert [(output.name, output.type, output.outcome) for output in run.outputs] == [
        ("Act-Start", "Start", "succeeded"),
        ("HD", "Transcode", "failed"),
        ("LD", "Transcode", "succeeded"),
        ("4K", "Transcode", "unknown"),
        ("List", "GenerateMasterPlayList", "succeeded"),
        ("Act-Report", "Report", "succeeded"),
    ]
    assert run.outputs[1].job_id == job(236)
    assert run.error == EventError(code="InvalidParameter.NoAudioStream", message="no audio", retryable=False)


def test_a_failed_run():
    analysis, run = parse(sample("workflow_report_fail")).completions
    assert analysis.error == EventError(code="InternalError", message="internal", retryable=None)
    assert run.error == EventError(code="InternalError", message="the run failed", retryable=None)


@pytest.mark.parametrize(
    "execution, report, activities, outcome",
    [
        ("Completed", "Success", ["Success"], "succeeded"),
        ("Success", "Success", ["Success"], "succeeded"),
        ("Completed", "Success", [], "succeeded"),
        ("Completed", "Success", ["Success", "Fail"], "partial"),
        ("Completed", "Success", ["Fail"], "partial"),
        ("Completed", "Fail", ["Success"], "partial"),
        ("Completed", "Success", ["Skipped"], "succeeded"),
        ("Running", "Success", ["Success"], "succeeded"),
        ("Fail", "Success", ["Success"], "failed"),
        (None, "Fail", ["Success"], "failed"),
        (None, None, ["Success"], "succeeded"),
        ("Surprise", "Success", ["Success"], "unknown"),
    ],
)
def test_outcome_of_a_run(execution, report, activities, outcome):
    listed = [{"Name": str(n), "Type": "Analysis", "State": state} for n, state in enumerate(activities)]
    body = {
        "RunId": RUN,
        "Type": "Report",
        "State": report,
        "MediaWorkflowExecution": {"State": execution, "ActivityList": listed},
    }
    assert one(body).outcome == outcome


@pytest.mark.parametrize(
    "activity",
    [
        {"Type": "Start", "JobId": "j", "State": "Success"},
        {"Type": "Report", "JobId": "j", "State": "Success"},
        {"Type": "Transcode", "State": "Success"},
        {"Type": "Transcode", "JobId": "j", "State": "Running"},
        {"Type": "Transcode", "JobId": "j", "State": "Skipped"},
        {"Type": "Transcode", "JobId": "j"},
        {"JobId": "j", "State": "Success"},
    ],
)
def test_activities_that_are_no_event(activity):
    body = {"RunId": RUN, "Type": "Report", "MediaWorkflowExecution": {"ActivityList": [activity]}}
    assert one(body).kind == "workflow"


def test_the_run_id_inside_the_execution_serves_too():
    assert one({"Type": "Report", "MediaWorkflowExecution": {"RunId": "r"}}).id == ("r",)


def test_a_report_without_execution():
    completion = one({"Type": "Report", "RunId": "r", "State": "Success"})
    assert (completion.kind, completion.outcome, completion.id) == ("workflow", "succeeded", ("r",))


def test_another_activity_that_reports_itself_does_not_end_the_run():
    completion = one({"Type": "Transcode", "RunId": "r", "Name": "HD", "MediaWorkflowExecution": {"RunId": "r"}})
    assert (completion.kind, completion.family, completion.id) == (
        "notice",
        "run-transcode",
        ("r", "HD", "4c64139f38fb59ff3590bb00bf50ce73"),
    )


@pytest.mark.parametrize(
    "body, problem",
    [
        ({"Type": "Transcode", "State": "Success"}, "jobId"),
        ({"jobId": "j", "state": "Success"}, "Type"),
        ({}, "Type"),
        ({"result": "{}"}, "jobId"),
        ({"jobId": "j", "result": None}, "Type"),
        ({"Type": "Report", "MediaWorkflowExecution": {}}, "RunId"),
        (b"<Notification/>", "JSON object"),
    ],
)
def test_unparseable(body, problem):
    with pytest.raises(Unparseable, match=problem):
        parse(body)


def test_an_unknown_type_without_job_id_is_known_by_its_content():
    first, again, other = one({"Type": "New", "a": 1}), one({"a": 1, "Type": "New"}), one({"Type": "New", "a": 2})
    assert (first.kind, first.outcome) == ("notice", "received")
    assert first.id == again.id != other.id


def test_a_run_without_input_has_no_user_data():
    assert one({"Type": "Report", "RunId": "r", "MediaWorkflowExecution": {}}).user_data is None


@pytest.mark.parametrize("value", [{"tags": ["a"]}, json.dumps({"tags": ["a"]})])
def test_tags_are_passed_on_decoded(value):
    body = json.loads(sample("smarttag"))
    assert one(body).outputs == ()
    assert one(body | {"Result": value}).outputs == (AiOutput(result={"tags": ["a"]}),)


def test_a_result_of_another_type_is_no_tag():
    assert one({"Type": "Analysis", "JobId": "j", "State": "Success", "Result": "x"}).outputs == ()


def test_times_that_make_no_sense_are_left_out_and_noted():
    parsed = parse(json.loads(sample("snapshot_time_points")) | {"TimeArray": [10, "soon"]})
    assert parsed.completions[0].outputs[0].times_s == ()
    assert parsed.warnings == ("TimeArray",)


def test_user_data_of_speech():
    assert one(json.loads(sample("text_to_speech")) | {"userData": " u "}).user_data == " u "


@pytest.mark.parametrize("result", [{}, "text", {"Code": ""}])
def test_speech_without_code_ended_in_a_way_that_nobody_knows(result):
    completion = one({"jobId": "j", "result": result})
    assert (completion.outcome, completion.outputs, completion.error) == ("unknown", (), None)


def test_a_fingerprint_message_without_type_is_known_by_its_inner_object():
    body = json.loads(sample("fp_shot_inner"))
    del body["Type"]
    assert parse(body) == parse(sample("fp_shot_inner"))


def test_a_job_message_with_a_run_id_is_still_a_job():
    completion = one({"Type": "Transcode", "JobId": "j", "RunId": "r", "State": "Success"})
    assert (completion.kind, completion.id) == ("transcode", ("j",))


def test_a_start_without_run_id_is_a_message_of_a_type_that_nobody_knows():
    completion = one({"Type": "Start", "State": "Success"})
    assert (completion.kind, completion.family) == ("notice", "start")


@pytest.mark.parametrize(
    "members, output",
    [
        ({"Count": 2}, SnapshotOutput(count=2)),
        ({"UrlPattern": "http://m/{Count}"}, SnapshotOutput(url_template="http://m/{Count}")),
    ],
)
def test_a_snapshot_that_tells_half(members, output):
    assert one({"Type": "Snapshot", "JobId": "j", "State": "Success"} | members).outputs == (output,)


def test_a_snapshot_that_tells_nothing_has_no_output():
    assert one(sample("snapshot_plain")).outputs == ()
