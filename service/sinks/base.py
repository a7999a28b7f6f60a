"""
What a sink is: it formats and sends, and says whether a failure may pass. Everything else (when to try, how often,
what to write down) is the dispatcher's.
"""

from collections.abc import Sequence
from typing import Protocol

from service.errors import SinkError
from service.events import Delivery


class Sink(Protocol):
    """
    One configured destination.

    Attributes:
        batch_size: How many deliveries one ``send`` may carry.
        concurrency: How many ``send`` calls may run at once.
        timeout_s: No ``send`` takes longer. The lease of a delivery is longer than this.
    """

    name: str
    batch_size: int
    concurrency: int
    timeout_s: float

    async def open(self) -> None:
        """Prepare connections. Must not fail because the destination is away."""
        ...

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        """
        Send up to ``batch_size`` deliveries.

        Returns:
            For each delivery, in order: None when the destination has taken it, else why not (SinkRetry or
            SinkRejected). Raises nothing for a failure of the destination.
        """
        ...

    async def close(self) -> None:
        """Release connections. Every ``send`` has returned or was cancelled before."""
        ...
