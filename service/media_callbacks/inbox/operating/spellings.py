"""Whether the body of a receipt, whatever it is, says a value."""

import html
import json
import re
from binascii import a2b_base64
from collections.abc import Collection

# MNS publishers send Base64, in one line or several, and a topic may do so with what is Base64 already.
_LAYERS = 2
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}")
_SPACE = b" \t\n\r\x0b\x0c"
_ESCAPE = re.compile(rb"\\u[0-9A-Fa-f]{4}")


def spellings_of(value: str) -> Collection[bytes]:
    """
    How a body may have a value as a whole: in JSON, which may be a text within JSON, or in XML. Not as a part of
    another text, or a short value would take along what is of others.
    """
    found = {f"<![CDATA[{value}]]>", *(f">{html.escape(value, quote=quote)}<" for quote in (True, False))}
    for is_ascii in (True, False):
        written = json.dumps(value, ensure_ascii=is_ascii)
        found |= {written, json.dumps(written, ensure_ascii=is_ascii)[1:-1]}
    return {text.encode("utf-8", "surrogatepass") for text in found}


def says(body: bytes, spellings: Collection[bytes]) -> bool:
    """Whether a body, or what stands in it as Base64, has one of these."""
    return any_says([body], spellings)


def any_says(bodies: Collection[bytes], spellings: Collection[bytes], *, layers: int = _LAYERS) -> bool:
    """Whether one of them does; much faster than each alone."""
    # Nothing goes on across what separates them. Letters of an escape are of either case, and some writers escape the
    # slash.
    text = b"\0".join(bodies).replace(b"\\/", b"/")
    if b"\\u" in text:
        text = _ESCAPE.sub(lambda found: found[0].lower(), text)
    if any(spelling in text for spelling in spellings):
        return True
    if not layers:
        return False
    # Also as it stands in JSON.
    in_one_line = text.translate(None, _SPACE).replace(b"\\n", b"").replace(b"\\r", b"")
    # Four letters are three bytes, two or three are one or two; a single one is none.
    encoded = [one[:-1] if len(one) % 4 == 1 else one + b"==" for one in _BASE64.findall(in_one_line)]
    return bool(encoded) and any_says(list(map(a2b_base64, encoded)), spellings, layers=layers - 1)
