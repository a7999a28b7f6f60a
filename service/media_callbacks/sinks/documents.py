"""A stored event, for sinks that send parts of it beside the whole."""

import json
import re
from functools import lru_cache
from typing import Any

from pydantic_core import from_json

from media_callbacks.model.errors import SinkRejected
from media_callbacks.model.events import Delivery
from media_callbacks.model.naming import NameTemplate, Origin

# As `Event.to_json` writes the event of a job, up to what names it. Texts with an escape in them are for who reads all.
_HEADING = re.compile(
    rb'\{"specversion":"1\.0","id":"[^"\\]*","source":"[^"\\]*","type":"[^"\\]*",(?:"subject":"([^"\\]+)",)?"time":"[^"\\]*",'
    rb'"datacontenttype":"application/json","dataschema":"[^"\\]*",'
    rb'"data":\{"product":"([^"\\]*)","kind":"([^"\\]*)","outcome":"([^"\\]*)",'
)


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


def read_heading(delivery: Delivery, template: NameTemplate) -> tuple[str, bytes | None]:
    """
    What a template makes of the event, and its subject in UTF-8, if it has one. Mostly without reading the whole event,
    which would be a good part of what it takes to send it.

    Raises:
        SinkRejected: The stored event is none.
    """
    if "source" not in template.members and (found := _HEADING.match(delivery.body)):
        subject, *words = found.groups()
        return template.render(_origin(*words)), subject
    document = read_document(delivery)[1]
    try:
        name = template.render(Origin.read(document))
    except ValueError as error:
        raise SinkRejected(str(error)) from None
    subject = document.get("subject")
    # A job id read from JSON may hold half a surrogate pair, which has no UTF-8.
    return name, subject.encode(errors="replace") if isinstance(subject, str) and subject else None


@lru_cache(1024)
def _origin(product: bytes, kind: bytes, outcome: bytes) -> Origin:
    return Origin(product.decode(), kind.decode(), outcome.decode(), "")


def _parse(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        # It takes half the time, but no half of a surrogate pair, which a job id may hold.
        return json.loads(text)
