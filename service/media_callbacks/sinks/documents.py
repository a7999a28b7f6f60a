"""A stored event, for sinks that send parts of it beside the whole."""

import json
from typing import Any

from pydantic_core import from_json

from media_callbacks.model.errors import SinkRejected
from media_callbacks.model.events import Delivery


def read_document(delivery: Delivery) -> tuple[str, dict[str, Any]]:
    """
    The event as text and as what it says.

    Raises:
        SinkRejected: It is not a JSON object.
    """
    try:
        body = delivery.body.decode()
        document = _parse(body)
    except (ValueError, RecursionError):
        raise SinkRejected("the stored event is not JSON in UTF-8, which every event should be") from None
    if not isinstance(document, dict):
        raise SinkRejected(f"the stored event is a JSON {type(document).__name__}, expected an object")
    return body, document


def _parse(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        # It takes half the time, but no half of a surrogate pair, which a job id may hold.
        return json.loads(text)
