"""
One request at one source: what the steps of all transports share.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Literal
from urllib.parse import unquote_to_bytes, urlsplit

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from media_callbacks.edge.core import MAX_HEADER_BYTES
from media_callbacks.explain.captured_request import CapturedRequest
from media_callbacks.explain.variants import read_json
from media_callbacks.model.errors import (
    BodyTooLarge,
    HeadersTooLarge,
    MethodNotAllowed,
    Rejected,
    Unavailable,
    UnknownPath,
    UnknownToken,
)
from media_callbacks.model.events import Event
from media_callbacks.model.times import format_time
from media_callbacks.sources.base import Callback, CallbackSource, Message
from media_callbacks.sources.intake import build_receipt
from media_callbacks.sources.transports.http import HttpSource
from media_callbacks.sources.transports.mns_push import MnsPushSource
from media_callbacks.sources.transports.token_url import TokenUrlSource
from media_callbacks.sources.transports.url_tokens import UncheckedToken, decode_token

Status = Literal["ok", "failed", "not checked", "note"]
State = Literal["accepted", "unparsed", "refused", "undecided"]

_SHOWN_KEY_CHARACTERS = 2
_MIN_SHOWN_KEY_LENGTH = 8
_SHOWN_DIGEST_DIGITS = 6
# Longer than any word in a path, shorter than any token.
_SECRET_SEGMENT_LENGTH = 32
# How long a request may have been under way when its clock is off by a time zone.
_ZONE_TOLERANCE_S = 120
MAX_SHOWN_STRINGS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """
    One thing that was looked at.

    Attributes:
        status: ``note`` is something to know that decides nothing.
        lines: Details, such as a string-to-sign.
    """

    name: str
    status: Status
    expected: str | None = None
    came: str | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """
    A cause that explains what was seen.

    Attributes:
        cause: One of a fixed set of words.
        remedy: What to do.
    """

    cause: str
    text: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestVerdict:
    """
    What the service does with this request.

    Attributes:
        answer: The HTTP status; None when it could not be decided here.
        reason: As in metrics and logs.
    """

    state: State
    answer: int | None
    reason: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """
    What is around a request: the configuration, and what the person who asks adds to it.

    Attributes:
        now: The moment to judge freshness at.
        is_arrival_known: ``now`` is when the request came.
        pinned: By source name, the keys of its pinned certificates by URL. A source that pins none is not in it.
        certificate: The key to check pushes with where none is pinned.
        max_inflated_bytes: What a compressed body may hold.
        has_time: Whether the search for what explains a refusal may go on.
        is_kept: The explanation is kept: it shows no part of a key or of a digest.
    """

    sources: Sequence[CallbackSource]
    now: datetime
    is_arrival_known: bool = False
    pinned: Mapping[str, Mapping[str, RSAPublicKey]] = field(default_factory=dict)
    certificate: RSAPublicKey | None = None
    max_body_bytes: int = 1 << 20
    max_inflated_bytes: int = 8 << 20
    has_time: Callable[[], bool] = lambda: True
    is_kept: bool = False


@dataclass(slots=True, kw_only=True)
class Explanation:
    """
    What has been found out about a request so far.

    Attributes:
        source: Its name; None when no source fits.
        judged_at: The moment at which freshness was judged.
        is_arrival_known: Whether that is when the request came, and not the time of asking.
        events: What it gives, or, where the verdict is another, would give if it were accepted.
    """

    request: str
    source: str | None
    product: str | None
    transport: str | None
    judged_at: datetime
    is_arrival_known: bool
    notes: tuple[str, ...]
    steps: list[Examination] = field(default_factory=list)
    findings: list[Diagnosis] = field(default_factory=list)
    verdict: RequestVerdict = RequestVerdict(
        state="refused", answer=404, reason="unknown_path", text="no source fits the request"
    )
    events: tuple[Event, ...] = ()
    unparsed: str | None = None
    warnings: tuple[str, ...] = ()


# Paths


def serves(source: CallbackSource, raw_path: bytes) -> bool:
    path = unquote_to_bytes(raw_path)
    own = source.path.encode()
    if source.transport == "token-url":
        return re.fullmatch(re.escape(own) + rb"/[^/]+", path) is not None
    return path == own


def registered_path_serves(source: CallbackSource, raw_path: bytes) -> bool:
    """Whether the request was captured before a proxy that rewrites its path to the one we listen on."""
    paths = {path for path, _ in registered_targets(source)}
    if source.transport == "token-url":
        return raw_path.rpartition(b"/")[0] in {path.rstrip(b"/") for path in paths}
    return raw_path in paths


def registered_targets(source: CallbackSource) -> Iterator[tuple[bytes, bytes]]:
    """Path and query of the registered urls."""
    if isinstance(source, MnsPushSource):
        targets = [] if source.signed_target is None else [source.signed_target]
    else:
        urls = urls_of(source)
        targets = [
            ((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode() for parts in map(urlsplit, urls)
        ]
    for target in targets:
        path, _, query = target.partition(b"?")
        yield path, query


def urls_of(source: CallbackSource) -> tuple[str, ...]:
    if isinstance(source, HttpSource):
        return source.urls
    return (source.url,) if isinstance(source, TokenUrlSource) else ()


# The verdict


def judge_request(
    source: CallbackSource, callback: Callback, around: Surroundings, *, now: datetime | None = None
) -> tuple[RequestVerdict, Message | None]:
    """What the service does, in the service's order: route, method, sizes, signature, parser."""
    path = callback.raw_path
    try:
        if not serves(source, path) and not registered_path_serves(source, path):
            raise UnknownPath("no source listens on the request's path")
        if callback.method not in source.methods:
            expected = " or ".join(sorted(source.methods))
            raise MethodNotAllowed(f"expected {expected}, came {callback.method}", allowed=())
        if (size := head_size(callback)) > MAX_HEADER_BYTES:
            raise HeadersTooLarge(f"expected at most {MAX_HEADER_BYTES} bytes of headers, came {size}")
        if (size := len(callback.body)) > around.max_body_bytes:
            raise BodyTooLarge(f"expected a body of at most {around.max_body_bytes} bytes, came {size}")
        url = source.certificate_url(callback)
        key = None if url is None else _service_key(source, url, around)
        if url is not None and key is None:
            text = "everything but the signature was checked: give the signing certificate with --certificate FILE"
            return RequestVerdict(state="undecided", answer=None, reason=None, text=text), None
        message = source.verify(callback, now=now or around.now, public_key=key)
    except (Rejected, Unavailable) as error:
        status = error.status if isinstance(error, Rejected) else 503
        return RequestVerdict(state="refused", answer=status, reason=error.reason, text=visible(str(error))), None
    receipt = build_receipt(source, message, received_at=around.now, route=lambda _: ())
    if receipt.reason is not None:
        text = f"genuine, and kept without an event: {visible(receipt.reason)}"
        return RequestVerdict(state="unparsed", answer=source.success_status, reason="unparsed", text=text), message
    text = "genuine and fresh; whether it is a duplicate, or says otherwise, only the store can tell"
    return RequestVerdict(state="accepted", answer=source.success_status, reason=None, text=text), message


def _service_key(source: CallbackSource, url: str, around: Surroundings) -> RSAPublicKey | None:
    pinned = around.pinned.get(source.name)
    return around.certificate if pinned is None else pinned.get(url)


def head_size(callback: Callback) -> int:
    lines = sum(len(name) + len(value) + 4 for name, value in callback.headers)
    return len(callback.raw_path) + len(callback.query) + lines


# One request and one source


class Case:
    """A request at a source."""

    def __init__(
        self, captured: CapturedRequest, around: Surroundings, source: CallbackSource | None, chosen_by: str
    ) -> None:
        self.callback = callback = captured.callback
        self.around = around
        self.source = source
        self.chosen_by = chosen_by
        # When the sender says that it was sent, and whether the signature that covers this is right.
        self.sent_at: datetime | None = None
        self._known_segments = {
            segment for other in around.sources for text in (other.path, *urls_of(other)) for segment in text.split("/")
        }
        for other in around.sources:
            if isinstance(other, MnsPushSource) and other.signed_target is not None:
                self._known_segments.update(other.signed_target.decode("utf-8", "replace").split("/"))
        target = self.show_target(callback.raw_path + (b"?" + callback.query if callback.query else b""))
        self.explanation = Explanation(
            request=f"{visible(callback.method)} {target}, body of {len(callback.body)} bytes",
            source=source.name if source else None,
            product=source.product if source else None,
            transport=source.transport if source else None,
            judged_at=around.now,
            is_arrival_known=around.is_arrival_known,
            notes=captured.notes,
        )

    def step(
        self,
        name: str,
        status: Status | bool,
        *,
        expected: str | None = None,
        came: str | None = None,
        lines: Sequence[str] = (),
    ) -> None:
        if isinstance(status, bool):
            status = "ok" if status else "failed"
        self.explanation.steps.append(
            Examination(name=name, status=status, expected=expected, came=came, lines=tuple(lines))
        )

    def find(self, cause: str, text: str, remedy: str) -> None:
        if all((finding.cause, finding.text) != (cause, text) for finding in self.explanation.findings):
            self.explanation.findings.append(Diagnosis(cause=cause, text=text, remedy=remedy))

    # What is in the request

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.callback.headers if key == name]

    def first(self, name: bytes) -> bytes | None:
        return next(iter(self.values(name)), None)

    def show_target(self, target: bytes) -> str:
        """A path and query, with what may be a token left out."""
        path, mark, query = target.decode("utf-8", "replace").partition("?")
        segments = [self._show_segment(segment) for segment in path.split("/")]
        for source in self.around.sources:
            if not isinstance(source, TokenUrlSource):
                continue
            for base in (source.path, urlsplit(source.url).path.rstrip("/")):
                if base and path.startswith(base + "/"):
                    return f"{base}/<token>"
        return "/".join(segments) + (mark and "?" + re.sub(r"[^=&/]{32,}", _length_only, visible(query)))

    def _show_segment(self, segment: str) -> str:
        if len(segment) < _SECRET_SEGMENT_LENGTH or segment in self._known_segments:
            return visible(segment)
        return f"<{len(segment)} characters>"

    def show_url(self, url: str) -> str:
        """With user name and password left out."""
        scheme, separator, rest = url.partition("://")
        authority, slash, target = rest.partition("/")
        user, at, host = authority.rpartition("@")
        shown = ("***@" if user or at else "") + host
        return visible(scheme + separator + shown) + (
            self.show_target((slash + target).encode("utf-8", "replace")) if slash else ""
        )

    def show_key(self, key: str) -> str:
        """Two characters of a key, none of a short one."""
        is_shown = len(key) >= _MIN_SHOWN_KEY_LENGTH and not self.around.is_kept
        return (visible(key[:_SHOWN_KEY_CHARACTERS]) if is_shown else "") + "***"

    def show_digest(self, digest: str) -> str:
        # Whoever has a few digits of some can find a weak key by them.
        return "***" if self.around.is_kept else digest[:_SHOWN_DIGEST_DIGITS] + "…"

    def explain_clock(self, *, age_s: float, oldest_s: float, ahead_s: float) -> None:
        """Freshness of a request whose signature is right."""
        assert self.sent_at is not None
        if -ahead_s <= age_s <= oldest_s:
            return
        sent = format_time(self.sent_at)
        words = f"the signature is right and {age(age_s)}"
        if not self.around.is_arrival_known and age_s > 0:
            self.find(
                "old_capture",
                f"{words}: the file does not say when the request came, so it was judged at the present time"
                f" ({format_time(self.around.now)}), and this may mean only that the capture is old",
                f"give the moment of arrival from the log of the proxy or of this service; --at {sent} judges it as"
                " fresh as it can be",
            )
            return
        half_hours = round(age_s / 1800)
        if 2 <= abs(half_hours) <= 28 and abs(age_s - half_hours * 1800) <= _ZONE_TOLERANCE_S:
            self.find(
                "clock",
                f"{words}, which is close to {half_hours / 2:g} h: the difference of a time zone",
                "check that the clock of this machine (or --at) is in UTC and not in local time taken for UTC",
            )
        elif age_s < 0:
            self.find(
                "clock",
                f"{words}: by the sender's clock it has not been sent yet, so the clock of this machine is behind",
                "synchronise this machine (chronyc tracking, timedatectl); the vendor's clocks are well kept",
            )
        else:
            witness = self._witness()
            self.find(
                "clock",
                f"{words}: the clock of this machine is ahead, or the request was held back or sent again by something"
                f" on the way{witness}",
                "compare this machine's clock with a time server first (chronyc tracking, timedatectl); if it is right,"
                " look for a queue or a retry in the proxy, or somebody replaying captured requests",
            )

    def _witness(self) -> str:
        body = read_json(self.callback.body)
        text = body.get("EventTime") if isinstance(body, dict) else None
        try:
            happened = datetime.fromisoformat(text) if isinstance(text, str) else None
        except ValueError:
            return ""
        if happened is None or happened.tzinfo is None or self.sent_at is None:
            return ""
        if abs((self.sent_at - happened).total_seconds()) <= 300:
            return "; EventTime in the body agrees with the sender's clock"
        return ""


# Tokens


def token_places(callback: Callback) -> Iterator[bytes]:
    """Where a token may stand: the last segment first, then the others, then the query."""
    yield from reversed(callback.raw_path.split(b"/"))
    yield from re.split(rb"[=&]", callback.query)


def find_any_token(callback: Callback, around: Surroundings) -> UncheckedToken | None:
    """The first token that stands anywhere in the target."""
    places = takewhile(lambda _: around.has_time(), token_places(callback))
    return next((found[1] for place in places if (found := find_token(place))), None)


def find_token(text: bytes) -> tuple[bytes, UncheckedToken] | None:
    """A token, also with what commonly sticks to one."""
    plain = unquote_to_bytes(text)
    for candidate in (text, plain, plain.strip(b" .,;\"'<>()="), plain.replace(b"+", b"-").rstrip(b"=")):
        try:
            return candidate, decode_token(candidate)
        except UnknownToken:
            continue
    return None


# Words


def family(prefix: bytes) -> str:
    return prefix.decode("ascii").upper().rstrip("-")


def visible(text: str) -> str:
    """Without characters that a terminal would act upon."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shape(value: bytes) -> str:
    """What kind of value this is, without its content."""
    if not value:
        return "an empty value"
    kind = (
        "digits" if value.isdigit() else "hexadecimal digits" if re.fullmatch(rb"[0-9a-fA-F]+", value) else "characters"
    )
    return f"{len(value)} {kind}" + (", blanks among them" if re.search(rb"\s", value) else "")


def _length_only(match: re.Match[str]) -> str:
    return f"<{len(match[0])} characters>"


def from_epoch(seconds: float) -> datetime | None:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        return None


def span(seconds: float) -> str:
    seconds = abs(seconds)
    exact = f"{seconds:.0f} s"
    if seconds < 120:
        return exact
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or unit == "min":
            return f"{exact} ({seconds / size:.1f} {unit})"
    return exact


def age(age_s: float) -> str:
    return f"{span(age_s)} old" if age_s >= 0 else f"{span(age_s)} ahead"
