"""How points in time, and lengths of it, are written."""

from datetime import UTC, datetime, timedelta

from pydantic_core import SchemaSerializer, core_schema

_serializer = SchemaSerializer(core_schema.datetime_schema())


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC, to the second, or to the millisecond where there are any."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    # 2019-11-05T09:12:58.120000Z, or without what is nought, in a third of the time that isoformat takes.
    text: str = _serializer.to_python(moment, mode="json")
    if moment.microsecond:
        text = f"{text[: 23 if moment.microsecond >= 1000 else 19]}Z"
    return text


def in_words(duration: timedelta) -> str:
    """A length of time as a person would say it, two units at most: ``2 h 5 min``."""
    seconds = duration.total_seconds()
    if seconds < 0:
        return f"-{in_words(-duration)}"
    if seconds < 10:
        return f"{seconds:.3g} s" if seconds >= 1 else f"{round(seconds, 3):g} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if not minutes:
        return f"{rest_s} s"
    if not hours:
        return f"{minutes} min {rest_s} s" if rest_s else f"{minutes} min"
    if not days:
        return f"{hours} h {minutes_left} min" if minutes_left else f"{hours} h"
    return f"{days} d {hours_left} h" if hours_left else f"{days} d"
