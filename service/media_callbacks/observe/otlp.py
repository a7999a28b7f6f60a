"""
Spans by OpenTelemetry's SDK, to a collector by OTLP over HTTP. The one module that imports it: who traces nothing need
not have it.

A thread of the SDK sends what has gathered. While the collector is away or slow it keeps a bounded number
(``OTEL_BSP_MAX_QUEUE_SIZE``), and what is beyond is lost; nobody waits.
"""

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import requests
import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from media_callbacks.version import read_version

# What is left is sent at the end, as long as this.
FLUSH_TIMEOUT_S = 2.0
_NAME = "media-callbacks"
_ROOT = Context()

log = structlog.get_logger()


class SpanWriter:
    """Writes spans that have ended, with ids that they had before. Its thread runs until ``close``."""

    def __init__(self) -> None:
        # They repeat headers that are not as they should be, which have keys, and come without end while a collector
        # is away. What there is to say says `_Exporter`.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        ours = {SERVICE_NAME: _NAME, SERVICE_VERSION: read_version()}
        self._ids = _GivenIds()
        self._exporter = _Exporter()
        self._provider = TracerProvider(
            # The gate was passed before.
            sampler=ALWAYS_ON,
            resource=Resource.create({**ours, **OTELResourceDetector().detect().attributes}),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(_NAME, read_version())

    def write(
        self,
        name: str,
        traceparent: str,
        *,
        is_sent: bool,
        started_ns: int,
        ended_ns: int,
        attributes: Mapping[str, str | int],
        links: Sequence[str],
        error: str | None,
    ) -> None:
        """
        Args:
            traceparent: The context that the span has.
            is_sent: Of what is sent, not of what is received.
            links: Contexts that it is linked to.
            error: What failed, for the operator; None where nothing has.
        """
        context = _context_of(traceparent)
        self._ids.trace_id, self._ids.span_id = context.trace_id, context.span_id
        span = self._tracer.start_span(
            name,
            _ROOT,
            SpanKind.PRODUCER if is_sent else SpanKind.CONSUMER,
            attributes,
            [Link(_context_of(link)) for link in links],
            started_ns,
        )
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(ended_ns)

    async def close(self) -> None:
        """Send what is left, for a bounded time."""
        loop, closed = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(closed.set)

        # Not a borrowed thread, which the end of the loop would wait for.
        threading.Thread(target=shut_down, name="traces-closer", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await closed.wait()
        except TimeoutError:
            self._exporter.shutdown()


def _context_of(traceparent: str) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


class _GivenIds(IdGenerator):
    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _Exporter(SpanExporter):
    """OTLP's, with one line when spans begin to be lost and one when they arrive again."""

    def __init__(self) -> None:
        self._session = _Session()
        self._exporter = OTLPSpanExporter(session=self._session)
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._is_failing:
            log.warning("traces_not_exported", spans=len(spans), error=self._session.outcome)
        elif self._is_failing and not failed:
            log.info("traces_exported_again")
        self._is_failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Session(requests.Session):
    """
    Attributes:
        outcome: Of the last request, without what may be in URLs and texts.
    """

    outcome = "not asked"

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        try:
            response = super().request(*arguments, **options)
        except Exception as error:
            self.outcome = type(error).__name__
            raise
        self.outcome = f"HTTP {response.status_code}"
        return response
