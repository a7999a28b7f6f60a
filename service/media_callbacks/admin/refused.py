"""What was refused, and why."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from media_callbacks.admin.models.answers import RefusedDetail, RefusedPage
from media_callbacks.admin.models.questions import RefusedQuery
from media_callbacks.admin.operations import Refused, operation
from media_callbacks.config.sources import SourceSettings
from media_callbacks.healing.queries.base import Family
from media_callbacks.inbox.roles import AdminStore
from media_callbacks.model.kinds import Product, Transport

_SENT_AGAIN: Mapping[Transport, str] = {
    "http": "The vendor sends it twice more within seconds, and then never.",
    "mns-push": "The topic sends it again for a minute or for a day, as its subscription says, and then never.",
    "token-url": "Whether the vendor sends it again is in no document.",
}


class RefusedLog:
    """
    Args:
        families: The jobs that can be expected, by product.
    """

    def __init__(
        self,
        inbox: AdminStore,
        sources: Mapping[str, SourceSettings],
        families: Mapping[Product, Mapping[str, Family]],
    ) -> None:
        self._inbox = inbox
        self._sources = sources
        self._families = families

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
        table = self._sources.get(found.record.source)
        families = {} if table is None else self._families.get(table.product, {})
        afterwards = tell_afterwards(table, families, found.record.job_id, found.document.get("explanation"))
        return RefusedDetail.model_validate(asdict(found.record) | dict(found.document) | {"afterwards": afterwards})


def tell_afterwards(
    table: SourceSettings | None,
    families: Mapping[str, Family],
    job_id: str | None,
    explanation: Mapping[str, Any] | None,
) -> tuple[str, ...]:
    """What becomes of the job, as far as can be said of a request that nobody has proved."""
    told = ["Who has sent it is not known." if table is None else _SENT_AGAIN.get(table.transport, "")]
    told.append("What is kept of it can't be taken later, for what proves it is left out.")
    # What a stranger has written is no option of a command.
    job = "" if job_id is None or job_id.startswith("-") else shlex.quote(job_id)
    show = f": media-callbacks jobs show {job}" if job else "."
    told.append(f"If it is genuine, mend the cause, and look whether its job has ended since{show}")
    events = explanation["events"] if explanation is not None else ()
    data = events[0]["data"] if events else {}
    family = next((family for family in families.values() if family.kind == data.get("kind")), None)
    if table is not None and job and family is not None:
        options = f" --account={shlex.quote(table.account)}" if table.account else ""
        if family.needs_media_id and data.get("media_id"):
            options += f" --media-id={shlex.quote(data['media_id'])}"
        order = f"media-callbacks jobs expect {table.product} {family.kind} {job}{options}"
        told.append(f"If not, have the vendor asked: {order}")
    return tuple(filter(None, told))
