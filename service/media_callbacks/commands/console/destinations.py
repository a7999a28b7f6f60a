"""Whether what a sink sends to is well, in words."""

from datetime import datetime

from media_callbacks.admin.models.answers import SinkItem
from media_callbacks.model.times import format_time


def tell_answers(sink: SinkItem) -> str:
    """What it answered last to what it did not take, when that is tried again, and when it took something."""
    told = [f"{sink.last_error or 'not taken'}, last {_moment(sink.last_error_at)}"] if sink.last_error_at else []
    told += [f"next attempt {_moment(sink.next_attempt_at)}"] if sink.next_attempt_at else []
    taken = f"took something last {_moment(sink.last_taken_at)}" if sink.last_taken_at else "nothing taken within a day"
    return "; ".join([*told, taken])


def _moment(at: datetime) -> str:
    return format_time(at.replace(microsecond=0))
