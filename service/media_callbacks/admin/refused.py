"""What was refused, and why."""

from dataclasses import asdict

from media_callbacks.admin.models import RefusedDetail, RefusedPage, RefusedQuery
from media_callbacks.admin.operations import Refused, operation
from media_callbacks.inbox.roles import AdminStore


class RefusedLog:
    def __init__(self, inbox: AdminStore) -> None:
        self._inbox = inbox

    @operation(
        "GET",
        "/v1/refused",
        "Requests that were refused, newest first",
        description="The last ones of each source, reason and cause, for a week at most; the metrics count them all.",
    )
    async def list_refused(self, query: RefusedQuery) -> RefusedPage:
        found = await self._inbox.list_refused(
            source=query.source,
            reason=query.reason,
            cause=query.cause,
            text=query.text,
            since=query.since,
            before_id=query.before,
            limit=query.limit,
        )
        cursor = query.cursor_after([record.id for record in found])
        return RefusedPage.model_validate({"refused": found, "cursor": cursor})

    @operation("GET", "/v1/refused/{refused_id}", "Why a request was refused")
    async def show_refused(self, refused_id: str) -> RefusedDetail:
        is_number = refused_id.isascii() and refused_id.isdigit() and len(refused_id) < 20
        found = await self._inbox.find_refused(int(refused_id)) if is_number else None
        if found is None:
            raise Refused(404, "no refused request has this number; only the last ones are kept, for a week at most")
        return RefusedDetail.model_validate(asdict(found.record) | dict(found.document))
