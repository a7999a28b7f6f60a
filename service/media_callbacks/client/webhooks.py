"""
What applications do with what the service sends them: is it genuine and fresh, which event is it, and who takes it?

    from media_callbacks.client.webhooks import Receiver, WebhookVerificationError
    from media_callbacks.events import AnimatedImage, Event, UnknownEvent

    receiver = Receiver(secrets=[os.environ["ORDERS_SECRET"]])

    @receiver.on("animated_image")
    def publish(event: Event[AnimatedImage]) -> None: ...

    @receiver.default
    def note(event: Event | UnknownEvent) -> None: ...

    @app.post("/media")
    def media():
        try:
            receiver.receive(request.headers, request.get_data())
        except WebhookVerificationError as error:
            return "", error.status
        return "", 204

In asynchronous code: ``await receiver.receive_async(request.headers, await request.body())``. What a handler raises
goes to whoever called: let it become a 500, and the event comes again.

**An event may come more than once**, also because an operator sent it again (then with the header
``media-callbacks-replay``), and a later outcome of the same job is another event with a higher ``data.revision``. So a
handler notes ``event.id`` with the revision in the transaction of what it does, and does nothing for an id that is
there (it has come before), or when another id of the same key, ``event.id[:36]``, has a higher revision (it is
overtaken, as it can be on standard queues). That is not done here: whoever notes it before the work loses the event if
the work fails, and whoever notes it after does the work twice if that fails.

Source: "Standard Webhooks", https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md,
sections "Webhook Headers" and "Signature scheme".
"""

import hmac
import inspect
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar, overload

from media_callbacks.config.values import read_webhook_secret
from media_callbacks.model.events import (
    Ai,
    Analysis,
    AnimatedImage,
    Asset,
    Data,
    Event,
    Fingerprint,
    MediaInfo,
    Notice,
    Production,
    Review,
    Snapshot,
    Transcode,
    TranscodeTask,
    UnknownEvent,
    Upload,
    Workflow,
    parse_any_event,
)
from media_callbacks.model.kinds import KINDS, OPERATIONAL, Kind
from media_callbacks.model.operational import SCHEMA as OPERATIONAL_SCHEMA
from media_callbacks.model.operational import OperationalEvent, parse_operational_event
from media_callbacks.timing.clock import utc_now

# What the Standard Webhooks libraries allow. Every attempt is signed anew, however old its event is.
TOLERANCE_S = 300.0

_XML_MESSAGE = re.compile(r"<Message>([A-Za-z0-9+/=]+)</Message>")

_ID, _TIMESTAMP, _SIGNATURE = _HEADERS = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")


class _HasItems(Protocol):
    """Headers as most frameworks have them."""

    def items(self) -> Iterable[tuple[str | bytes, str | bytes]]: ...


Headers = _HasItems | Iterable[tuple[str | bytes, str | bytes]]


class WebhookVerificationError(Exception):
    """
    What came brings no event: it is not signed with a secret of ours, not fresh, or can't be read.

    Attributes:
        status: To answer with. 401 for what is not proven, 400 for what is and can't be read.
    """

    def __init__(self, message: str, *, status: int = 401) -> None:
        super().__init__(message)
        self.status = status


def verify(
    headers: Headers,
    body: bytes,
    *,
    secrets: Sequence[str],
    tolerance_s: float = TOLERANCE_S,
    now: datetime | None = None,
) -> Event | UnknownEvent:
    """
    The event of a genuine request.

    Args:
        headers: Of the request, their names in whichever case.
        body: As it came. What a framework made of the JSON has other bytes, which nobody signed.
        secrets: ``whsec_…`` as the sink has them. Any of them is good: give two while one takes the other's place.
        tolerance_s: How far ``webhook-timestamp`` may be from now, both ways.
        now: The present where nothing else is given.

    Returns:
        An ``UnknownEvent`` where the service is of a later version and says what this one does not know.

    Raises:
        WebhookVerificationError: It is none. Whatever headers and body are, nothing else is raised because of them.
        ValueError: There is no secret, or one that can't be.
        TypeError: The body is not bytes.
    """
    _check_signature(headers, body, _read_secrets(secrets), tolerance_s=tolerance_s, now=now or utc_now())
    return _read_event(body)


def _read_secrets(secrets: Sequence[str]) -> Sequence[bytes]:
    keys = [read_webhook_secret(secret) for secret in secrets]
    if not keys:
        raise ValueError("secrets: expected at least one, came none")
    return keys


def _check_signature(
    headers: Headers, body: bytes, keys: Sequence[bytes], *, tolerance_s: float, now: datetime
) -> None:
    if not isinstance(body, bytes):
        raise TypeError(f"body: expected the bytes as they came, came {type(body).__name__}")
    given = _read_headers(headers)
    timestamp = given[_TIMESTAMP]
    signed = given[_ID] + b"." + timestamp + b"." + body
    expected = [b"v1," + b64encode(hmac.digest(key, signed, "sha256")) for key in keys]
    # Other versions, and what is no signature, may stand beside it.
    came = given[_SIGNATURE].split(b" ")
    if not any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in came):
        raise WebhookVerificationError("webhook-signature: expected one that is made with a secret of ours, came none")
    if not re.fullmatch(b"[0-9]{1,15}", timestamp):
        raise WebhookVerificationError("webhook-timestamp: expected seconds since 1970, came something else")
    age_s = now.timestamp() - int(timestamp)
    if abs(age_s) > tolerance_s:
        raise WebhookVerificationError(
            f"webhook-timestamp: expected one at most {tolerance_s:g} s from now, came one {age_s:.0f} s old; are both"
            " clocks right?"
        )


def _read_headers(headers: Headers) -> dict[bytes, bytes]:
    pairs = headers.items() if hasattr(headers, "items") else headers
    given: dict[bytes, bytes] = {}
    for spelled, value in pairs:
        name = _to_bytes(spelled).lower()
        if name in given:
            raise WebhookVerificationError(f"expected the header {name.decode()} once, came several")
        if name in _HEADERS:
            given[name] = _to_bytes(value)
    if not all(given.get(name) for name in _HEADERS):
        expected = ", ".join(name.decode() for name in _HEADERS)
        raise WebhookVerificationError(f"expected the headers {expected}, came not all of them")
    return given


def _to_bytes(text: object) -> bytes:
    """Whatever a framework has made of a header: one that nobody can have signed is refused for its signature."""
    if isinstance(text, str):
        return text.encode("utf-8", "surrogatepass")
    return text if isinstance(text, bytes) else b""


def _read_event(body: bytes | str, *, in_envelope: bool = False) -> Event | UnknownEvent:
    try:
        return parse_any_event(_open_envelope(body) if in_envelope else body)
    except (ValueError, RecursionError) as error:
        raise _unreadable() from error


def _read_operational(event: Event | UnknownEvent) -> OperationalEvent:
    try:
        return parse_operational_event(event.model_dump_json())
    except ValueError as error:
        raise _unreadable() from error


def _unreadable() -> WebhookVerificationError:
    return WebhookVerificationError("expected an event of media-callbacks in the body, came something else", status=400)


def _open_envelope(body: bytes | str) -> bytes | str:
    """The event out of what SNS, EventBridge or MNS has put around it, or several of them; else what came."""
    text = body if isinstance(body, str) else body.decode()
    match text.lstrip()[:1]:
        case "{":
            document = json.loads(text)
            # As SNS has it, and MNS with the format JSON.
            is_message = document.get("Type") == "Notification" or "TopicName" in document
            if is_message and isinstance(message := document.get("Message"), str):
                return _open_envelope(message)
            if "detail-type" in document and "detail" in document:
                return json.dumps(document["detail"])
            return body
        case "<":
            # MNS with the format XML: what is published is Base64, which XML leaves as it is.
            found = _XML_MESSAGE.search(text)
            return _open_envelope(found[1]) if found else body
        case _:
            return _open_envelope(b64decode(text, validate=True)) if text else body


DataT = TypeVar("DataT", bound=Data)
DataT_contra = TypeVar("DataT_contra", bound=Data, contravariant=True)
ResultT = TypeVar("ResultT")
OperationalHandlerT = TypeVar("OperationalHandlerT", bound="Callable[[OperationalEvent], object]")

# Types of events in quotes: pydantic would make a model of each.


class _Handler(Protocol[DataT_contra]):
    def __call__(self, event: "Event[DataT_contra]", /) -> object: ...


class _Register(Protocol[DataT]):
    """Takes a handler, and gives it back: ``on`` is also a decorator."""

    def __call__(self, handler: "Callable[[Event[DataT]], ResultT]", /) -> "Callable[[Event[DataT]], ResultT]": ...


class Receiver:
    """
    Takes what comes, and hands each event to the function that was named for its kind.

    Args:
        secrets: As ``verify`` has them; left out where nothing but queues is received from.
        tolerance_s: As ``verify`` has it.
        now: The present.

    Raises:
        ValueError: There is a secret that can't be one.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[str] | None = None,
        tolerance_s: float = TOLERANCE_S,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._keys = None if secrets is None else _read_secrets(secrets)
        self._tolerance_s = tolerance_s
        self._now = now
        self._handlers: dict[str, Callable[[Any], object]] = {}
        self._default: Callable[[Any], object] | None = None

    @overload
    def on(
        self, kind: Literal["animated_image"], handler: _Handler[AnimatedImage] | None = None
    ) -> _Register[AnimatedImage]: ...
    @overload
    def on(self, kind: Literal["snapshot"], handler: _Handler[Snapshot] | None = None) -> _Register[Snapshot]: ...
    @overload
    def on(self, kind: Literal["transcode"], handler: _Handler[Transcode] | None = None) -> _Register[Transcode]: ...
    @overload
    def on(
        self, kind: Literal["transcode_task"], handler: _Handler[TranscodeTask] | None = None
    ) -> _Register[TranscodeTask]: ...
    @overload
    def on(self, kind: Literal["media_info"], handler: _Handler[MediaInfo] | None = None) -> _Register[MediaInfo]: ...
    @overload
    def on(self, kind: Literal["analysis"], handler: _Handler[Analysis] | None = None) -> _Register[Analysis]: ...
    @overload
    def on(self, kind: Literal["workflow"], handler: _Handler[Workflow] | None = None) -> _Register[Workflow]: ...
    @overload
    def on(self, kind: Literal["production"], handler: _Handler[Production] | None = None) -> _Register[Production]: ...
    @overload
    def on(self, kind: Literal["review"], handler: _Handler[Review] | None = None) -> _Register[Review]: ...
    @overload
    def on(
        self, kind: Literal["fingerprint"], handler: _Handler[Fingerprint] | None = None
    ) -> _Register[Fingerprint]: ...
    @overload
    def on(self, kind: Literal["ai"], handler: _Handler[Ai] | None = None) -> _Register[Ai]: ...
    @overload
    def on(self, kind: Literal["upload"], handler: _Handler[Upload] | None = None) -> _Register[Upload]: ...
    @overload
    def on(self, kind: Literal["asset"], handler: _Handler[Asset] | None = None) -> _Register[Asset]: ...
    @overload
    def on(self, kind: Literal["notice"], handler: _Handler[Notice] | None = None) -> _Register[Notice]: ...
    @overload
    def on(  # type: ignore[overload-overlap]  # a word is no collection of words that are kinds
        self, kind: Literal["operational"], handler: Callable[[OperationalEvent], object] | None = None
    ) -> Callable[[OperationalHandlerT], OperationalHandlerT]: ...
    @overload
    def on(self, kind: Collection[Kind], handler: _Handler[Data] | None = None) -> _Register[Data]: ...
    def on(self, kind: Collection[str], handler: Callable[[Any], object] | None = None) -> Any:
        """
        Name the function that takes events of a kind, or of any of several; each kind has one. That of operational
        events takes an ``OperationalEvent``; without one they go where those of later versions do.

        Returns:
            What does the same for the function that it is called with, so that it can be a decorator.

        Raises:
            ValueError: There is no such kind, or it has a handler already.
        """
        kinds, known = [kind] if isinstance(kind, str) else kind, (*KINDS, OPERATIONAL)

        def register(handler: Callable[[Any], object]) -> Callable[[Any], object]:
            if strange := [kind for kind in kinds if kind not in known]:
                raise ValueError(f"expected a kind of {', '.join(known)}, came {', '.join(strange)}")
            if taken := [kind for kind in kinds if kind in self._handlers]:
                raise ValueError(f"expected one handler for a kind, {', '.join(taken)} has one already")
            self._handlers |= dict.fromkeys(kinds, handler)
            return handler

        if handler is not None:
            register(handler)
        return register

    def default(self, handler: Callable[[Event | UnknownEvent], ResultT]) -> Callable[[Event | UnknownEvent], ResultT]:
        """
        Name the function that takes every other event: of kinds without a handler, and of later versions.

        Without one they are taken, and nothing is done with them but what is done with the answer of ``receive``.
        """
        if self._default is not None:
            raise ValueError("expected one default handler, there is one already")
        self._default = handler
        return handler

    def receive(self, headers: Headers, body: bytes) -> Event | UnknownEvent:
        """
        Take a request, as ``verify`` does, and let its handler run.

        Raises:
            WebhookVerificationError, TypeError: As ``verify`` does.
            ValueError: There are no secrets.
            TypeError: The handler is asynchronous.
            Exception: The handler's own.
        """
        return self._run(self._verify(headers, body))

    async def receive_async(self, headers: Headers, body: bytes) -> Event | UnknownEvent:
        """The same for handlers of both sorts. Those that are not asynchronous hold up the loop."""
        return await self._run_async(self._verify(headers, body))

    def receive_unsigned(self, body: bytes | str) -> Event | UnknownEvent:
        """
        Take what nobody signed, because what it came by proves it: a queue, a stream or an invocation that the
        service's sink alone can write to. **Never the body of a request**, of SNS neither: anybody can send that.

        Args:
            body: The event as it is, in Base64, or with what SNS, EventBridge or MNS put around it.

        Raises:
            WebhookVerificationError: No event can be read.
            TypeError, Exception: As ``receive`` does.
        """
        return self._run(_read_event(body, in_envelope=True))

    async def receive_unsigned_async(self, body: bytes | str) -> Event | UnknownEvent:
        """The same for handlers of both sorts."""
        return await self._run_async(_read_event(body, in_envelope=True))

    def _verify(self, headers: Headers, body: bytes) -> Event | UnknownEvent:
        if self._keys is None:
            raise ValueError("secrets: expected at least one, came none")
        _check_signature(headers, body, self._keys, tolerance_s=self._tolerance_s, now=self._now())
        return _read_event(body)

    def _run(self, event: Event | UnknownEvent) -> Event | UnknownEvent:
        result = self._start(event)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("the handler is asynchronous: call receive_async or receive_unsigned_async")
        return event

    async def _run_async(self, event: Event | UnknownEvent) -> Event | UnknownEvent:
        result = self._start(event)
        if inspect.isawaitable(result):
            await result
        return event

    def _start(self, event: Event | UnknownEvent) -> object:
        handler = self._handlers.get(event.data.kind) if isinstance(event, Event) else None
        if event.dataschema == OPERATIONAL_SCHEMA and (operational := self._handlers.get(OPERATIONAL)):
            return operational(_read_operational(event))
        handler = handler or self._default
        return None if handler is None else handler(event)
