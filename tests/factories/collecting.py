"""
A collector of OpenTelemetry on loopback: what it is sent by OTLP over HTTP, in protobuf.

Source: "OpenTelemetry Protocol", https://opentelemetry.io/docs/specs/otlp/, section "OTLP/HTTP".
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

PATIENCE_S = 180.0


@dataclass(frozen=True)
class Span:
    """
    Attributes:
        kind: ``CONSUMER`` and the like.
        links: Contexts as (trace id, span id) in hex.
        error: Of its status; None where that is no error.
    """

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    attributes: Mapping[str, Any]
    duration_s: float
    error: str | None
    resource: Mapping[str, Any]

    @property
    def context(self) -> tuple[str, str]:
        return self.trace_id, self.span_id


@dataclass
class Collector:
    """
    Attributes:
        status: What it answers from now on.
        headers: Of every request.
    """

    spans: list[Span] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    status: int = 200
    port: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def collect(self, request: web.Request) -> web.Response:
        body = await request.read()
        assert request.headers["Content-Type"] == "application/x-protobuf"
        self.headers.append(request.headers)
        if self.status == 200:
            self.spans += _read(body)
        self._changed.set()
        return web.Response(
            status=self.status,
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )

    async def wait_for(self, operation: str, count: int) -> list[Span]:
        """Spans of ``receive`` or ``send``, once there are so many."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := self.named(operation)) < count:
                self._changed.clear()
                await self._changed.wait()
        return found

    async def wait_for_requests(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.headers) < count:
                self._changed.clear()
                await self._changed.wait()

    def named(self, operation: str) -> list[Span]:
        return [span for span in self.spans if span.name.startswith(f"{operation} ")]


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", collector.collect)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.port = runner.addresses[0][1]
        yield collector
    finally:
        await runner.cleanup()


def _read(body: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Span(
            span.name,
            SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
            _attributes(span.attributes),
            (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
            _attributes(resource.resource.attributes),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
