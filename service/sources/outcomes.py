"""The vendor's status words and error codes, in our words."""

from collections.abc import Mapping
from typing import Literal

from service.events import EventError, Kind, Outcome
from service.sources.fields import Fields

# Four spellings of success and five of failure, depending on product, event and age of the message
# (documented and observed; the lists are in vod.md 7.3, ims.md 8 and mts.md 2).
_OUTCOMES: Mapping[str, Outcome] = {
    "success": "succeeded",
    "succeed": "succeeded",
    "succeeded": "succeeded",
    "finished": "succeeded",
    "complete": "succeeded",
    "completed": "succeeded",
    "transcodesuccess": "succeeded",
    "fail": "failed",
    "failed": "failed",
    "failure": "failed",
    "error": "failed",
    "transcodefail": "failed",
    "partial-succeeded": "partial",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "transcodecancelled": "cancelled",
    "deleted": "cancelled",
}
# What is longer is no word, and may be asked about once for each of many events.
_MAX_WORD_CHARACTERS = 64
# AI events and intelligent productions have a code when nothing is wrong, too.
_NO_ERROR = frozenset({"0", "200", "ok", "success"})
_PROGRESS = frozenset(
    {
        "init",
        "inited",
        "reserved",
        "submitted",
        "queuing",
        "queueing",
        "waiting",
        "pending",
        "processing",
        "running",
        "analysing",
        "analyzing",
        "transcoding",
        "snapshoting",
    }
)


def read_outcome(word: str | None, *, missing: Outcome = "unknown") -> Outcome | Literal["progress"]:
    """A word that nobody has seen is ``unknown``, never a failure; ``progress`` means that nothing has ended yet."""
    if word is None:
        return missing
    if len(word) > _MAX_WORD_CHARACTERS:
        return "unknown"
    word = word.lower()
    return "progress" if word in _PROGRESS else _OUTCOMES.get(word, "unknown")


def judge(
    kind: Kind, identity: tuple[str, ...], word: str | None, *, missing: Outcome = "unknown"
) -> tuple[Kind, tuple[str, ...], Outcome]:
    """
    Kind, identity and outcome of a message with this status. A word of progress makes it a notice under an identity
    of its own, because the completion that is still to come has the other one.
    """
    outcome = read_outcome(word, missing=missing)
    if outcome == "progress":
        return "notice", (*identity, str(word).lower()), "received"
    return kind, identity, "received" if kind == "notice" else outcome


def has_outputs(outcome: Outcome) -> bool:
    """Whether a job that ended like this may have left something behind."""
    return outcome in ("succeeded", "partial", "unknown")


def read_error(
    fields: Fields, outcome: Outcome, *, code: tuple[str, ...], message: tuple[str, ...], retryable: Mapping[str, bool]
) -> EventError | None:
    """
    The error beside a status. A success has none, whatever code stands next to it: documented samples show
    ``Success`` together with ``ResourceNotFound``.
    """
    if outcome not in ("failed", "partial", "cancelled", "unknown"):
        return None
    code_text, message_text = fields.text(*code), fields.text(*message)
    if outcome != "failed" and (code_text or message_text or "ok").lower() in _NO_ERROR:
        return None
    return EventError.trusted(code=code_text, message=message_text, retryable=is_retryable(code_text, retryable))


def is_retryable(code: str | None, table: Mapping[str, bool]) -> bool | None:
    """Look a code up: in full, else by its first part (``InvalidParameter.TimeArray`` by ``InvalidParameter``)."""
    if code is None:
        return None
    if code in table:
        return table[code]
    return table.get(code[:_MAX_WORD_CHARACTERS].split(".", 1)[0])
