"""
What the sinks of Alibaba Cloud have in common: what the vendor's errors mean for events. The clients are made where
sinks are put together (``assembly.sinks``), with their credentials.
"""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

from media_callbacks.model.check_results import CheckResult, split_advice
from media_callbacks.model.errors import SinkError, SinkRetry, VendorError, VendorRefused, VendorUnavailable
from media_callbacks.sinks.calls import CallEntry, CallRefused, CallSink

_REMEDY = "check endpoint, region and network, and try again"


class Client(Protocol):
    """
    Where events are sent. Every method but ``open`` and ``close`` raises VendorUnavailable or VendorRefused.

    Attributes:
        describing: The right that ``describe`` needs.
    """

    describing: ClassVar[str]

    def open(self) -> None: ...

    async def close(self) -> None: ...

    async def put(self, entries: Sequence[Any], *, patience_s: float) -> Sequence[VendorError | None]: ...

    async def describe(self) -> None: ...


class AliyunSink(CallSink):
    """
    Attributes:
        refused_events: The vendor's codes that speak of the event itself.

    Args:
        timeout_s: For a whole ``send``, however many calls it takes.
        concurrency: Sends at once.
    """

    refused_events: ClassVar[frozenset[str]]
    client: Client

    def __init__(self, name: str, client: Client, *, timeout_s: float = 15.0, concurrency: int = 4) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.concurrency = concurrency
        self.client = client

    async def open(self) -> None:
        self.client.open()

    async def close(self) -> None:
        await self.client.close()

    async def call(self, entries: Sequence[CallEntry]) -> Iterable[tuple[CallEntry, SinkError | None]]:
        try:
            results = await self.client.put([entry.fields for entry in entries], patience_s=self.timeout_s)
        except VendorError as error:
            if isinstance(error, VendorRefused) and error.code in self.refused_events:
                raise CallRefused(str(error)) from error
            raise _retry(error) from error
        return [(entry, self._judge(entry, result)) for entry, result in zip(entries, results, strict=True)]

    async def check(self, names: Sequence[str]) -> Sequence[CheckResult]:
        """Whether it is there, which is asked for by a right that sending does not need."""
        subject = f"sinks.{self.name}"
        self.client.open()
        try:
            await self.client.describe()
        except VendorRefused as error:
            if error.code.startswith("AccessDenied"):
                text = "it can be reached; whether it is there can't be told, for these credentials may not ask"
                remedy = f"allow {self.client.describing} to have this command look, or see for yourself"
                return [CheckResult("warning", subject, text, remedy)]
            return [CheckResult("error", subject, *split_advice(str(error), _REMEDY))]
        except VendorUnavailable as error:
            # Who is told to ask less often has reached the vendor.
            return [
                CheckResult("warning" if error.is_throttled else "error", subject, *split_advice(str(error), _REMEDY))
            ]
        finally:
            await self.client.close()
        return [CheckResult("ok", subject, "it is there, and these credentials may ask about it")]

    def _judge(self, entry: CallEntry, error: VendorError | None) -> SinkError | None:
        if error is None:
            return None
        if isinstance(error, VendorRefused) and error.code in self.refused_events:
            # Of usual size the fault may be in the settings, which an operator can mend.
            return self.reject(entry, error.code) if entry.size_bytes > self.usual_bytes else _retry(error)
        return _retry(error)


def _retry(error: VendorError) -> SinkRetry:
    if isinstance(error, VendorUnavailable):
        return SinkRetry(str(error), retry_after_s=error.retry_after_s, is_overload=error.is_throttled)
    return SinkRetry(str(error))
