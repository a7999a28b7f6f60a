"""Receipts: what came through the sources, whether it gave an event or not."""

import re
from base64 import b64encode

from media_callbacks.admin.models.answers import ReceiptDetail, ReceiptItem, ReceiptPage
from media_callbacks.admin.models.questions import ReceiptQuery
from media_callbacks.admin.operations import Refused, operation
from media_callbacks.inbox.roles import AdminStore


class Receipts:
    def __init__(self, inbox: AdminStore) -> None:
        self._inbox = inbox

    @operation("GET", "/v1/receipts", "Receipts, newest first", description="Those that gave no event, too.")
    async def list_receipts(self, query: ReceiptQuery) -> ReceiptPage:
        found = await self._inbox.list_receipts(
            state=query.state,
            source=query.source,
            job_id=query.job_id,
            since=query.since,
            before_id=query.before,
            limit=query.limit,
        )
        cursor = query.cursor_after([receipt.id for receipt in found])
        return ReceiptPage.model_validate({"receipts": found, "cursor": cursor})

    @operation("GET", "/v1/receipts/{receipt_id}", "A receipt, with what is kept of it")
    async def show_receipt(self, receipt_id: str) -> ReceiptDetail:
        found = await self._inbox.find_receipt(int(receipt_id)) if re.fullmatch("[0-9]{1,18}", receipt_id) else None
        if found is None:
            raise Refused(404, "no receipt has this id")
        body = found.body
        return ReceiptDetail.model_validate(
            ReceiptItem.model_validate(found.record).model_dump()
            | {
                "body": None if body is None else body.decode("utf-8", "replace"),
                "body_base64": None if body is None else b64encode(body).decode(),
                "meta": found.meta,
                "parser_version": found.parser_version,
            }
        )
