"""Single values in questions, orders and answers: how each is written, and what is said where it is not."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from media_callbacks.inbox.records import CURSOR_PATTERN
from media_callbacks.model.outputs import Time

MAX_LIMIT = 500


def _to_time(value: object) -> datetime:
    # Not by pydantic, which takes numbers for seconds since 1970, and in strict mode no text.
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise ValueError("expected an RFC 3339 time such as 2026-11-21T09:30:00Z; in a URL, + is written %2B")


def to_int(value: object) -> object:
    # As digits and nothing else: pydantic would take " +1_0.0 " as well.
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    raise ValueError("expected a whole number in digits")


_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")

Moment = Annotated[
    datetime,
    BeforeValidator(_to_time),
    # Python knows no year 0, which RFC 3339 has.
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": "^(?!0000)"}),
]
# PostgreSQL's text holds no NUL.
Text = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]
EventId = Annotated[str, Field(pattern="^evt_[0-9a-f]{34}$")]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="How many at most."), BeforeValidator(to_int)]
# Opaque to callers; to us it is the inbox's number of the last row of the page before.
Cursor = Annotated[str, Field(pattern="^[0-9]{1,18}$")]
FeedCursorText = Annotated[str, Field(pattern=f"^{CURSOR_PATTERN}$")]
Timestamp = Annotated[Time, WithJsonSchema({"type": "string", "format": "date-time"})]


def optional(description: str, **options: Any) -> Any:
    """A member that may be left out, and is None then. A null is not taken for it: what it meant would be a guess."""
    return Field(None, description=description, **options)
