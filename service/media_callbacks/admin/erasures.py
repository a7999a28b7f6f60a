"""Erasures: removing what is kept of one subject."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict

import structlog

from media_callbacks.admin.models.answers import ErasedPart, ErasurePage, ErasureRecordItem
from media_callbacks.admin.models.orders import ErasureOrder
from media_callbacks.admin.models.questions import PageParameters
from media_callbacks.admin.operations import Refused, operation
from media_callbacks.inbox.records import ErasureCounts
from media_callbacks.inbox.roles import AdminStore

# Of a request; a step takes milliseconds, or where much is gone through some hundreds of them.
ERASURE_TIME_S = 5.0

log = structlog.get_logger()


class Erasures:
    """``journaled`` is how many receipts are in this instance's journal."""

    def __init__(self, inbox: AdminStore, journaled: Callable[[], int]) -> None:
        self._inbox = inbox
        self._journaled = journaled

    @operation(
        "POST",
        "/v1/erasures",
        "Erase what is kept of one subject",
        description="Bodies of receipts, events and held events, words of receivers, and user data. What is known stays"
        " known: the same callback again is a duplicate, and is kept without its body. All of the store is gone"
        " through: as long as the answer has a `cursor`, send the same order with it. Count first, with `dry_run`.",
        refusals={
            422: "It is not said whose, or by more than one member; the cursor is of no such erasure under way; or a"
            " member is not known or wrong."
        },
    )
    async def erase(self, body: ErasureOrder) -> ErasedPart:
        """As many parts as fit into the time that a client waits in any case."""
        request = body.to_request()
        erasure_id, position = None, None
        if body.cursor is not None:
            number, _, position = body.cursor.partition("-")
            erasure_id = int(number)
        counts = ErasureCounts()
        loop = asyncio.get_running_loop()
        end = loop.time() + ERASURE_TIME_S
        while True:
            try:
                step = await self._inbox.erase(request, erasure_id=erasure_id, position=position, dry_run=body.dry_run)
            except ValueError as error:
                raise Refused(422, f"cursor: {error}") from None
            counts, erasure_id, position = counts + step.counts, step.id, step.position
            if position is None or loop.time() >= end:
                break
        if not body.dry_run:
            log.info(
                "erased",
                erasure_id=erasure_id,
                matched=request.matched,
                requested_by=request.requested_by,
                **asdict(counts),
            )
        return ErasedPart(
            **asdict(counts),
            id=erasure_id,
            cursor=None if position is None else f"{erasure_id or 0}-{position}",
            journaled=self._journaled(),
        )

    @operation("GET", "/v1/erasures", "What was erased, newest first")
    async def list_erasures(self, query: PageParameters) -> ErasurePage:
        found = await self._inbox.list_erasures(before_id=query.before, limit=query.limit)
        return ErasurePage(
            erasures=tuple(map(ErasureRecordItem.of, found)), cursor=query.cursor_after([record.id for record in found])
        )
