"""
The public edge: callbacks and health.

An endpoint reads the request within bounds, asks the source whether it is genuine, puts the receipt into the inbox and
answers. What goes wrong is raised; ``answer_error`` is the one place where errors become answers.
"""

import asyncio
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, cast

import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from service.errors import (
    BadSignature,
    BodyTooLarge,
    ConfigError,
    HeadersTooLarge,
    MalformedCallback,
    MethodNotAllowed,
    Rejected,
    RequestTimeout,
    ServiceError,
    StaleTimestamp,
    Unavailable,
)
from service.inbox.base import Inbox, Receipt, Verdict
from service.intake import HoldRules, Route, build_receipt
from service.metrics import Metrics
from service.reporting import Reporter
from service.sources.base import Callback, CallbackSource
from service.sources.base import Message as VerifiedMessage

MAX_HEADER_BYTES = 16 * 1024
# Bodies that come in many pieces, all requests together. A body that fits one read of the server costs nothing here.
MAX_READING_BYTES = 64 * 1024 * 1024
RETRY_AFTER_S = 1

# What the callback of CreateGifTask wants to read is not documented; its own API answers so.
_SUCCESS_BODY = b'{"code":"OK"}'

log = structlog.get_logger()


class Certificates(Protocol):
    """Where signing certificates come from."""

    async def get(self, url: str) -> RSAPublicKey: ...

    def known(self, url: str) -> RSAPublicKey | None:
        """The key, if it need not be fetched."""
        ...

    async def refetch(self, url: str) -> RSAPublicKey:
        """The key anew; the very object that ``get`` gave when there is no other."""
        ...


class BodyReader:
    """
    Reads bodies within bounds of size, time and total memory.

    One timer watches all bodies, because nearly every body is there when it is asked for: a timer for each would cost
    as much as checking its signature.

    Args:
        timeout_s: How long a body may take to arrive; it is given up at most a quarter of that later.
    """

    def __init__(self, *, max_bytes: int, timeout_s: float) -> None:
        self.max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._reading_bytes = 0
        self._deadlines: dict[asyncio.Task[object], float] = {}
        self._overdue: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, headers: Sequence[tuple[bytes, bytes]], receive: Receive) -> bytes:
        """
        Raises:
            BodyTooLarge, RequestTimeout, MalformedCallback: The body is not acceptable.
            Unavailable: Too many large bodies are being read just now.
        """
        declared: int | None = None
        is_chunked = is_upgrade = False
        for name, value in headers:
            if name == b"content-length" and value.isdigit():
                if len(value) > 12 or int(value) > self.max_bytes:
                    raise BodyTooLarge(
                        f"expected at most {self.max_bytes} bytes, Content-Length says {value[:20].decode()}"
                    )
                declared = int(value)
            elif name == b"transfer-encoding":
                is_chunked = True
            elif name == b"upgrade":
                is_upgrade = True
        task = cast("asyncio.Task[object]", asyncio.current_task())
        loop = asyncio.get_running_loop()
        self._deadlines[task] = loop.time() + self._timeout_s
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s / 4, self._give_up_late_ones)
        try:
            body, more = _body_of(await receive())
            if more:
                body = await self._read_rest(body, receive)
        except asyncio.CancelledError:
            if task not in self._overdue or task.uncancel():
                raise
            raise RequestTimeout(f"the body did not arrive within {self._timeout_s} s") from None
        finally:
            del self._deadlines[task]
            self._overdue.discard(task)
        if len(body) > self.max_bytes:
            raise BodyTooLarge(f"expected at most {self.max_bytes} bytes, found more")
        # uvicorn gives the body of a request that asks for an upgrade to nobody. Taken for empty, it would be lost.
        if (declared is not None and len(body) != declared) or (is_chunked and is_upgrade and not body):
            raise MalformedCallback(
                "the body is not as long as announced: send it without the header Upgrade", reason="incomplete_body"
            )
        return body

    def _give_up_late_ones(self) -> None:
        self._timer = None
        if not self._deadlines:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, deadline in self._deadlines.items():
            if deadline <= now and task not in self._overdue:
                self._overdue.add(task)
                task.cancel()
        self._timer = loop.call_later(self._timeout_s / 4, self._give_up_late_ones)

    async def _read_rest(self, first: bytes, receive: Receive) -> bytes:
        pieces, size, more = [first], len(first), True
        self._reading_bytes += size
        try:
            while more:
                if size > self.max_bytes:
                    raise BodyTooLarge(f"expected at most {self.max_bytes} bytes, found more")
                if self._reading_bytes > MAX_READING_BYTES:
                    raise Unavailable("too many large bodies are being received at once")
                piece, more = _body_of(await receive())
                pieces.append(piece)
                size += len(piece)
                self._reading_bytes += len(piece)
        finally:
            self._reading_bytes -= size
        return b"".join(pieces)


def _body_of(message: Message) -> tuple[bytes, bool]:
    if message["type"] == "http.disconnect":
        raise MalformedCallback("the client went away before the body was complete", reason="disconnected")
    return message.get("body", b""), message.get("more_body", False)


class CallbackEndpoint:
    """The ASGI application behind the path of one source. It answers everything that it raises on purpose."""

    def __init__(
        self,
        source: CallbackSource,
        *,
        inbox: Inbox,
        route: Route,
        certificates: Certificates,
        bodies: BodyReader,
        answers: "ErrorAnswers",
        metrics: Metrics,
        clock: Callable[[], datetime],
        holds: HoldRules | None = None,
    ) -> None:
        self.source = source
        self._inbox = inbox
        self._route = route
        self._holds = holds
        self._certificates = certificates
        self._bodies = bodies
        self._answers = answers
        self._clock = clock
        self._reporter = Reporter(metrics)
        # VOD, IMS and MNS look at the status alone; without a body it all goes out in one write.
        status, body = source.success_status, _SUCCESS_BODY if source.transport == "token-url" else b""
        self.success = Response(body, status, media_type="application/json" if body else None)

    def takes(self, method: str, body_bytes: int) -> bool:
        """Whether such a request may be prepared."""
        return method in self.source.methods and body_bytes <= self._bodies.max_bytes

    def prepare_now(self, callback: Callback) -> Receipt | None:
        """
        Verify a request and read it.

        Returns:
            What to put into the inbox; None when a certificate must be fetched first.

        Raises:
            Rejected: It is refused.
        """
        now = self._clock()
        # Only pushes need a certificate, and an await costs more than the question.
        url = self.source.certificate_url(callback)
        public_key = None
        if url is not None:
            public_key = self._certificates.known(url)
            if public_key is None:
                return None
        try:
            message = self.source.verify(callback, now=now, public_key=public_key)
        except BadSignature as error:
            if url is None or error.reason != "signature_mismatch":
                raise
            # The vendor may have replaced the certificate under the same name.
            return None
        return build_receipt(self.source, message, received_at=now, route=self._route, holds=self._holds)

    async def prepare(self, callback: Callback) -> Receipt:
        """
        As ``prepare_now``, with fetching what is needed.

        Raises:
            Rejected: It is refused.
            CannotVerify: The certificate can't be had just now.
        """
        receipt = self.prepare_now(callback)
        if receipt is not None:
            return receipt
        now = self._clock()
        url = self.source.certificate_url(callback)
        assert url is not None
        message = await self._verify(callback, url, now)
        return build_receipt(self.source, message, received_at=now, route=self._route, holds=self._holds)

    def put(self, receipt: Receipt) -> "asyncio.Future[Verdict]":
        """The promise that a receipt is durable."""
        verdict = self._inbox.put(receipt)
        return verdict if isinstance(verdict, asyncio.Future) else asyncio.ensure_future(verdict)

    def refuse(self, error: BaseException) -> Response:
        """The answer to a request that is not kept."""
        if isinstance(error, ServiceError):
            return self._answers.to_service_error(self.source.name, error)
        log.error("callback_failed", source=self.source.name, error=type(error).__name__, at=_where(error))
        return problem(500, {"connection": "close"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        try:
            callback = await self._read(scope, receive)
            receipt = await self.prepare(callback)
            verdict = await self._inbox.put(receipt)
        except ServiceError as error:
            await self.refuse(error)(scope, receive, send)
            return
        self.report(receipt, verdict, time.perf_counter() - started)
        await self.success(scope, receive, send)

    async def _read(self, scope: Scope, receive: Receive) -> Callback:
        method: str = scope["method"]
        if method not in self.source.methods:
            raise MethodNotAllowed(
                f"expected {' or '.join(sorted(self.source.methods))}", allowed=sorted(self.source.methods)
            )
        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        raw_path: bytes | None = scope.get("raw_path")
        if raw_path is None:
            raise MalformedCallback("this ASGI server does not give raw_path, which signatures need; uvicorn does")
        query: bytes = scope["query_string"]
        size = len(raw_path) + len(query)
        for name, value in headers:
            size += len(name) + len(value) + 4
        if size > MAX_HEADER_BYTES:
            raise HeadersTooLarge(f"expected at most {MAX_HEADER_BYTES} bytes of headers, found {size}")
        body = await self._bodies.read(headers, receive)
        return Callback(method, raw_path, query, headers, body)

    async def _verify(self, callback: Callback, certificate_url: str, now: datetime) -> VerifiedMessage:
        public_key = await self._certificates.get(certificate_url)
        try:
            return self.source.verify(callback, now=now, public_key=public_key)
        except BadSignature as error:
            if error.reason != "signature_mismatch":
                raise
            # The vendor may have replaced the certificate under the same name.
            new_key = await self._certificates.refetch(certificate_url)
            if new_key is public_key:
                raise
        return self.source.verify(callback, now=now, public_key=new_key)

    def report(self, receipt: Receipt, verdict: Verdict, duration_s: float) -> None:
        """Count and log what became of a callback."""
        self._reporter.report(receipt, verdict, duration_s, status=self.source.success_status)


def _where(error: BaseException) -> str:
    # The line, and not the message: that may hold what a caller sent.
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


class CallbackRouter(Starlette):
    """
    Starlette, with the callbacks' paths looked up before its own routes.

    Its middleware and routing cost a callback as much as reading the JSON does, and add nothing here: the endpoint
    answers its own errors.

    Args:
        exact: Endpoints by path.
        below: Endpoints by the path that one further segment follows.
    """

    def __init__(
        self, exact: Mapping[str, CallbackEndpoint], below: Mapping[str, CallbackEndpoint], **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._exact = exact
        self._below = below

    def find(self, path: str) -> CallbackEndpoint | None:
        """The endpoint of a path."""
        endpoint = self._exact.get(path)
        if endpoint is None and not path.endswith("/"):
            endpoint = self._below.get(path.rpartition("/")[0])
        return endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            root_path: str = scope.get("root_path", "")
            endpoint = self.find(path.removeprefix(root_path) if root_path else path)
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class ErrorAnswers:
    """Turns what endpoints raise into answers, one log line and one count each."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def to_service_error(self, source: str, error: ServiceError) -> Response:
        headers: dict[str, str] = {}
        age_s = error.age_s if isinstance(error, StaleTimestamp) else None
        if isinstance(error, Rejected):
            status, reason = error.status, error.reason
            if isinstance(error, MethodNotAllowed):
                headers["allow"] = ", ".join(error.allowed)
            if status == 408:
                # The rest of the body may come yet, and would be taken for the next request.
                headers["connection"] = "close"
        else:
            status, reason = 503, error.reason if isinstance(error, Unavailable) else "internal"
            headers["retry-after"] = str(RETRY_AFTER_S)
        self._metrics.callback_refused(source=source, reason=reason, age_s=age_s)
        log.warning(
            "callback_refused",
            source=source,
            status=status,
            reason=reason,
            detail=str(error)[:500],
            **({"age_s": round(age_s, 1)} if age_s is not None else {}),
        )
        return problem(status, headers)

    async def to_http_error(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        # The path is not shown: it may be a secret one with a letter too many.
        reason = _HTTP_REASONS.get(error.status_code, "http_error")
        self._metrics.callback_refused(source="none", reason=reason)
        log.warning("callback_refused", source="none", status=error.status_code, reason=reason)
        return problem(error.status_code, dict(error.headers or {}))


def problem(status: int, headers: dict[str, str] | None = None, *, detail: str | None = None) -> Response:
    """
    RFC 9457. To the public without detail: what exactly was wrong is for the operator's log, not for the caller.
    """
    return JSONResponse(
        {"title": _TITLES.get(status, "Error"), "status": status} | ({"detail": detail} if detail else {}),
        status,
        headers=headers,
        media_type="application/problem+json",
    )


_HTTP_REASONS = {404: "unknown_path", 405: "method"}

_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Readiness:
    """
    Whether this instance should get callbacks: something was made durable a moment ago, and it is not stopping.

    Args:
        monotonic: Seconds that only grow.
    """

    # The endpoint is public: asking often must not make the disk busy.
    _CHECK_EVERY_S = 1.0

    def __init__(self, inbox: Inbox, *, monotonic: Callable[[], float]) -> None:
        self._inbox = inbox
        self._monotonic = monotonic
        self._checked_at = float("-inf")
        self._problem: str | None = None
        self.is_draining = False

    async def problem(self) -> str | None:
        """Why not, or None."""
        if self.is_draining:
            return "draining"
        if self._monotonic() - self._checked_at >= self._CHECK_EVERY_S:
            self._checked_at = self._monotonic()
            try:
                async with asyncio.timeout(5):
                    await self._inbox.check()
                self._problem = None
            except (Unavailable, ConfigError, TimeoutError) as error:
                log.warning("not_ready", error=str(error))
                self._problem = "store unavailable"
        return self._problem

    async def live(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        reason = await self.problem()
        return JSONResponse({"status": reason or "ok"}, 503 if reason else 200)
