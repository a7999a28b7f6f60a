"""
A refused request as it may be kept and shown: with nothing in it by which it, or another one, would be let in.

Headers show their values only where these are known to be harmless. In the rest what is secret is replaced by its
length wherever it stands: what is secret in the configuration, and what the request brought to be let in. Where one
stands in an encoding, the whole text goes.
"""

import html
import json
import re
from base64 import b64decode
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel

from media_callbacks.config.settings import Settings
from media_callbacks.config.sources import HttpSourceSettings, SourceSettings, TokenUrlSourceSettings
from media_callbacks.config.values import unguessable_segments
from media_callbacks.observe.refused import RefusedRequest
from media_callbacks.sources.base import Callback

# Of one document; what is longer goes without what was made of it.
MAX_DOCUMENT_BYTES = 32 * 1024
# With more of what may be a secret, nothing but the size of a request is kept.
MAX_BROUGHT = 64
MAX_EVENTS = 5
_SHOWN = re.compile(
    rb"host|user-agent|accept(?:-(?:charset|encoding|language))?|connection|date|expect|upgrade|via"
    rb"|content-(?:type|length|md5|encoding)|transfer-encoding|(?:x-)?forwarded(?:-(?:for|host|port|proto))?|x-real-ip"
    rb"|x-request-id|eagleeye-(?:traceid|rpcid)|x-(?:vod|ice)-timestamp"
    rb"|x-mns-(?:version|date|request-id|message-id|publish-time|topic-owner|topic-name|message-tag|signing-cert-url)"
)
# Of words: what has longer parts may be Base64, which can't be read any more once it is in small letters.
_HEADER_NAME = re.compile(rb"[a-z0-9]{1,15}(?:[-_][a-z0-9]{1,15})*")
_SECRET_HEADER = re.compile(rb"auth|signature|cookie|token|key|secret|credential|password|session")
_MAX_VALUE = 300
# In a path or a query that nobody knows: a word is shorter.
_LONG = re.compile(r"[^/?&=]{16,}")
_SHORTEST_SECRET = 6
_SHORTEST_BROUGHT = 8
_SHORTEST_TOKEN = 16
# In one another, as a proxy that tells of a request may write it.
_ENCODINGS = 4
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}")


class Redactor:
    """What is secret in a configuration."""

    def __init__(self, settings: Settings) -> None:
        self._secrets = {secret.lower() for secret in _secrets(settings) if len(secret) >= _SHORTEST_SECRET}

    def make_document(self, request: RefusedRequest, explanation: Mapping[str, Any] | None) -> str:
        """
        Args:
            explanation: In values of JSON.

        Returns:
            JSON with the members request and explanation.
        """
        shown = _show(request)
        brought = _brought(request.callback)
        for document in _shorter_and_shorter(shown, explanation):
            if len(brought) > MAX_BROUGHT or len(_to_json(document)) > MAX_DOCUMENT_BYTES:
                continue
            text = _to_json(_without(document, self._secrets | brought))
            if len(text) <= MAX_DOCUMENT_BYTES:
                return text
        sizes = {"target": _length(shown["target"]), "headers": [], "body": "", "is_whole": False}
        return _to_json({"request": shown | sizes, "explanation": None})

    def redact(self, text: str, callback: Callback) -> str:
        """A text about a request."""
        brought = _brought(callback)
        return _length(text) if len(brought) > MAX_BROUGHT else _clean(text, self._secrets | brought)


def _shorter_and_shorter(
    shown: Mapping[str, Any], explanation: Mapping[str, Any] | None
) -> Iterator[Mapping[str, Any]]:
    if explanation is not None:
        yield {"request": shown, "explanation": {**explanation, "events": explanation["events"][:MAX_EVENTS]}}
        yield {"request": shown, "explanation": {**explanation, "events": [], "warnings": []}}
    yield {"request": shown, "explanation": None}


def _to_json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"))


def _show(request: RefusedRequest) -> dict[str, Any]:
    callback = request.callback
    target = callback.raw_path + (b"?" + callback.query if callback.query else b"")
    return {
        "method": callback.method,
        "target": _LONG.sub(lambda found: _length(found[0]), _text(target)),
        "headers": [[_name(name), _value(name, value)] for name, value in callback.headers],
        "body": _text(callback.body),
        "body_bytes": len(callback.body),
        "is_whole": request.is_whole,
    }


def _name(name: bytes) -> str:
    return _text(name) if _HEADER_NAME.fullmatch(name) else _length(_text(name))


def _value(name: bytes, value: bytes) -> str:
    return _text(value) if _SHOWN.fullmatch(name) and len(value) <= _MAX_VALUE else _length(_text(value))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _length(text: str) -> str:
    return f"<{len(text)} characters>"


# What is secret


def _secrets(settings: Settings) -> Iterator[str]:
    for source in settings.sources.values():
        yield from _secrets_of_source(source)
    for table in (settings.admin, settings.store, *settings.vendor.values(), *settings.sinks.values()):
        yield from _hidden_in(table)


def _secrets_of_source(source: SourceSettings) -> Iterator[str]:
    keys: tuple[str, ...] = ()
    if isinstance(source, (HttpSourceSettings, TokenUrlSourceSettings)):
        keys = source.keys
    for key in keys:
        yield from (key, key.partition(":")[2].rstrip("=")) if isinstance(source, TokenUrlSourceSettings) else (key,)
    urls = getattr(source, "url", None) or ()
    for text in (getattr(source, "path", ""), *((urls,) if isinstance(urls, str) else urls)):
        parts = urlsplit(text)
        yield from (parts.password,) if parts.password else ()
        for part in unguessable_segments("/".join((parts.path, *re.split("[=&]", parts.query)))):
            # Where there are keys, the path is none; one that is as long as a key was meant to be.
            if not keys or len(part) >= _SHORTEST_TOKEN:
                yield part


def _hidden_in(value: Any) -> Iterator[str]:
    """The texts that a table of the configuration does not show."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            if not field.repr:
                yield from _hidden_in(getattr(value, name))
    elif isinstance(value, Mapping):
        yield from (text for item in value.values() for text in _hidden_in(item))
    elif isinstance(value, (list, tuple)):
        yield from (text for item in value for text in _hidden_in(item))


def _brought(callback: Callback) -> set[str]:
    """What a request has that may let it in, as it stands there and without escapes, in small letters."""
    found = set[str]()
    for name, value in callback.headers:
        if _SECRET_HEADER.search(name):
            text = _text(value)
            found.update(part for part in (text, *re.split(r"[\s,;:=&\"']+", text)) if len(part) >= _SHORTEST_BROUGHT)
    for part in (*callback.raw_path.split(b"/"), *re.split(rb"[=&]", callback.query)):
        plain = _text(part)
        if len(plain) >= _SHORTEST_TOKEN:
            found |= {plain, unquote(plain)}
    return {text.lower() for text in found}


# Where it stands


def _without(value: Any, secrets: Collection[str]) -> Any:
    """A value of JSON without what is secret. Names of members are ours."""
    if not _says(json.dumps(value), secrets):
        return value
    if isinstance(value, str):
        return _clean(value, secrets)
    if isinstance(value, (list, tuple)):
        return [_without(item, secrets) for item in value]
    if isinstance(value, dict):
        return {name: _without(item, secrets) for name, item in value.items()}
    return value


def _clean(text: str, secrets: Collection[str]) -> str:
    lowered = text.lower()
    found = sorted((secret for secret in secrets if secret in lowered), key=len, reverse=True)
    if found:
        pattern = "|".join(map(re.escape, found))
        text = re.sub(pattern, lambda match: _length(match[0]), text, flags=re.IGNORECASE)
    return _length(text) if _says(text, secrets) else text


def _says(text: str, secrets: Collection[str], *, may_be_base64: bool = True) -> bool:
    """Whether one of these stands in a text, also escaped, percent-encoded or in Base64."""
    for reading in _readings(text):
        lowered = reading.lower()
        if any(secret in lowered for secret in secrets):
            return True
    return may_be_base64 and any(
        _says(_decode_base64(run[start:]), secrets, may_be_base64=False)
        for run in {*_BASE64.findall(text), *_BASE64.findall(re.sub(r"\s|\\[nr]", "", text))}
        # Where it begins is not known: words before it are of the same letters.
        for start in range(4)
    )


def _readings(text: str) -> Iterator[str]:
    yield text
    yield text.replace("+", " ")
    # By itself, too: what one takes for an escape may be the other's.
    yield unquote(text)
    yield html.unescape(text)
    for _ in range(_ENCODINGS):
        before = text
        for decode in (_unescape, unquote, html.unescape):
            if (plain := decode(text)) != text:
                yield plain
                text = plain
        if text == before:
            break


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)


def _decode_base64(text: str) -> str:
    text = text.replace("-", "+").replace("_", "/")
    text = text[: len(text) - (len(text) % 4 == 1)]
    return _text(b64decode(text + "=" * (-len(text) % 4)))
