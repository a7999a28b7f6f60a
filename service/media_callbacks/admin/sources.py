"""Sources: whether anything comes through them."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from media_callbacks.admin.models.answers import SourceItem, SourceList, SourceState
from media_callbacks.admin.operations import operation
from media_callbacks.config.sources import SourceSettings
from media_callbacks.inbox.records import SourceActivity
from media_callbacks.inbox.roles import AdminStore

# What is refused at times is the internet's noise.
MANY_REFUSED = 3
HOUR, QUIET = timedelta(hours=1), timedelta(days=1)
SETTLING = HOUR


class Sources:
    def __init__(self, inbox: AdminStore, sources: Mapping[str, SourceSettings]) -> None:
        self._inbox = inbox
        self._sources = sources

    @operation(
        "GET",
        "/v1/sources",
        "Sources, with when something came through them",
        description="A source that is quiet since its configuration changed, or that refuses everything, says so.",
    )
    async def list_sources(self) -> SourceList:
        now = await self._inbox.now()
        found = {activity.source: activity for activity in await self._inbox.list_source_activity()}
        return SourceList(
            sources=tuple(
                self._item(name, table, found.get(name) or SourceActivity(name, now, None, None, 0), now)
                for name, table in self._sources.items()
            )
        )

    @staticmethod
    def _item(name: str, table: SourceSettings, activity: SourceActivity, now: datetime) -> SourceItem:
        state, text = judge(activity, now)
        return SourceItem(
            name=name,
            product=table.product,
            transport=table.transport,
            state=state,
            text=text,
            configured_at=activity.configured_at,
            received_at=activity.received_at,
            refused_at=activity.refused_at,
            refused_since=activity.refused_since,
        )


def judge(activity: SourceActivity, now: datetime) -> tuple[SourceState, str]:
    """How a source is, and what to do."""
    received, configured = activity.received_at, activity.configured_at
    came_since = received is not None and received >= configured
    if activity.refused_since >= MANY_REFUSED:
        count = activity.refused_since
        since = "its configuration changed" if not came_since else "something was received"
        return "refusing", (
            f"all {count} requests since {since} were refused; ask why: media-callbacks explain --last-refused"
            f" --source {activity.source}"
        )
    if silent_since := activity.silent_since(now):
        return "silent", (
            f"nothing has come for {(now - silent_since) / HOUR:.1f} hours, and it was half as long at most of late;"
            " look whether jobs were submitted, and what the vendor has registered"
        )
    if received is not None and (came_since or now - configured < SETTLING) and now - received < QUIET:
        return "receiving", "something genuine came within the last day"
    if not came_since and now - configured >= SETTLING:
        return "quiet_since_change", (
            "nothing has come since its configuration changed or was first used; look whether the vendor has this url"
            " or queue, and send one to try: media-callbacks simulate"
        )
    if not came_since:
        return "new", "configured within the last hour; nothing came yet"
    return "quiet", "nothing has come for a day; look whether jobs were submitted, and what the vendor has registered"
