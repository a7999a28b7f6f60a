"""Receipts: what came through the sources, whether it gave an event or not."""

from media_callbacks.admin.models import ReceiptPage, ReceiptQuery
from media_callbacks.admin.operations import operation
from media_callbacks.inbox.roles import AdminStore


class Receipts:
    def __init__(self, inbox: AdminStore) -> None:
        self._inbox = inbox

    @operation("GET", "/v1/receipts", "Receipts, newest first", description="Those that gave no event, too.")
    async def list_receipts(self, query: ReceiptQuery) -> ReceiptPage:
        found = await self._inbox.list_receipts(
            state=query.state, source=query.source, since=query.since, before_id=query.before, limit=query.limit
        )
        cursor = query.cursor_after([receipt.id for receipt in found])
        return ReceiptPage.model_validate({"receipts": found, "cursor": cursor})
