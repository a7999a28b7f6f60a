import pytest

from media_callbacks.model.events import EventError
from media_callbacks.model.kinds import OUTCOMES
from media_callbacks.sources.products.outcomes import has_outputs, is_retryable, judge_parts, read_error, read_outcome
from media_callbacks.sources.reading.fields import Fields


@pytest.mark.parametrize(
    "outcome, words",
    [
        ("succeeded", "success Success SUCCESS succeed Succeed succeeded Finished Complete Completed TranscodeSuccess"),
        ("failed", "fail Fail failed Failed failure Error TranscodeFail"),
        ("partial", "partial-succeeded"),
        ("cancelled", "Cancelled Canceled TranscodeCancelled Deleted"),
        (
            "progress",
            "Created Executing Initial Started Paused Training Init Inited Submitted Queuing Processing Running Analysing Transcoding Snapshoting pending",
        ),
        ("unknown", "Surprise Skipped ok succes unsuccessful"),
    ],
)
def test_words(outcome, words):
    for word in words.split():
        assert read_outcome(word) == outcome, word


def test_no_word():
    assert read_outcome(None) == "unknown"
    assert read_outcome(None, missing="succeeded") == "succeeded"
    assert read_outcome("Surprise", missing="succeeded") == "unknown"


@pytest.mark.parametrize(
    "own, parts, outcome",
    [
        ("succeeded", ["Success", "Success"], "succeeded"),
        ("succeeded", ["Success", "Failed"], "partial"),
        ("succeeded", ["Failed", "Failed"], "failed"),
        ("succeeded", ["Success", None], "succeeded"),
        ("failed", ["Success", None], "partial"),
        ("failed", ["Success"], "partial"),
        ("failed", ["Failed", "Skipped"], "failed"),
        ("succeeded", ["Success", "Skipped"], "succeeded"),
        ("succeeded", ["Skipped"], "succeeded"),
        ("succeeded", ["Running", "Failed"], "unknown"),
        ("cancelled", ["Success"], "cancelled"),
        ("progress", ["Success"], "progress"),
        ("unknown", ["Success"], "succeeded"),
        ("succeeded", [], "succeeded"),
    ],
)
def test_a_whole_ends_as_its_parts_do(own, parts, outcome):
    assert judge_parts(own, parts) == outcome


def test_which_outcomes_leave_something_behind():
    assert [outcome for outcome in OUTCOMES if has_outputs(outcome)] == ["succeeded", "partial", "unknown"]


def error(values, outcome):
    return read_error(
        Fields(values), outcome, code=("ErrorCode", "Code"), message=("ErrorMessage",), retryable={"T": True}
    )


FOUND = EventError(code="T.User", message="slow down", retryable=True)
NOTHING = EventError(code=None, message=None, retryable=None)


@pytest.mark.parametrize(
    "outcome, with_code, without",
    [
        ("succeeded", None, None),
        ("received", None, None),
        ("failed", FOUND, NOTHING),
        ("partial", FOUND, None),
        ("cancelled", FOUND, None),
        ("unknown", FOUND, None),
    ],
)
def test_error_by_outcome(outcome, with_code, without):
    """A failure always has one; a success never, whatever stands beside it; the others where the vendor says."""
    assert error({"Code": "T.User", "ErrorMessage": "slow down"}, outcome) == with_code
    assert error({}, outcome) == without


@pytest.mark.parametrize("code", ["0", "200", "OK", "Success"])
def test_codes_that_say_that_nothing_is_wrong(code):
    assert error({"Code": code, "ErrorMessage": "ok"}, "unknown") is None
    assert error({"Code": code}, "failed") == EventError(code=code, message=None, retryable=None)


def test_a_text_alone_tells_of_an_error_too():
    assert error({"ErrorMessage": "slow down"}, "unknown") == EventError(code=None, message="slow down", retryable=None)
    assert error({"ErrorMessage": "OK"}, "unknown") is None


def test_the_first_name_with_text_is_the_code():
    assert error({"ErrorCode": " ", "Code": "b"}, "failed").code == "b"
    assert error({"ErrorCode": "a", "Code": "b"}, "failed").code == "a"


@pytest.mark.parametrize(
    "code, retryable",
    [
        (None, None),
        ("A", True),
        ("A.B", False),
        ("A.C", True),
        ("A.C.D", True),
        ("a", None),
        ("B", None),
        ("", None),
        (".A", None),
    ],
)
def test_retryable_by_full_code_else_by_its_first_part(code, retryable):
    assert is_retryable(code, {"A": True, "A.B": False}) is retryable


def test_a_code_of_many_parts_is_known_by_its_first():
    assert is_retryable("A.B.C", {"A": True, "A.B": False}) is True
