"""
Intelligent Media Services (IMS, also called ICE, API 2020-11-09): what each message means.

A message is an envelope ``{"EventType", "UserId", "EventTime", "MessageBody"}``, and the body is read by the rules of
VOD (``sources.products.vod``), whose names and bodies IMS shares. Most bodies are not publicly documented, so one
tolerant rule holds for all: the job id is the first of ``JobId``, ``TaskId``, ``ParentJobId`` (of a workflow
``TaskId``), the status the first of ``Status``, ``State``, each looked for in the body and then one level down. Where a
body has neither and one object in it has them, as ``Job`` in the replies of the job API, that object is the body.

Source: "Callback events overview", https://help.aliyun.com/en/ims/user-guide/callback-events-overview, and
"Event list", https://help.aliyun.com/en/ims/user-guide/event-list-2.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from media_callbacks.model.errors import Unparseable
from media_callbacks.model.kinds import Kind
from media_callbacks.sources.base import Message, Parsed
from media_callbacks.sources.products import vod
from media_callbacks.sources.products.ims_messages import Envelope
from media_callbacks.sources.products.vod_catalogue import CONVERSIONS, EVENT_TYPES, model_of
from media_callbacks.sources.products.vod_told import Dialect
from media_callbacks.sources.reading.members import says_anything

KINDS: Mapping[str, Kind] = {
    "DynamicImageComplete": "animated_image",
    "SnapshotComplete": "snapshot",
    **CONVERSIONS,
    **{name: row.kind for name, row in EVENT_TYPES.items()},
}

RETRYABLE: Mapping[str, bool] = {
    "InvalidParameter": False,
    "ResourceNotFound": False,
    "Throttling": True,
    "TransientNetWorkError": True,
}

_DIALECT = Dialect("MessageBody.", RETRYABLE, is_vod=False)


@cache
def _envelope_around(body: Any) -> Any:
    return Envelope[body]


def _model_of(event_type: str) -> Any:
    return _envelope_around(model_of(event_type))


def parse(message: Message) -> Parsed:
    """
    Read one notification.

    Raises:
        Unparseable: Not an IMS message, or nothing can be read of its body.
    """
    event_type, reading = vod.read_typed(message.payload, _model_of, "IMS")
    envelope = reading.message
    body = envelope.get("MessageBody")
    if body is None:
        raise Unparseable('expected MessageBody, found none: is this source registered with VOD (product = "vod")?')
    if event_type in KINDS and not says_anything(body):
        raise Unparseable(f"expected members of {event_type} in MessageBody, found none")
    completions = vod.read_body(event_type, _DIALECT, reading, body, envelope.get("EventTime"))
    return Parsed(completions, tuple(reading.warnings))
