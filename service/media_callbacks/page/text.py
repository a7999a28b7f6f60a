"""
How values are written into the page. Whatever came from outside is text: escaped, with what would not be seen or would
turn the rest around shown by its number, and no longer than anybody reads.
"""

import re
import unicodedata
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup, escape

from media_callbacks.model.times import in_words

MAX_CHARACTERS = 300
# Of what is shown as a whole: bodies, events.
MAX_LONG_CHARACTERS = 64 * 1024
_SUSPECT = re.compile(r"[^\x20-\x7e]")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str, *, keep: str = "") -> str:
    """
    With an escape such as ``U+202E`` in place of each character that is not seen.

    Args:
        keep: Of those, the ones that stay.
    """

    def show(match: re.Match[str]) -> str:
        character = match[0]
        is_hidden = unicodedata.category(character) in _HIDDEN and character not in keep
        return f"\u27e8U+{ord(character):04X}\u27e9" if is_hidden else character

    return _SUSPECT.sub(show, text)


def finalize(value: Any) -> Any:
    """Of every value that a template writes, before it is escaped."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, float):
        return seconds(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, Markup) else cut(value, MAX_CHARACTERS)


def cut(text: str, characters: int, *, keep: str = "") -> str:
    if len(text) <= characters:
        return visible(text, keep=keep)
    return f"{visible(text[:characters], keep=keep)}… ({len(text):,} characters)"


def long(text: str) -> Markup:
    """As a whole, with its lines."""
    return escape(cut(text, MAX_LONG_CHARACTERS, keep="\n\t"))


def field(value: object) -> Markup:
    """For the value of an input, which is sent again as it is."""
    return escape("" if value is None else str(value)[:4096])


def address(*segments: str | int, **query: str | int | None) -> str:
    """Of a view of this page."""
    path = "/ui/" + "/".join(quote(str(segment), safe="") for segment in segments)
    parameters = {name: value for name, value in query.items() if value not in (None, "")}
    return path + (f"?{urlencode(parameters)}" if parameters else "")


def url(*segments: str | int, **query: str | int | None) -> Markup:
    """The same, for a template."""
    return escape(address(*segments, **query))


def moment(at: datetime) -> Markup:
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), at.strftime("%Y-%m-%d %H:%M:%S")
    )


def exact(at: datetime) -> Markup:
    """With milliseconds, where one thing follows another at once."""
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}",
    )


def ago(at: datetime | None, now: datetime) -> str:
    return "-" if at is None else f"{seconds(max(0.0, (now - at).total_seconds()))} ago"


def seconds(duration_s: float | None) -> str:
    """As the command says it."""
    return "-" if duration_s is None else in_words(timedelta(seconds=duration_s))


def size(of_bytes: int | None) -> str:
    if of_bytes is None:
        return "-"
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if of_bytes >= unit:
            return f"{of_bytes / unit:.1f} {name}"
    return f"{of_bytes} bytes"
