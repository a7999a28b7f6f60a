"""
What a sink is: it formats and sends, and says whether a failure may pass. Everything else (when to try, how often,
what to write down) is the dispatcher's.

This is also what a sink of a third party implements. A distribution offers one as an entry point of the group
``media_callbacks.sinks``, whose name is the ``kind`` of a ``[sinks.<name>]`` table:

    [project.entry-points."media_callbacks.sinks"]
    redis = "my_package:build"

    def build(name: str, options: Mapping[str, object]) -> Sink

``options`` are the keys of the table other than ``kind``, ``match``, ``retry_delays_s`` and ``rate_per_s``, with
``${NAME}`` and ``file:`` replaced; values that an environment variable gave are text. A ValueError about them, whose
text is one sentence and holds no secret, is told as a mistake of the configuration. ``build`` runs when the
configuration is checked, too: what connects belongs into ``open``.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from media_callbacks.model.check_results import CheckResult
from media_callbacks.model.errors import SinkError
from media_callbacks.model.events import Delivery


class Sink(Protocol):
    """
    One configured destination. All of it runs in one event loop, which ``open`` and ``send`` must not block.

    Attributes:
        name: As configured; the ``name`` that the sink was built with.
        batch_size: How many deliveries one ``send`` may carry, at least 1.
        concurrency: How many ``send`` calls may run at once, at least 1.
        timeout_s: No ``send`` takes longer: the sink itself keeps it, over all that it does for the batch. The lease
            of a delivery is longer than this, so that nobody else sends it meanwhile; at most 25 s.
    """

    name: str
    batch_size: int
    concurrency: int
    timeout_s: float

    async def open(self) -> None:
        """Prepare connections. Must not fail because the destination is away: ``send`` will tell."""
        ...

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        """
        Send from 1 up to ``batch_size`` deliveries, ``delivery.body`` being the CloudEvent as JSON.

        They come in the order of their claim, oldest event first, and a destination that keeps an order gets them in
        this one. No two of a batch, nor of two batches at once, are of one job, apart from replays. An event may come
        again with the same ``event_id`` after a failure, a lost answer or a crash; ``replay`` is above 0 when an
        operator asked for it again. ``traceparent`` goes along where there is a place for it.

        Returns:
            For each delivery, in order, None when the destination has taken it durably, else why not:

            SinkRetry     may work later; with ``retry_after_s`` not before so many seconds, with ``is_overload`` fewer
                          sends at once
            SinkGone      as SinkRetry, and the sink is disabled until an operator resumes it
            SinkRejected  will never work, such as an event that is too large: the delivery is dead at once

            Their texts are one line for the operator, without secrets or bodies. Raises nothing for a failure of the
            destination. When cancelled, it ends soon and leaves nothing behind; what was sent until then may arrive.
        """
        ...

    async def close(self) -> None:
        """
        Release connections. Every ``send`` has returned or was cancelled before; one that still runs all the same ends
        within its ``timeout_s``, with a result for each delivery. A sink can be opened again.
        """
        ...


@runtime_checkable
class Checked(Protocol):
    """What a sink may have besides, for ``media-callbacks check``."""

    async def check(self, names: Sequence[str]) -> Sequence[CheckResult]:
        """
        Look whether the destination can be reached, lets us in and has what it takes, without sending, receiving or
        changing anything. The sink is neither opened before nor closed after, so this opens and closes what it needs;
        it may take some seconds, after which it is cancelled.

        Args:
            names: All that the sink's template names given the configured sources; none where it has no template.

        Returns:
            One or more, their subjects being ``sinks.<name>`` or a key in it.
        """
        ...
