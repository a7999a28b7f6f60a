"""
What usually goes wrong between the vendor and us, as variants to try.

``explain`` tries these when a signature or a digest does not fit: the variant that fits is the explanation.
Each is named by its cause, with the words that tell what is different about it.
"""

import base64
import binascii
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from media_callbacks.sources.reading.decoding import decode_json
from media_callbacks.sources.transports.http import sign

# Enough for a few urls and keys with every change; with dozens configured the rarer combinations are left out.
_MAX_SIGNATURES = 300_000
_MAX_CHANGES = 3
# Of a path, that a proxy may have put on or taken off.
_MAX_SEGMENTS = 8

_URL = re.compile(r"(https?)://([^/?#:]*|\[[^\]]*\])(?::([0-9]*))?([^?#]*)(?:\?(.*))?", re.IGNORECASE | re.DOTALL)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference from what is configured."""

    cause: str
    words: str


# The signature of VOD and IMS: urls and keys


@dataclass(frozen=True, slots=True)
class UrlVariant:
    url: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class ConfiguredKey:
    """
    Attributes:
        label: How to speak of it without showing it.
        is_ours: It belongs to the source in question, not to another one.
    """

    label: str
    key: str
    is_ours: bool = True


@dataclass(frozen=True, slots=True)
class KeyVariant:
    configured: ConfiguredKey
    key: str
    changes: tuple[Change, ...]


def url_variants(urls: Iterable[str], *, hosts: Sequence[str], targets: Sequence[str]) -> list[UrlVariant]:
    """
    The urls and what they may have been registered as, those with the fewest changes first.

    Args:
        hosts: What the request and the other sources call the host, port included.
        targets: Paths with their queries that the request and the other sources know.
    """
    found: dict[str, tuple[Change, ...]] = {}
    for url in urls:
        for variant in _variants_of(url, hosts, targets):
            known = found.get(variant.url)
            if known is None or len(variant.changes) < len(known):
                found[variant.url] = variant.changes
    variants = [UrlVariant(url, changes) for url, changes in found.items()]
    return sorted(variants, key=lambda variant: len(variant.changes))


_Option = tuple[Change | None, Any]


def _variants_of(url: str, hosts: Sequence[str], targets: Sequence[str]) -> Iterator[UrlVariant]:
    match = _URL.fullmatch(url)
    if match is None:
        yield UrlVariant(url, ())
        return
    scheme, host, port, path, query = match.groups()
    other = "http" if scheme.lower() == "https" else "https"
    schemes: list[_Option] = [
        (None, scheme),
        (Change("url_scheme", f"with the scheme {other}:// instead of {scheme}://"), other),
    ]
    for dimension in product(
        schemes,
        _host_options(host, hosts),
        _port_options(port, hosts),
        _path_options(path, targets),
        _query_options(query, targets),
        _END_OPTIONS,
    ):
        changes = tuple(change for change, _ in dimension if change is not None)
        if len(changes) > _MAX_CHANGES:
            continue
        new_scheme, new_host, new_port, new_path, new_query, end = (value for _, value in dimension)
        if new_port is _DEFAULT:
            new_port = _DEFAULT_PORTS[new_scheme.lower()]
        built = f"{new_scheme}://{new_host}" + (f":{new_port}" if new_port is not None else "") + new_path
        yield UrlVariant(built + (f"?{new_query}" if new_query is not None else "") + end, changes)


_DEFAULT = object()
_END_OPTIONS: list[_Option] = [
    (None, ""),
    (Change("url_blank", "with a blank at its end"), " "),
    (Change("url_blank", "with a line break at its end"), "\n"),
]


def _host_options(host: str, hosts: Sequence[str]) -> list[_Option]:
    names = [name.rpartition(":")[0] if re.search(r":[0-9]+$", name) else name for name in hosts]
    options: dict[str, Change | None] = {host: None}
    for name in (*names, host.lower(), host.upper(), host.title()):
        if not name or name in options:
            continue
        if name.lower() == host.lower():
            options[name] = Change("url_host_case", f"with the host in other capitals: {name}")
        else:
            options[name] = Change("url_host", f"with another host: {name}")
    return [(change, name) for name, change in options.items()]


def _port_options(port: str | None, hosts: Sequence[str]) -> list[_Option]:
    options: list[_Option] = [(None, port)]
    if port is not None:
        options.append((Change("url_port", f"without the port :{port}"), None))
    else:
        options.append((Change("url_port", "with the default port written out"), _DEFAULT))
    for name in hosts:
        other = re.search(r":([0-9]+)$", name)
        if other and other[1] not in [value for _, value in options]:
            options.append((Change("url_port", f"with the port :{other[1]}"), other[1]))
    return options


def _path_options(path: str, targets: Sequence[str]) -> list[_Option]:
    options: dict[str, Change | None] = {path: None}
    if path.endswith("/"):
        options[path[:-1]] = Change("url_trailing_slash", "without the slash at its end")
    else:
        options[path + "/"] = Change("url_trailing_slash", "with a slash at its end")
    for other in (*(target.partition("?")[0] for target in targets), quote(unquote(path)), unquote(path)):
        for spelling in (other, other.rstrip("/") or "/"):
            options.setdefault(spelling, Change("url_path", "with another path"))
    return [(change, value) for value, change in options.items()]


def _query_options(query: str | None, targets: Sequence[str]) -> list[_Option]:
    options: dict[str | None, Change | None] = {query: None}
    if query is not None:
        options[None] = Change("url_query", "without its query")
    for target in targets:
        _, mark, other = target.partition("?")
        if mark:
            options.setdefault(other, Change("url_query", "with the query that the request came with"))
    return [(change, value) for value, change in options.items()]


def key_variants(keys: Iterable[ConfiguredKey]) -> list[KeyVariant]:
    """The keys and how they may have been mistyped on one of the two sides."""
    variants = []
    for configured in keys:
        key = configured.key
        changed: dict[str, Change | None] = {key: None}
        for cause, text, words in (
            ("key_blank", key.strip(), "without the blanks around it"),
            ("key_blank", key + "\n", "with a line break at its end"),
            ("key_blank", key + "\r\n", "with a line break (CR LF) at its end"),
            ("key_blank", key + " ", "with a blank at its end"),
            ("key_blank", " " + key, "with a blank before it"),
            ("key_blank", key + "\t", "with a tab at its end"),
            ("key_quotes", key.strip("'\""), "without the quotes around it"),
            ("key_quotes", f'"{key}"', "with quotes around it"),
            ("key_quotes", f"'{key}'", "with quotes around it"),
            ("key_case", key.lower(), "in small letters"),
            ("key_case", key.upper(), "in capitals"),
            ("key_case", key[:1].upper() + key[1:], "with its first letter in capitals"),
            ("key_case", key[:1].lower() + key[1:], "with its first letter small"),
        ):
            changed.setdefault(text, Change(cause, words))
        variants += [
            KeyVariant(configured, text, () if change is None else (change,)) for text, change in changed.items()
        ]
    return sorted(variants, key=lambda variant: (not variant.configured.is_ours, len(variant.changes)))


def find_signature(
    signature: str,
    timestamp: str,
    urls: Sequence[UrlVariant],
    keys: Sequence[KeyVariant],
    *,
    has_time: Callable[[], bool] = lambda: True,
) -> tuple[UrlVariant, KeyVariant] | None:
    """The url and key with the fewest changes that give this signature."""
    best: tuple[int, UrlVariant, KeyVariant] | None = None
    tried = 0
    for key in keys:
        cost = len(key.changes) + (not key.configured.is_ours)
        for url in urls:
            if best is not None and cost + len(url.changes) >= best[0]:
                break  # urls are sorted by the number of their changes
            if tried >= _MAX_SIGNATURES or (tried % 100 == 99 and not has_time()):
                return None if best is None else best[1:]
            tried += 1
            if sign(url.url, timestamp, key.key) == signature:
                best = (cost + len(url.changes), url, key)
    return None if best is None else best[1:]


# Bodies


def inflate(body: bytes, max_bytes: int) -> bytes | None:
    """What a gzip or zlib body holds; None when it is neither, or holds more."""
    for window in (31, 15):
        inflater = zlib.decompressobj(window)
        try:
            content = inflater.decompress(body, max_bytes)
        except zlib.error:
            continue
        if inflater.eof:
            return content
    return None


def decode_base64(body: bytes) -> bytes | None:
    """What a base64 body stands for; None when it is none, or too short to tell."""
    text = b"".join(body.split())
    if len(text) < 8:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def read_json(text: bytes) -> Any:
    """The JSON value; None when it is none (or is null, which no callback is)."""
    try:
        return decode_json(text.decode("utf-8-sig"))
    except ValueError:
        return None


def body_variants(body: bytes, *, max_inflated_bytes: int) -> Iterator[tuple[Change, bytes]]:
    """What the body may have been when it was sent, given what came."""
    yield from _with_line_ends(body)
    content = inflate(body, max_inflated_bytes)
    if content is not None:
        yield Change("body_gzip", "the body before it was compressed"), content
    decoded = decode_base64(body)
    if decoded is not None:
        yield Change("body_base64", "the body before it was encoded in base64"), decoded
    encoded = base64.b64encode(body)
    for text in (encoded, encoded + b"\n"):
        yield Change("body_base64", "the body in base64, which something on the way decoded"), text
    if body.startswith(b"\xef\xbb\xbf"):
        yield Change("body_reencoded", "the body without its byte order mark"), body[3:]
    if b"%" in body or b"+" in body:
        yield (
            Change("body_reencoded", "the body before it was percent-encoded"),
            unquote_to_bytes(body.replace(b"+", b" ")),
        )
    for charset in ("latin-1", "gbk"):
        for source, target in (("utf-8", charset), (charset, "utf-8")):
            try:
                text = body.decode(source).encode(target)
            except ValueError:
                continue
            if text != body:
                yield Change("body_reencoded", f"the body in the character set {target} instead of {source}"), text
    yield from _json_variants(body)


def _with_line_ends(body: bytes) -> Iterator[tuple[Change, bytes]]:
    unix = body.replace(b"\r\n", b"\n")
    dos = unix.replace(b"\n", b"\r\n")
    shorter = body.rstrip(b"\r\n")
    yield Change("body_line_ends", "the body with LF line ends instead of CR LF"), unix
    yield Change("body_line_ends", "the body with CR LF line ends instead of LF"), dos
    for text in (shorter, body.removesuffix(b"\n"), body.rstrip()):
        yield Change("body_final_newline", "the body without the line break or blanks at its end"), text
    for text in (body + b"\n", body + b"\r\n", dos + b"\r\n", unix + b"\n"):
        yield Change("body_final_newline", "the body with a line break at its end"), text
    for text in (unix.rstrip(b"\n"), dos.removesuffix(b"\r\n")):
        yield Change("body_line_ends", "the body with other line ends and none at its end"), text


def _json_variants(body: bytes) -> Iterator[tuple[Change, bytes]]:
    value = read_json(body)
    if value is None:
        return
    if isinstance(value, str):
        yield (
            Change("body_reserialized", "the text that is wrapped in a JSON string here"),
            value.encode("utf-8", "replace"),
        )
    layouts: list[tuple[str, dict[str, Any]]] = [
        ("compact JSON", {"separators": (",", ":")}),
        ("JSON with a blank after each comma and colon", {}),
        *((f"JSON indented by {indent}", {"indent": indent}) for indent in (2, 4)),
        ("JSON indented by tabs", {"indent": "\t"}),
    ]
    for (words, layout), ascii_only, sort_keys in product(layouts, (False, True), (False, True)):
        try:
            text = json.dumps(value, ensure_ascii=ascii_only, sort_keys=sort_keys, **layout)
            encoded = text.encode()
        except (ValueError, TypeError, RecursionError):
            continue
        details = ", other characters as \\u escapes" * ascii_only + ", keys sorted" * sort_keys
        change = Change("body_reserialized", f"the same body as {words}{details}")
        for ending in (b"", b"\n", b"\r\n"):
            yield change, encoded + ending
        if b"/" in encoded:
            yield change, encoded.replace(b"/", b"\\/")


# The string-to-sign of MNS: targets and headers

_ORIGINAL_TARGET_HEADERS = (
    b"x-original-uri",
    b"x-forwarded-uri",
    b"x-original-url",
    b"x-rewrite-url",
    b"x-envoy-original-path",
)


def target_variants(
    target: bytes, *, headers: Sequence[tuple[bytes, bytes]], known: Iterable[tuple[str, bytes]]
) -> Iterator[tuple[Change, bytes]]:
    """
    What the path and query may have been when MNS signed them.

    Args:
        target: As the service takes it.
        known: Other targets that may be meant, with words for where they stand.
    """
    given = dict(headers)
    path, mark, query = target.partition(b"?")
    candidates: list[tuple[str, bytes]] = list(known)
    for name in _ORIGINAL_TARGET_HEADERS:
        value = given.get(name, b"")
        start = value.find(b"/", value.find(b"://") + 3 if b"://" in value else 0)
        if start >= 0:
            candidates.append((f"the header {name.decode()}", value[start:]))
    for where, other in list(candidates):
        parts = other.partition(b"?")[0].split(b"/")[1:_MAX_SEGMENTS]
        candidates += [
            (f"{_segments(number)} of {where} put before it", b"/" + b"/".join(parts[:number]) + target)
            for number in range(1, len(parts))
        ]
    prefix = given.get(b"x-forwarded-prefix", b"").rstrip(b"/")
    if prefix:
        candidates.append(("the prefix of the header x-forwarded-prefix put before it", prefix + target))
    segments = path.split(b"/")[1:]
    candidates += [
        (f"{_segments(number)} left out", b"/" + b"/".join(segments[number:]) + mark + query)
        for number in range(1, min(len(segments), _MAX_SEGMENTS))
    ]
    candidates.append(("the path /notifications, which MNS takes where there is none", b"/notifications"))

    seen = {target}
    for words, base in [("", target), *candidates]:
        if base not in seen:
            seen.add(base)
            yield Change("path_rewritten", words), base
        for cause, spelling, other in _target_spellings(base, mark + query):
            if other not in seen:
                seen.add(other)
                yield Change(cause, f"{words}, {spelling}" if words else spelling), other


def _target_spellings(target: bytes, query: bytes) -> Iterator[tuple[str, str, bytes]]:
    path, mark, own_query = target.partition(b"?")
    rest = mark + own_query
    yield "path_trailing_slash", "with a slash at its end", path + b"/" + rest
    yield "path_trailing_slash", "without the slash at its end", (path.rstrip(b"/") or b"/") + rest
    yield "path_query", "without its query", path
    yield "path_query", "with the query of the request", path + query
    yield "path_encoding", "percent-decoded", unquote_to_bytes(target)
    yield "path_encoding", "percent-encoded", quote(target, safe="/%?&=+,;:@!$'()*~-._").encode()


def _segments(number: int) -> str:
    return "the first segment" if number == 1 else f"the first {number} segments"


Headers = list[tuple[bytes, bytes]]

_CONTENT_TYPES = (
    b"text/plain;charset=utf-8",
    b"text/xml;charset=utf-8",
    b"text/plain; charset=utf-8",
    b"text/xml; charset=utf-8",
    b"text/plain",
    b"text/xml",
    b"application/json",
    b"application/json;charset=utf-8",
)


def signed_header_variants(headers: Headers, *, topics: Iterable[str]) -> Iterator[tuple[Change, Headers]]:
    """What the signed headers may have been: one left out, one put back, one with its usual value."""
    names = {name for name, _ in headers}

    def replaced(name: bytes, value: bytes | None) -> Headers:
        rest = [header for header in headers if header[0] != name]
        return rest if value is None else [*rest, (name, value)]

    for name in sorted(names):
        if name.startswith(b"x-mns-"):
            yield Change("header_added", f"without the header {_shown(name)}"), replaced(name, None)
    for value in _CONTENT_TYPES:
        if dict(headers).get(b"content-type") != value:
            yield Change("header_changed", f"with Content-Type {value.decode()}"), replaced(b"content-type", value)
    if b"content-type" in names:
        yield Change("header_added", "without the header content-type"), replaced(b"content-type", None)
    if b"x-mns-version" not in names:
        yield (
            Change("header_removed", "with the header x-mns-version: 2015-06-06"),
            replaced(b"x-mns-version", b"2015-06-06"),
        )
    for topic in topics:
        owner, _, name_of_topic = topic.partition("/")
        complete = dict(headers) | {b"x-mns-topic-owner": owner.encode(), b"x-mns-topic-name": name_of_topic.encode()}
        if complete != dict(headers):
            change = Change("header_changed", f"with x-mns-topic-owner and x-mns-topic-name of {topic}")
            yield change, list(complete.items())
        subscriber = complete | {b"x-mns-subscriber": owner.encode()}
        if b"x-mns-subscriber" not in names:
            yield Change("header_removed", f"with x-mns-subscriber of {topic}"), list(subscriber.items())
    lowered = [(name, value.lower()) if name == b"content-type" else (name, value) for name, value in headers]
    if lowered != headers:
        yield Change("header_changed", "with Content-Type in small letters"), lowered
    trimmed = [(name, b" ".join(value.split()).strip(b'"')) for name, value in headers]
    if trimmed != headers:
        yield Change("header_changed", "with the blanks and quotes in header values left out"), trimmed


def _shown(name: bytes) -> str:
    return name.decode("ascii", "backslashreplace")[:100]
