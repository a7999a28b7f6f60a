"""
Bytes to values: the one decoder of JSON for messages, stored receipts, replies and explanations.

The same bytes give the same values wherever they are read, because identities are made of them.
"""

import base64
import binascii
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from pydantic_core import from_json

from media_callbacks.model.errors import Unparseable

# Documented messages nest about ten levels; pydantic refuses to write more than 255.
MAX_DEPTH = 64
# Brackets outside strings; a string is matched as one piece and counts for nothing. Possessive, and an unfinished
# string is a piece too: with backtracking, a megabyte of escaped quotes would take the better part of an hour.
_BRACKETS = re.compile(r'[\[\]{}]|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
# A string, or what stands outside of strings and is not JSON though many write it: numbers that are none, and numbers
# of more digits than the decoder takes.
_TOKENS = re.compile(
    r'"(?:[^"\\]++|\\.)*+"?|-?(?:NaN|Infinity)\b|-?[1-9][0-9]{4300,}+(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?', re.DOTALL
)
# A pair of surrogates, half of one, or a control character as it is.
_ODD_TEXT = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.|[\x00-\x1f]",
    re.DOTALL,
)
# Extended or basic; the second has no blank in place of its T.
_TIME = re.compile(
    r"([0-9]{4})(?P<dash>-)?([0-9]{2})(?(dash)-)([0-9]{2})(?(dash)[Tt]?|[Tt])"
    r"([0-9]{2})(?(dash):)([0-9]{2})(?(dash):)([0-9]{2})(?:[.,:]([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)
# Seconds or milliseconds since 1970: between 2001 and 2286, so that no count of anything looks like a time.
_EPOCH_TIME = re.compile(r"([0-9]{10})([0-9]{3})?(?:\.([0-9]{1,9}))?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def decode_json(text: str | bytes) -> Any:
    """
    Raises:
        ValueError: Not JSON, or nested too deeply.
    """
    if isinstance(text, bytes):
        text = text.decode()
    check_depth(text)
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError:
        # A documented sample has raw line breaks inside a string; half a character and NaN have been seen elsewhere.
        value = from_json(_TOKENS.sub(_mend, text), allow_inf_nan=False)
    except TypeError as error:
        raise ValueError("expected text, found half a character") from error
    # PostgreSQL takes no NUL in a text.
    return storable(value) if "u0000" in text else value


def _mend(token: re.Match[str]) -> str:
    text = token[0]
    return _ODD_TEXT.sub(_mend_character, text) if text[0] == '"' else "null"


def _mend_character(found: re.Match[str]) -> str:
    text = found[0]
    if len(text) == 6 or text == "\0":
        return "\\ufffd"
    return text if text[0] == "\\" else f"\\u{ord(text):04x}"


def storable(value: Any) -> Any:
    """Without what no store or no writer takes: NUL in a text, and numbers that are infinite or none."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value


def check_depth(text: str) -> None:
    """
    Before decoding, so that nothing that walks the value can run out of stack.

    Raises:
        ValueError: Nested too deeply.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKETS.findall(text):
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        elif bracket in "]}":
            depth -= 1


def decode_element(value: Any) -> Any:
    """What a string of JSON holds; anything else as it is."""
    if isinstance(value, str):
        try:
            return decode_json(value)
        except ValueError:
            pass
    return value


def decode_text(body: bytes) -> str:
    """
    The text of a message: plain, or base64 as many MNS publishers send it, in one line or broken into several.

    Raises:
        Unparseable: It is not UTF-8.
    """
    try:
        text = body.decode().removeprefix("\ufeff").strip()
    except UnicodeDecodeError as error:
        raise Unparseable(f"expected UTF-8, found byte 0x{body[error.start]:02x} at offset {error.start}") from error
    if text[:1] in ("{", "[", "<", ""):
        return text
    try:
        decoded = base64.b64decode("".join(text.split()).encode("ascii"), validate=True).decode("utf-8-sig").strip()
    except (ValueError, binascii.Error):
        return text
    return decoded if decoded[:1] == "<" or _is_json(decoded) else text


def _is_json(text: str) -> bool:
    try:
        decode_json(text)
    except ValueError:
        return False
    return True


def decode_object(payload: bytes) -> dict[str, Any]:
    """
    The JSON object that a message consists of.

    Raises:
        Unparseable: It is not UTF-8, not JSON, or not an object.
    """
    text = decode_text(payload)
    if not text:
        raise Unparseable("expected a JSON object, the body is empty")
    try:
        value = decode_json(text)
    except ValueError as error:
        raise Unparseable(f"expected a JSON object: {error}") from error
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise Unparseable(f"expected a JSON object, found {type(value).__name__}")
    return value


def parse_time(text: str) -> datetime | None:
    """
    Any of the vendor's spellings of a time, in UTC; None when it is not one.

    Milliseconds may come after a colon (observed) or a comma, blanks anywhere (documented samples), T and Z in lower
    case, dashes and colons not at all, and a time without a zone is UTC. Seconds and milliseconds since 1970 are told
    apart by their digits.
    """
    if len(text) == 20 and text[7] == "-" and text[10] == "T" and text[19] == "Z":
        # As nearly all are: 2019-11-05T09:12:58Z.
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    text = "".join(text.split())
    if since := _EPOCH_TIME.fullmatch(text):
        seconds, milliseconds, rest = since[1], since[2] or "", since[3] or ""
        return _EPOCH + timedelta(seconds=int(seconds), microseconds=int((milliseconds + rest).ljust(6, "0")[:6]))
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, _, month, day, hour, minute, second, fraction, zone = match.groups()
    microsecond = int((fraction or "").ljust(6, "0")[:6])
    offset = timedelta(0)
    if zone and zone not in "Zz":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:])) * (-1 if zone[0] == "-" else 1)
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second), microsecond, timezone(offset)
        )
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
