"""
Tolerant reading of the vendor's JSON.

The vendor's documents and its messages disagree about types, about the case of keys and about what is
required, and there is JSON inside strings. So every accessor gives the value or None, and a value that is
there but can't be understood is noted by its path, never an error.
"""

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from typing import Any

from pydantic_core import from_json

from service.errors import Unparseable
from service.sources.base import MAX_ELEMENTS

# Documented messages nest about ten levels; pydantic refuses to write more than 255.
_MAX_DEPTH = 64
# Every integer up to here is exact as a float.
_MAX_NUMBER = 2**53
# Whatever is longer is no id.
_MAX_TEXT_NUMBER = 10**40
# What is made of a longer text is kept: each of many events may ask for it.
_LONG = 256
# Brackets outside strings; a string is matched as one piece and counts for nothing. Possessive, and an unfinished
# string is a piece too: with backtracking, a megabyte of escaped quotes would take the better part of an hour.
_BRACKETS = re.compile(r'[\[\]{}]|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,3})?")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T?([0-9]{2}):([0-9]{2}):([0-9]{2})(?:[.:]([0-9]{1,9}))?(Z|[+-][0-9]{2}:?[0-9]{2})?"
)


def _parse_integer(text: str) -> int | float:
    # int() refuses over 4,300 digits with a ValueError, which would cost the whole message for one silly field.
    return int(text) if len(text) <= 40 else math.inf


# strict=False: a documented sample has raw line breaks inside a string.
_DECODER = json.JSONDecoder(strict=False, parse_int=_parse_integer, parse_constant=lambda _: None)


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return value


def _is_small_whole_number(text: str) -> bool:
    # What nearly every number in these messages is; a float holds it exactly.
    return len(text) < 16 and text.isascii() and text.isdigit()


def _decode_json(text: str) -> Any:
    """
    Raises:
        ValueError: Not JSON, or nested too deeply.
    """
    if text.count("[") + text.count("{") > _MAX_DEPTH:
        _check_depth(text)
    value = _DECODER.decode(text)
    # Half a surrogate pair can only come as an escape and can't be encoded; PostgreSQL takes no NUL in a text.
    if "\\ud" in text or "\\uD" in text or "\\u0000" in text or "\0" in text:
        return _storable(value)
    return value


def _decode_plain_json(payload: bytes) -> Any:
    """
    What nearly every message is, read in a quarter of the time; None where the tolerant decoder has to look, which
    gives the same wherever this gives something.
    """
    # Half a surrogate pair is refused here; a NUL would be taken.
    if payload.count(b"[") + payload.count(b"{") > _MAX_DEPTH or b"\\u0000" in payload:
        return None
    try:
        return from_json(payload, allow_inf_nan=False)
    except ValueError:
        return None


def _check_depth(text: str) -> None:
    """Before decoding, so that neither the decoder nor anything that walks the value can run out of stack."""
    depth = 0
    for bracket in _BRACKETS.findall(text):
        if bracket in "[{":
            depth += 1
            if depth > _MAX_DEPTH:
                raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")
        elif bracket in "]}":
            depth -= 1


def _check_count(path: str, count: int, at_most: int) -> None:
    """Before anything is built of them."""
    if count > at_most:
        raise Unparseable(f"expected at most {at_most} elements in {path[:200]}, found {count}")


def _decode_element(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return _decode_json(value)
        except ValueError:
            pass
    return value


def decode_text(body: bytes) -> str:
    """
    The text of a message: plain, or base64 as many MNS publishers send it.

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
        decoded = base64.b64decode(text.encode("ascii"), validate=True).decode("utf-8-sig").strip()
        _decode_json(decoded)
    except (ValueError, binascii.Error):
        return text
    return decoded


def parse_time(text: str) -> datetime | None:
    """
    Any of the vendor's spellings of a time, in UTC; None when it is not one.

    Milliseconds may come after a colon (observed), blanks anywhere (documented samples), and a time without
    a zone is UTC.
    """
    if len(text) == 20 and text[7] == "-" and text[10] == "T" and text[19] == "Z":
        # As nearly all are: 2019-11-05T09:12:58Z.
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    match = _TIME.fullmatch("".join(text.split()))
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    microsecond = int((fraction or "").ljust(6, "0")[:6])
    offset = timedelta(0)
    if zone and zone != "Z":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:])) * (-1 if zone[0] == "-" else 1)
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second), microsecond, timezone(offset)
        )
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


class Fields:
    """
    One JSON object. Keys are found whatever their case and surrounding blanks.

    Where both spellings of a key exist (MTS sends ``jobId`` and ``JobId``), the one in lower case wins.
    """

    __slots__ = ("_kept", "_path", "_values", "_warnings")

    def __init__(self, values: dict[str, Any], path: str = "", warnings: list[str] | None = None) -> None:
        self._path = path
        self._warnings: list[str] = [] if warnings is None else warnings
        self._kept: dict[tuple[str, str], str] = {}
        self._values = {key.strip().lower(): value for key, value in values.items()}
        if len(self._values) != len(values):
            self._values = self._settle_twins(values)

    def _settle_twins(self, values: dict[str, Any]) -> dict[str, Any]:
        settled: dict[str, Any] = {}
        for key, value in values.items():
            name = key.strip().lower()
            if name in settled:
                if value in (None, "") or settled[name] == value:
                    continue
                if settled[name] not in (None, ""):
                    self.warn(key.strip())
                    if not key.lstrip()[:1].islower():
                        continue
            settled[name] = value
        return settled

    def warn(self, name: str) -> None:
        """Note that a field is there and can't be understood, or contradicts another."""
        # A hostile body could hold a million bad fields; a hundred tell the story.
        if len(self._warnings) < 100:
            self._warnings.append((self._path + name)[:200])

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def value(self, name: str) -> Any:
        return self._values.get(name.lower())

    def text(self, *names: str) -> str | None:
        """The first of these that has any text, trimmed. A number counts as its decimal text."""
        for name in names:
            value = self._values.get(name.lower())
            if value is None:
                continue
            if isinstance(value, str):
                value = self._trimmed(name, value)
            elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MAX_TEXT_NUMBER:
                value = str(value)
            elif isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
                value = self._trimmed(name, value[0])
            else:
                self.warn(name)
                continue
            if value:
                return value
        return None

    def _trimmed(self, name: str, value: str) -> str:
        if len(value) <= _LONG:
            return value.strip()
        text = self._kept.get(("text", name))
        if text is None:
            text = self._kept["text", name] = value.strip()
        return text

    def verbatim(self, *names: str) -> str | None:
        """Text passed through from the submitter, not even trimmed; an object in its place as JSON."""
        for name in names:
            value = self._values.get(name.lower())
            if isinstance(value, str):
                return value
            if value is not None:
                text = self._kept.get(("verbatim", name))
                if text is None:
                    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
                    self._kept["verbatim", name] = text
                return text
        return None

    def number(self, name: str) -> float | None:
        """A number that is not negative, from a JSON number or a numeric string."""
        value = self._values.get(name.lower())
        if value is None:
            return None
        if isinstance(value, str) and _is_small_whole_number(value):
            return float(value)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str):
            value = value.strip()
            if not value:
                return None
            value = float(value) if _NUMBER.fullmatch(value) else None
            if value is None:
                self.warn(name)
                return None
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MAX_NUMBER:
            self.warn(name)
            return None
        return float(value)

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of numbers; empty when one of them is none, because the places of the others mean something."""
        value = self.decoded(name)
        if value in (None, "", []):
            return ()
        if isinstance(value, list) and len(value) > MAX_ELEMENTS:
            self.warn(name)
            return ()
        found = [Fields({name: item}).number(name) for item in value] if isinstance(value, list) else [None]
        numbers = tuple(number for number in found if number is not None)
        if len(numbers) == len(found):
            return numbers
        self.warn(name)
        return ()

    def integer(self, name: str) -> int | None:
        value = self._values.get(name.lower())
        if isinstance(value, str) and _is_small_whole_number(value):
            return int(value)
        number = self.number(name)
        if number is None:
            return None
        if not number.is_integer():
            self.warn(name)
            return None
        return int(number)

    def boolean(self, name: str) -> bool | None:
        value = self._values.get(name.lower())
        if isinstance(value, bool) or value is None:
            return value
        word = str(value).strip().lower()
        if word in ("true", "1"):
            return True
        if word in ("false", "0"):
            return False
        if word:
            self.warn(name)
        return None

    def time(self, name: str) -> datetime | None:
        text = self.text(name)
        if text is None:
            return None
        moment = parse_time(text)
        if moment is None:
            self.warn(name)
        return moment

    def decoded(self, name: str) -> Any:
        """The value, decoded where it is a string that holds JSON."""
        return _decode_element(self._values.get(name.lower()))

    def object(self, name: str) -> "Fields | None":
        """An object; also as JSON text, as the only element of a list, or both."""
        value = self.decoded(name)
        if isinstance(value, list) and len(value) == 1:
            value = _decode_element(value[0])
        if isinstance(value, dict):
            return Fields(value, f"{self._path}{name}.", self._warnings)
        if value not in (None, "", []):
            self.warn(name)
        return None

    def objects(self, name: str, *, at_most: int = MAX_ELEMENTS) -> list["Fields"]:
        """
        A list of objects; also as JSON text, or a single object without its list.

        Raises:
            Unparseable: There are more, each of which would cost a hundred times what it takes to send it.
        """
        value = self.decoded(name)
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            if value not in (None, ""):
                self.warn(name)
            return []
        _check_count(self._path + name, len(value), at_most)
        found = []
        for index, element in enumerate(value):
            item = _decode_element(element)
            if isinstance(item, dict):
                found.append(Fields(item, f"{self._path}{name}[{index}].", self._warnings))
            else:
                self.warn(f"{name}[{index}]")
        return found

    def members(self, name: str) -> list[tuple[str, "Fields"]]:
        """
        The objects that an object consists of, each with its key as the vendor spells it.

        Raises:
            Unparseable: There are too many.
        """
        value = self.decoded(name)
        if not isinstance(value, dict):
            if value not in (None, "", []):
                self.warn(name)
            return []
        _check_count(self._path + name, len(value), MAX_ELEMENTS)
        found = []
        for key, element in value.items():
            item = _decode_element(element)
            if isinstance(item, dict):
                found.append((key, Fields(item, f"{self._path}{name}.{key}.", self._warnings)))
            else:
                self.warn(f"{name}.{key}")
        return found

    def nested(self, *, without: str) -> Iterator["Fields"]:
        """The objects one level down, in their order, apart from one; of very many the first."""
        for name, value in islice(self._values.items(), MAX_ELEMENTS):
            if isinstance(value, dict) and name != without.lower():
                yield Fields(value, f"{self._path}{name}.", self._warnings)

    def digest(self) -> str:
        """A hash of the content that does not depend on the order of keys."""
        text = json.dumps(self._values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def read_object(payload: bytes) -> Fields:
    """
    The JSON object that a message consists of.

    Raises:
        Unparseable: It is not UTF-8, not JSON, or not an object.
    """
    value = _decode_plain_json(payload)
    if isinstance(value, dict):
        return Fields(value)
    text = decode_text(payload)
    if not text:
        raise Unparseable("expected a JSON object, the body is empty")
    try:
        value = _decode_json(text)
    except ValueError as error:
        raise Unparseable(f"expected a JSON object: {error}") from error
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise Unparseable(f"expected a JSON object, found {type(value).__name__}")
    return Fields(value)
