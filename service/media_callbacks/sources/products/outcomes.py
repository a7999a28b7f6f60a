"""The vendor's status words and error codes, in our words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from media_callbacks.model.events import EventError
from media_callbacks.model.kinds import Outcome
from media_callbacks.sources.reading.fields import Fields

Judged = Outcome | Literal["progress"]

# Which one comes depends on product, event and age of the message; documented, and some observed.
_OUTCOMES: Mapping[str, Judged] = {
    "success": "succeeded",
    "succeed": "succeeded",
    "succeeded": "succeeded",
    "finish": "succeeded",
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
    "completeallsucc": "succeeded",
    "completeallfail": "failed",
    "completepartialsucc": "partial",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "transcodecancelled": "cancelled",
    "deleted": "cancelled",
    "stopped": "cancelled",
    "init": "progress",
    "initial": "progress",
    "inited": "progress",
    "initialization": "progress",
    "created": "progress",
    "started": "progress",
    "paused": "progress",
    "executing": "progress",
    "pretraining": "progress",
    "training": "progress",
    "reserved": "progress",
    "submitted": "progress",
    "queuing": "progress",
    "queueing": "progress",
    "waiting": "progress",
    "pending": "progress",
    "processing": "progress",
    "running": "progress",
    "analysing": "progress",
    "analyzing": "progress",
    "transcoding": "progress",
    "snapshoting": "progress",
}
# What is longer is no word, and may be asked about once for each of many events.
_MAX_WORD_CHARACTERS = 64
# AI events and intelligent productions have a code when nothing is wrong, too.
_NO_ERROR = frozenset({"0", "200", "ok", "success"})


def read_outcome(word: str | None, *, missing: Outcome = "unknown") -> Judged:
    """A word that nobody has seen is ``unknown``, never a failure; ``progress`` means that nothing has ended yet."""
    if word is None:
        return missing
    if len(word) > _MAX_WORD_CHARACTERS:
        return "unknown"
    return _OUTCOMES.get(word.lower(), "unknown")


def whole_outcome(own: Judged, parts: Sequence[Judged]) -> Outcome:
    """
    How a thing of several parts ended: its own word says success when one of ten succeeded (documented), so the parts
    decide.

    Args:
        parts: A part that is said to be under way ended in a way that we were not told, since the whole ended.
    """
    if not parts:
        return "unknown" if own == "progress" else own
    ended: list[Outcome] = [
        "unknown" if outcome == "progress" or outcome == "received" else outcome  # noqa: PLR1714, mypy follows these
        for outcome in parts
    ]
    if all(outcome == ended[0] for outcome in ended):
        return ended[0]
    if "succeeded" in ended or "partial" in ended:
        return "partial"
    return "unknown" if "unknown" in ended else "failed"


def judge_parts(own: Judged, words: Iterable[str | None]) -> Judged:
    """
    How a whole ended whose parts say so themselves.

    Args:
        own: What it says of itself: where it failed though all parts succeeded, something else of it did.
        words: Those of its parts; a part without a word shares the fate of the whole, a skipped one is none.
    """
    if own == "progress" or own == "cancelled":  # noqa: PLR1714, mypy follows these and not a tuple
        return own
    parts = [read_outcome(word) if word else own for word in words if not is_skipped(word)]
    outcome = whole_outcome(own, parts)
    return "partial" if outcome == "succeeded" and own == "failed" else outcome


def is_skipped(word: str | None) -> bool:
    return word is not None and word[:_MAX_WORD_CHARACTERS].lower() in ("skip", "skipped")


def has_outputs(outcome: Outcome) -> bool:
    """Whether a job that ended like this may have left something behind."""
    return outcome in ("succeeded", "partial", "unknown")


def build_error(
    code: str | None, message: str | None, outcome: Outcome, retryable: Mapping[str, bool]
) -> EventError | None:
    """
    The error beside a status. A success has none, whatever code stands next to it: documented samples show
    ``Success`` together with ``ResourceNotFound``.
    """
    if outcome not in ("failed", "partial", "cancelled", "unknown"):
        return None
    code, message = code or None, message or None
    if outcome != "failed" and (code or message or "ok").lower() in _NO_ERROR:
        return None
    return EventError.trusted({"code": code, "message": message, "retryable": is_retryable(code, retryable)})


def read_error(
    fields: Fields, outcome: Outcome, *, code: tuple[str, ...], message: tuple[str, ...], retryable: Mapping[str, bool]
) -> EventError | None:
    """The same of a reply."""
    return build_error(fields.text(*code), fields.text(*message), outcome, retryable)


def is_retryable(code: str | None, table: Mapping[str, bool]) -> bool | None:
    """Look a code up: in full, else by its first part (``InvalidParameter.TimeArray`` by ``InvalidParameter``)."""
    if code is None:
        return None
    if code in table:
        return table[code]
    return table.get(code[:_MAX_WORD_CHARACTERS].split(".", 1)[0])
