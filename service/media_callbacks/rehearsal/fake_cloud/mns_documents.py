"""What the fake MNS reads and writes: documents of one level, numbers within bounds, errors."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from xml.sax.saxutils import escape

from starlette.responses import Response

from media_callbacks.aliyun.mns_client import XML_NAMESPACE
from media_callbacks.sources.reading.xml_document import Element, read_document

MAX_MESSAGE_BYTES = 65_536
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message


def milliseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def read_number(text: str | None, name: str, default: int, low: int, high: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise Refused(400, "InvalidArgument", f"{name} should be between {low} and {high}.")
    return int(text)


def read_body(body: bytes) -> Element:
    try:
        return read_document(body)
    except ValueError:
        raise Refused(400, "MalformedXML", "The XML you provided was not well-formed.") from None


def write_element(name: str, fields: Mapping[str, object]) -> str:
    return f"<{name}>{_fields(fields)}</{name}>"


def _fields(fields: Mapping[str, object]) -> str:
    # A carriage return would come out of the reader as a line feed.
    return "".join(f"<{name}>{escape(str(value), {chr(13): '&#13;'})}</{name}>" for name, value in fields.items())


def write_fields(status: int, root: str, fields: Mapping[str, object]) -> Response:
    return write_document(status, root, [_fields(fields)])


def write_document(status: int, root: str, inner: list[str]) -> Response:
    text = f'<?xml version="1.0" encoding="utf-8"?><{root} xmlns="{XML_NAMESPACE}">{"".join(inner)}</{root}>'
    return Response(text, status, media_type="text/xml;charset=utf-8")
