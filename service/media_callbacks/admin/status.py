"""Whether it is well, and what came in and went out of late."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from media_callbacks.admin.models.answers import (
    Activity,
    ActivityItem,
    SinkItem,
    SourceItem,
    Status,
    TimesItem,
    TroubleItem,
)
from media_callbacks.admin.models.values import MAX_LIMIT
from media_callbacks.admin.operations import operation
from media_callbacks.admin.sinks import Sinks
from media_callbacks.admin.sources import Sources
from media_callbacks.inbox.records import JobFilter, ReceiptRecord, StoreSpace, TroubleRecord, WaitingCounts
from media_callbacks.inbox.roles import AdminStore
from media_callbacks.model.errors import ConfigError, Unavailable
from media_callbacks.model.kinds import Trouble
from media_callbacks.model.operational import RULES, Rule
from media_callbacks.model.times import format_time

# As the alerts of deploy/prometheus have it.
OLD_S = 900.0
HELD_LONG = timedelta(minutes=30)
MANY_OVERDUE = 100
LOW_FREE_BYTES = 1 << 30
# What the store says as it is now, whoever asks. An operational event's end comes later.
_SEEN_HERE = ("sink_disabled", "deliveries_dead", "jobs_overdue", "jobs_unknown", "source_silent", "disk_low")
_DAY, _HOUR, _MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


class StatusDesk:
    """
    Args:
        journaled: How many receipts are in this instance's journal.
        refusing_queues: What queues say that let this instance fetch nothing, by the names of their sources.
    """

    def __init__(
        self,
        inbox: AdminStore,
        sinks: Sinks,
        sources: Sources,
        journaled: Callable[[], int],
        refusing_queues: Callable[[], Mapping[str, str]],
    ) -> None:
        self._inbox = inbox
        self._sinks = sinks
        self._sources = sources
        self._journaled = journaled
        self._refusing_queues = refusing_queues

    @operation(
        "GET",
        "/v1/status",
        "Whether it is well",
        description="What is wrong, since when, why, and what to do; and what waits.",
    )
    async def show_status(self) -> Status:
        now = await self._inbox.now()
        waiting = await self._inbox.count_waiting()
        unknown = await self._inbox.list_jobs(JobFilter(state="unknown", since=now - _DAY), limit=MAX_LIMIT)
        unparsed = await self._inbox.list_receipts(state="unparsed", since=now - _DAY, limit=MAX_LIMIT)
        space = await self._inbox.measure()
        counts = {
            state: sum(count for (_, of), count in waiting.jobs.items() if of == state)
            for state in ("expected", "overdue")
        }
        troubles = [*await self._of_store(), *_of_space(space), *_of_journal(self._journaled())]
        sinks, sources = (await self._sinks.list_sinks()).sinks, (await self._sources.list_sources()).sources
        for sink in sinks:
            troubles += judge_sink(sink)
        for source in sources:
            troubles += judge_source(source)
        troubles += _of_queues(self._refusing_queues())
        troubles += judge_unparsed(unparsed)
        troubles += judge_jobs(waiting, len(unknown), now)
        troubles = list(add_noted(troubles, await self._inbox.list_troubles()))
        troubles.sort(key=lambda trouble: not trouble.is_wrong)
        return Status(
            at=now,
            is_well=not any(trouble.is_wrong for trouble in troubles),
            text=_sentence(troubles),
            troubles=tuple(troubles),
            unknown=len(unknown),
            held=sum(waiting.held.values()),
            journaled=self._journaled(),
            size_bytes=space.size_bytes,
            free_bytes=space.free_bytes,
            sinks=sinks,
            sources=sources,
            **counts,
        )

    @operation(
        "GET",
        "/v1/activity",
        "What came in and went out within the last day",
        description="Received, refused and delivered, by minute; and how long it took until a job's event came, and"
        " until an event was delivered.",
    )
    async def show_activity(self) -> Activity:
        now = await self._inbox.now()
        until = now.replace(second=0, microsecond=0) + _MINUTE
        hours = [until - (24 - i) * _HOUR for i in range(25)]
        minutes = [until - (12 - i) * 5 * _MINUTE for i in range(13)]
        counts = await self._inbox.list_activity(since=hours[0])
        return Activity(
            since=hours[0],
            until=until,
            counts=tuple(map(ActivityItem.model_validate, counts)),
            hour=tuple(map(TimesItem.model_validate, await self._inbox.sample_times(minutes))),
            day=tuple(map(TimesItem.model_validate, await self._inbox.sample_times(hours))),
        )

    async def _of_store(self) -> Iterator[TroubleItem]:
        try:
            await self._inbox.check()
        except ConfigError as error:
            # The server may have come back with another database, or an older state of it.
            text = error.problems[0].removeprefix("store.url: ")
            return iter([_wrong("store", None, f"can't be used: {text}", None, "see media-callbacks check")])
        except Unavailable as error:
            return iter([_wrong("store", None, f"can't be written: {error}", None, "see whether its disk is full")])
        return iter(())


def judge_sink(sink: SinkItem) -> Iterator[TroubleItem]:
    waiting, dead, retrying = sink.backlog, sink.deliveries.get("dead", 0), sink.deliveries.get("retrying", 0)
    said = f"; it said: {sink.last_error}" if sink.last_error else ""
    upcoming = f"; next attempt {format_time(sink.next_attempt_at)}" if sink.next_attempt_at else ""
    retry = f"mend its destination, then: media-callbacks sinks retry {sink.name}"
    if not sink.is_configured:
        yield _look("sink", sink.name, f"not configured any more, and {waiting + dead} events are left", None, "")
    if sink.state == "disabled":
        text = f"disabled itself: {sink.reason or sink.last_error or 'gone'}; {_waits(waiting)}"
        todo = f"mend its destination, then: media-callbacks sinks resume {sink.name}"
        yield _wrong("sink", sink.name, text, sink.changed_at, todo, trouble="sink_disabled")
    elif sink.state == "paused":
        by = f" by {sink.changed_by}" if sink.changed_by else ""
        text = f"paused{by}{f': {sink.reason}' if sink.reason else ''}; {_waits(waiting)}"
        todo = f"when its destination may have them: media-callbacks sinks resume {sink.name}"
        yield _look("sink", sink.name, text, sink.changed_at, todo)
    elif sink.breaker in ("open", "half_open"):
        text = f"left alone, because it does not take events{said}; {_waits(waiting)}"
        yield _wrong("sink", sink.name, text, sink.oldest_pending_at, retry, trouble="sink_failing")
    elif (sink.oldest_pending_age_s or 0) > OLD_S:
        text = f"{_waits(waiting)}{said}{upcoming}"
        yield _wrong("sink", sink.name, text, sink.oldest_pending_at, retry if retrying else "see what it answered")
    elif retrying:
        text = f"{retrying} {'event was' if retrying == 1 else 'events were'} not taken yet{said}{upcoming}"
        yield _look("sink", sink.name, text, sink.oldest_pending_at, f"tried again by itself; sooner: {retry}")
    if dead:
        text = f"{dead} {'event was' if dead == 1 else 'events were'} given up{said}"
        if sink.first_given_up_at != sink.last_given_up_at and sink.last_given_up_at is not None:
            text += f"; the last {format_time(sink.last_given_up_at)}"
        todo = f"media-callbacks events replay --state dead --sink {sink.name} --dry-run"
        if _takes_again(sink):
            text += "; it takes events again"
        else:
            todo = f"mend its destination, then: {todo}"
        yield _wrong("sink", sink.name, text, sink.first_given_up_at, todo, trouble="deliveries_dead")


def _takes_again(sink: SinkItem) -> bool:
    taken, given_up = sink.last_taken_at, sink.last_given_up_at
    is_taking = sink.breaker == "closed" and not sink.deliveries.get("retrying")
    return is_taking and taken is not None and given_up is not None and taken > given_up


def judge_source(source: SourceItem) -> Iterator[TroubleItem]:
    head, _, todo = source.text.partition("; ")
    if source.state == "refusing":
        yield _wrong("source", source.name, head, source.received_at or source.configured_at, todo)
    elif source.state == "silent":
        yield _wrong("source", source.name, head, source.received_at, todo, trouble="source_silent")
    elif source.state in ("quiet", "quiet_since_change"):
        yield _look("source", source.name, head, source.received_at or source.configured_at, todo)


def judge_unparsed(receipts: Sequence[ReceiptRecord]) -> Iterator[TroubleItem]:
    """Args: receipts: Those of the last day, newest first."""
    if receipts:
        count = "1 callback" if len(receipts) == 1 else f"{_at_least(len(receipts))} callbacks"
        text = f"{count} of the last day could not be read; kept, and no event was made of them"
        todo = "see why: media-callbacks receipts list --state unparsed"
        yield _look("receipts", None, text, receipts[-1].received_at, todo)


def judge_jobs(waiting: WaitingCounts, unknown: int, now: datetime) -> Iterator[TroubleItem]:
    overdue = sum(count for (_, state), count in waiting.jobs.items() if state == "overdue")
    if overdue:
        make = _wrong if overdue > MANY_OVERDUE else _look
        text = f"{overdue} jobs are past their deadline, and the vendor is being asked"
        todo = "see whether callbacks come at all, and whether the vendor can be asked: media-callbacks check"
        since = min(waiting.first_deadlines.values(), default=None)
        yield make("jobs", None, text, since, todo, trouble="jobs_overdue")
    if unknown:
        text = (
            f"{_at_least(unknown)} jobs of the last day were given up: no callback came, and the vendor knows nothing"
        )
        todo = "see whether they were submitted, and under which id"
        yield _look("jobs", None, text, None, todo, trouble="jobs_unknown")
    held, oldest = sum(waiting.held.values()), waiting.oldest_held_at
    if held and oldest is not None and now - oldest > HELD_LONG:
        text = f"{_waits(held)} for the vendor's word"
        yield _wrong("held", None, text, oldest, "see whether the vendor can be asked: media-callbacks check")


def _of_space(space: StoreSpace) -> Iterator[TroubleItem]:
    free = space.free_bytes
    if free is not None and (free < LOW_FREE_BYTES or free < space.size_bytes / 10):
        text = f"{_size(free)} are left on its disk"
        yield _wrong("store", None, text, None, "make room, or lower store.retention_days", trouble="disk_low")
    if space.crowded:
        tables = ", ".join(space.crowded)
        text = f"no partitions are made for {tables}, of which too much is in none; what is old goes by row"
        yield _look("store", None, text, None, "see Partitions in docs/operate/postgresql.md")


def _of_queues(refusing: Mapping[str, str]) -> Iterator[TroubleItem]:
    for source, said in refusing.items():
        yield _wrong("source", source, f"nothing can be fetched: {said}", None, "see what to do: media-callbacks check")


def _of_journal(receipts: int) -> Iterator[TroubleItem]:
    if receipts:
        text = f"{receipts} receipts wait in this instance's journal"
        todo = "they are stored by themselves once the store takes them; see its log"
        yield _wrong("store", None, text, None, todo, trouble="journal_filling")


def add_noted(troubles: Sequence[TroubleItem], records: Sequence[TroubleRecord]) -> Iterator[TroubleItem]:
    """What is seen here, with what instances have noted: since when, and what only they see or is over."""
    noted = [record for record in records if record.told_at is not None]
    for one in troubles:
        since = [
            record.since for record in noted if record.trouble == one.trouble and one.name in (None, record.subject)
        ]
        yield one if one.since or not since else one.model_copy(update={"since": min(since)})
    seen = {(one.trouble, one.name) for one in troubles}
    for record in noted:
        if record.trouble not in _SEEN_HERE and not seen & {(record.trouble, None), (record.trouble, record.subject)}:
            yield _of_record(record, RULES[record.trouble])


def _of_record(record: TroubleRecord, rule: Rule) -> TroubleItem:
    detail = [record.detail] if record.detail else []
    counted = [f"{record.count} so far"] if record.count else []
    make = _look if record.count else _wrong
    return make(
        rule.subject.split()[0],
        record.subject,
        f"{rule.text.rstrip('.')}{''.join(f'; {more}' for more in (*detail, *counted))}",
        record.since,
        f"see {rule.runbook} in docs/runbook.md" if rule.runbook else "see which sinks match",
        trouble=record.trouble,
    )


def _at_least(count: int) -> str:
    """No more than so many were asked for."""
    return f"{count} or more" if count >= MAX_LIMIT else str(count)


def _waits(events: int) -> str:
    return "1 event waits" if events == 1 else f"{events} events wait"


def _size(number_of_bytes: int) -> str:
    return f"{number_of_bytes / 1e9:.1f} GB" if number_of_bytes >= 10**8 else f"{number_of_bytes / 1e6:.1f} MB"


def _sentence(troubles: Sequence[TroubleItem]) -> str:
    wrong = _named([one for one in troubles if one.is_wrong])
    look = _named([one for one in troubles if not one.is_wrong])
    if wrong:
        return f"Wrong: {wrong}.{f' Look at: {look}.' if look else ''}"
    return f"Nothing is wrong; look at: {look}." if look else "All is well."


def _named(troubles: Sequence[TroubleItem]) -> str:
    named = list(dict.fromkeys(f"{one.what} {one.name}" if one.name else one.what for one in troubles))
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return f"{', '.join(named[:3])}{more}"


def _wrong(
    what: str, name: str | None, text: str, since: datetime | None, todo: str, *, trouble: Trouble | None = None
) -> TroubleItem:
    return TroubleItem(is_wrong=True, trouble=trouble, what=what, name=name, text=text, since=since, todo=todo)


def _look(
    what: str, name: str | None, text: str, since: datetime | None, todo: str, *, trouble: Trouble | None = None
) -> TroubleItem:
    return TroubleItem(is_wrong=False, trouble=trouble, what=what, name=name, text=text, since=since, todo=todo)
