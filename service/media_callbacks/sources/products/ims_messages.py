"""
What Intelligent Media Services (IMS, also called ICE) send: an envelope around a body of
``sources.products.vod_messages``.

Source: "Event list", https://help.aliyun.com/en/ims/user-guide/event-list-2.
"""

from typing import Generic, TypeVar

from media_callbacks.sources.products.vod_messages import Body
from media_callbacks.sources.reading.members import Anything, Declared, Enveloped, Text

B = TypeVar("B", bound=Body)


class Envelope(Declared, Generic[B], total=False):
    """
    Attributes:
        UserId: The account, a number of sixteen digits; masked in the documents.
        EventTime: Observed to be missing, and in the body instead.
    """

    EventType: Text
    UserId: Anything
    EventTime: Text
    RequestId: Text
    MessageBody: Enveloped[B]
