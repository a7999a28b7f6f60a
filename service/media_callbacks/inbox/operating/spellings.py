"""Whether the body of a receipt, whatever it is, says a value."""

import html
import json
import re
from base64 import b64decode
from collections.abc import Collection

# MNS publishers send Base64, in one line or several, and a topic may do so with what is Base64 already.
_LAYERS = 2
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4}){4,}(?:[A-Za-z0-9+/]{2,3})?")
_LINE_ENDS = re.compile(rb"\s|\\[nr]")
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


def says(body: bytes, spellings: Collection[bytes], *, layers: int = _LAYERS) -> bool:
    """Whether a body, or what stands in it as Base64, has one of these."""
    # Letters of an escape are of either case, and some writers escape the slash.
    text = _ESCAPE.sub(lambda found: found[0].lower(), body.replace(b"\\/", b"/"))
    if any(spelling in text for spelling in spellings):
        return True
    encoded = _BASE64.findall(_LINE_ENDS.sub(b"", text)) if layers else ()
    return any(says(b64decode(one + b"=="), spellings, layers=layers - 1) for one in encoded)
