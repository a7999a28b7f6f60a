"""
The one way in: a request's head, then its body, then its answer, whichever server carries them.

An adapter begins an ``Exchange`` when the head is there, hands it the body as it comes, and is told the answer, which
may be at any moment: a refusal need not wait for the rest. All that is decided about a request is decided here: where
it goes, what is too large, what is genuine, what went wrong, what is logged and counted.

Callbacks go through in turns of the event loop: all that have arrived are prepared and handed to the inbox, and all
that became durable together are answered, then reported. The same step for many, one after the other, finds its code
and data in the processor's caches, which is measured to save a tenth of a callback's time.
"""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from media_callbacks.edge.answers import Answer, Refusals, make_problem
from media_callbacks.edge.endpoint import CallbackEndpoint
from media_callbacks.edge.health import Readiness
from media_callbacks.model.errors import (
    BodyTooLarge,
    ClientLeft,
    HeadersTooLarge,
    InboxUnavailable,
    MalformedCallback,
    MethodNotAllowed,
    ServiceError,
    Unavailable,
    UnknownPath,
)
from media_callbacks.model.receipts import Receipt, Verdict
from media_callbacks.observe.reporting import Reporter
from media_callbacks.sources.base import Callback

MAX_HEADER_BYTES = 16 * 1024
# All bodies that are being read or wait to be durable. Beyond, small ones are taken and large ones are not, the one
# that was silent longest first: what genuine callbacks send is small.
MAX_BODIES_BYTES = 64 * 1024 * 1024
SMALL_BODY_BYTES = 64 * 1024
# Callbacks that wait to be durable.
MAX_WAITING = 1000

Headers = Sequence[tuple[bytes, bytes]]
Probe = Callable[[], Awaitable[Answer]]

_log = structlog.get_logger()


class Edge:
    """
    All that the public may ask.

    Args:
        exact: Endpoints by path.
        below: Endpoints by the path that one further segment follows.
    """

    def __init__(
        self,
        exact: Mapping[str, CallbackEndpoint],
        below: Mapping[str, CallbackEndpoint],
        *,
        readiness: Readiness,
        refusals: Refusals,
        reporter: Reporter,
        max_body_bytes: int,
        body_timeout_s: float,
    ) -> None:
        self._exact = exact
        self._below = below
        self._probes: dict[str, Probe] = {"/health/live": readiness.live, "/health/ready": readiness.ready}
        self.readiness = readiness
        self.refusals = refusals
        self.reporter = reporter
        self.max_body_bytes = max_body_bytes
        self.body_timeout_s = body_timeout_s
        self.waiting = 0
        self.bodies_bytes = 0
        # By when a piece of their body came last.
        self._large: dict[Exchange, None] = {}
        self._arrived: list[Exchange] = []
        self._answered: list[Exchange] = []

    def begin(
        self,
        method: str,
        path: str,
        raw_path: bytes | None,
        query: bytes,
        headers: Headers,
        *,
        head_bytes: int,
        answered: Callable[[Answer], None],
    ) -> "Exchange":
        """
        A request's head has arrived.

        Args:
            path: Percent-decoded, below what the server has mounted this at.
            raw_path: As on the request line; None where the server does not give it.
            headers: Names in lower case, values without white space around them.
            head_bytes: Size of it all.
            answered: Called once with the answer, maybe before this returns, maybe before the body has been read;
                never when the client has left.
        """
        exchange = Exchange(self, Callback(method, raw_path or b"", query, headers, b""), answered)
        try:
            if head_bytes > MAX_HEADER_BYTES:
                raise HeadersTooLarge(f"expected at most {MAX_HEADER_BYTES} bytes of headers, found {head_bytes}")
            exchange.read_framing()
            self._find(path, exchange)
            if raw_path is None:
                raise MalformedCallback("this ASGI server does not give raw_path, which signatures need; uvicorn does")
            if (length := exchange.content_length) is not None and length > self.max_body_bytes:
                raise BodyTooLarge(f"expected at most {self.max_body_bytes} bytes, Content-Length says {length}")
        except ServiceError as error:
            exchange.fail(error)
        return exchange

    def refuse(self, error: ServiceError) -> Answer:
        """The answer to what is no request that can be read."""
        return self.refusals.answer("none", error)

    def _find(self, path: str, exchange: "Exchange") -> None:
        endpoint = self._exact.get(path)
        if endpoint is None and not path.endswith("/"):
            endpoint = self._below.get(path.rpartition("/")[0])
        if endpoint is not None:
            exchange.endpoint = endpoint
            methods = endpoint.source.methods
        else:
            exchange.probe = self._probes.get(path)
            if exchange.probe is None:
                raise UnknownPath(self._explain_unknown(path))
            methods = _PROBE_METHODS
        if exchange.callback.method not in methods:
            raise MethodNotAllowed(f"expected {' or '.join(sorted(methods))}", allowed=sorted(methods))

    def _explain_unknown(self, path: str) -> str:
        """Without the path: what is in it may be what keeps strangers out."""
        nothing = "nothing is configured here"
        for known, endpoint in (*self._exact.items(), *self._below.items()):
            if path.rstrip("/") == known:
                return f"{nothing}; without the slash at its end it is the path of {endpoint.source.name}"
            if path != "/" and (path.endswith(known) or known.endswith(path)):
                hint = "does a proxy add or take away what it begins with?"
                return f"{nothing}; it ends as the path of {endpoint.source.name} does: {hint}"
        return nothing

    # Bodies of all requests together

    def hold_large(self, exchange: "Exchange") -> None:
        """A piece of a large body has come: is there room for it?"""
        self._large.pop(exchange, None)
        self._large[exchange] = None
        while self.bodies_bytes > MAX_BODIES_BYTES and self._large:
            longest_silent = next(iter(self._large))
            longest_silent.fail(Unavailable("too many large bodies are being received at once"))

    def keep_large(self, exchange: "Exchange") -> None:
        """It is there in full, and counts until it is answered."""
        if exchange.held_bytes > SMALL_BODY_BYTES:
            self._large.pop(exchange, None)

    def release(self, exchange: "Exchange") -> None:
        self.bodies_bytes -= exchange.held_bytes
        self.keep_large(exchange)
        exchange.held_bytes = 0

    # Turns

    def submit(self, exchange: "Exchange") -> None:
        """A callback is there, to its last byte."""
        self._arrived.append(exchange)
        if len(self._arrived) == 1:
            asyncio.get_running_loop().call_soon(self._prepare)

    def _prepare(self) -> None:
        exchanges, self._arrived = self._arrived, []
        for exchange in exchanges:
            exchange.prepare()

    def succeeded(self, exchange: "Exchange") -> None:
        """A callback was answered with success."""
        self._answered.append(exchange)
        if len(self._answered) == 1:
            asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        exchanges, self._answered = self._answered, []
        for exchange in exchanges:
            exchange.report()


_PROBE_METHODS = frozenset({"GET", "HEAD"})


class Exchange:
    """
    One request and its answer.

    Attributes:
        endpoint, probe: Where it goes; both None while that is not known.
        content_length: Of the body, or None.
        is_chunked: It has a body that says by itself where it ends.
        is_expecting: The client waits for a word before it sends the body.
        held_bytes: Of the body, in memory.
        is_answered: Whatever of the body may still come is of no interest.
    """

    __slots__ = (
        "_answered",
        "_duration_s",
        "_edge",
        "_is_whole",
        "_pieces",
        "_receipt",
        "_started",
        "_verdict",
        "_wants_upgrade",
        "callback",
        "content_length",
        "endpoint",
        "held_bytes",
        "is_answered",
        "is_chunked",
        "is_expecting",
        "probe",
    )
    _receipt: Receipt
    _verdict: "asyncio.Future[Verdict]"
    _duration_s: float

    def __init__(self, edge: Edge, callback: Callback, answered: Callable[[Answer], None]) -> None:
        self._edge = edge
        self._answered = answered
        self._started = time.perf_counter()
        self._pieces: list[bytes] | None = None
        self._wants_upgrade = False
        self.callback = callback
        self.endpoint: CallbackEndpoint | None = None
        self.probe: Probe | None = None
        self.content_length: int | None = None
        self.is_chunked = self.is_expecting = False
        self.held_bytes = 0
        self.is_answered = self._is_whole = False

    @property
    def source(self) -> str:
        return "none" if self.endpoint is None else self.endpoint.source.name

    def read_framing(self) -> None:
        named = self.callback.named
        length = named.get(b"content-length")
        if length is not None and length.isdigit():
            # Beyond all that is taken; Python would not read an endless one.
            self.content_length = int(length) if len(length) <= 12 else 10**12
        self.is_chunked = b"transfer-encoding" in named
        self._wants_upgrade = b"upgrade" in named
        self.is_expecting = b"expect" in named

    # The body

    def receive(self, piece: bytes) -> None:
        """A piece of the body has arrived."""
        if self.is_answered or not piece:
            return
        if not self.held_bytes:
            self.callback.body = piece
        elif self._pieces is None:
            self._pieces = [self.callback.body, piece]
        else:
            self._pieces.append(piece)
        edge = self._edge
        self.held_bytes += len(piece)
        edge.bodies_bytes += len(piece)
        if self.held_bytes > SMALL_BODY_BYTES:
            edge.hold_large(self)
        if self.held_bytes > edge.max_body_bytes:
            self.fail(BodyTooLarge(f"expected at most {edge.max_body_bytes} bytes, found more"))

    def end(self) -> None:
        """The body is there, to its last byte."""
        if self.is_answered:
            return
        # It makes room for no other any more: what it holds goes on to the inbox.
        self._edge.keep_large(self)
        self.is_expecting = False
        self._is_whole = True
        if self._pieces is not None:
            self.callback.body = b"".join(self._pieces)
            self._pieces = None
        if self.endpoint is None:
            assert self.probe is not None
            task = asyncio.ensure_future(self.probe())
            task.add_done_callback(self._probed)
            return
        # Some servers give the body of a request that asks for an upgrade to nobody. Taken for empty, it would be lost.
        length = self.content_length
        if (length is not None and length != len(self.callback.body)) or (
            self.is_chunked and self._wants_upgrade and not self.callback.body
        ):
            self.fail(
                MalformedCallback(
                    "the body is not as long as announced: send it without the header Upgrade", reason="incomplete_body"
                )
            )
        elif self._edge.waiting >= MAX_WAITING:
            self.fail(Unavailable(f"{MAX_WAITING} callbacks wait to be durable already"))
        else:
            self._edge.submit(self)

    # The answer

    def prepare(self) -> None:
        """Verify it, and hand it to the inbox."""
        assert self.endpoint is not None
        try:
            receipt = self.endpoint.prepare_now(self.callback)
            if receipt is None:
                self._verdict = asyncio.ensure_future(self._fetch_and_put(self.endpoint))
            else:
                self._receipt = receipt
                self._verdict = self.endpoint.put(receipt)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the turn for the others
            self.fail(error)
        else:
            self._edge.waiting += 1
            self._verdict.add_done_callback(self._finish)

    async def _fetch_and_put(self, endpoint: CallbackEndpoint) -> Verdict:
        self._receipt = await endpoint.prepare(self.callback)
        return await endpoint.put(self._receipt)

    def _finish(self, verdict: "asyncio.Future[Verdict]") -> None:
        """The receipt is durable, or it is not."""
        self._edge.waiting -= 1
        error = InboxUnavailable("stopping") if verdict.cancelled() else verdict.exception()
        if error is not None:
            self.fail(error)
            return
        assert self.endpoint is not None
        if not self.is_answered:
            self._answer(self.endpoint.success)
        self._duration_s = time.perf_counter() - self._started
        self._edge.succeeded(self)

    def report(self) -> None:
        """Count and log what became of a callback."""
        assert self.endpoint is not None
        status = self.endpoint.source.success_status
        self._edge.reporter.report(
            self._receipt, self._verdict.result(), self._duration_s, status=status, headers=self.callback.headers
        )

    def _probed(self, answer: "asyncio.Future[Answer]") -> None:
        error = Unavailable("stopping") if answer.cancelled() else answer.exception()
        if error is not None:
            self.fail(error)
        elif not self.is_answered:
            self._answer(answer.result())

    def fail(self, error: BaseException) -> None:
        """It will not be kept."""
        if self.is_answered:
            return
        if isinstance(error, ClientLeft):
            self._end()
            self._edge.refusals.client_left(self.source)
        elif isinstance(error, ServiceError):
            answer = self._edge.refusals.answer(self.source, error, self.callback, is_whole=self._is_whole)
            self._answer(answer)
        else:
            self._edge.refusals.count_defect(self.source)
            _log.error("callback_failed", source=self.source, error=type(error).__name__, at=_where(error))
            self._answer(make_problem(500, closes=True))

    def _answer(self, answer: Answer) -> None:
        self._end()
        if self.callback.method == "HEAD":
            answer = replace(answer, body=b"", rendered=None)
        if self.is_expecting:
            # The body may come, or not.
            answer = replace(answer, closes=True)
        self._answered(answer)

    def _end(self) -> None:
        self.is_answered = True
        self._pieces = None
        self._edge.release(self)


def _where(error: BaseException) -> str:
    # The line, and not the message: that may hold what a caller sent.
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
