"""What of each message ``confirm`` proves, found out by asking the fake cloud."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from media_callbacks.aliyun.calls import ApiRequest
from media_callbacks.assembly.sources import build_source
from media_callbacks.healing.queries.catalogue import QUERIES, build_query_source
from media_callbacks.healing.queries.findings import Judgement, Patience, conclude
from media_callbacks.inbox.records import Inquiry
from media_callbacks.model.events import Event, EventData
from media_callbacks.model.kinds import PRODUCTS, Product
from media_callbacks.rehearsal.fake_cloud.app import ACTIONS
from media_callbacks.rehearsal.fake_cloud.callbacks import describe
from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud
from media_callbacks.rehearsal.fake_cloud.faults import Timing
from media_callbacks.rehearsal.fake_cloud.jobs import EVENTS, QUERYABLE, CloudJob, TrueOutcome
from media_callbacks.sources.base import Message
from media_callbacks.sources.intake import HoldRules, build_receipt
from tests.rehearsal.fake_cloud.clouds import GIF, IMS, MTS_QUEUE, VOD, make_settings

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
USER_DATA = "order 7"
TITLES: Mapping[Product, str] = {"vod": "VOD", "ims": "IMS", "mts": "MTS", "multimediaai": "CreateGifTask"}
YES, NO, NOTHING = "yes", "no", "–"


class Vendor:
    """The fake cloud's job APIs without a network. ``actions``: what was asked."""

    def __init__(self, **options: Any) -> None:
        settings = make_settings(vod=VOD, ims=IMS, mts=MTS_QUEUE, gif=GIF)
        timing = Timing(duration_s=(0.0, 0.0))
        self.cloud = FakeCloud(settings, clock=lambda: NOW, timing=timing, **options)
        self.actions: list[str] = []

    async def call(self, query: ApiRequest) -> Mapping[str, Any]:
        self.actions.append(query.action)
        answer = ACTIONS[query.version][query.action](self.cloud, query.parameters)
        # As over a network, without what is not known.
        found: Mapping[str, Any] = json.loads(json.dumps(answer), object_hook=_present)
        return found

    def held(self, job: CloudJob) -> tuple[Event, Inquiry]:
        """The event of the job's message, and the question about it."""
        name = next(name for name, table in self.cloud.settings.sources.items() if table.product == job.product)
        source = build_source(name, self.cloud.settings.sources[name])
        body = json.dumps(describe(job, job.outcome)).encode()
        meta = {} if job.nonce is None or job.bind is None else {"nonce": job.nonce, "bind": job.bind}
        receipt = build_receipt(
            source,
            Message(body, body, "signature", meta=meta),
            received_at=NOW,
            route=lambda _: (),
            holds=HoldRules(confirm="always", confirm_timeout_s=60.0),
        )
        entry = receipt.entries[-1]
        assert entry.hold is not None
        reference = entry.hold.reference
        inquiry = Inquiry(
            id=1,
            reason="confirm",
            # A message that names no job is asked about by the only one that it may mean.
            reference=replace(reference, job_id=reference.job_id or job.job_id)
            if entry.nameless is not None
            else reference,
            since=NOW,
            until=NOW + timedelta(seconds=60),
            attempt=1,
            lease="lease",
            event=entry.event,
        )
        return entry.event, inquiry

    async def judge(self, inquiry: Inquiry, **claims: Any) -> Judgement:
        """What becomes of it, with other claims in its data."""
        assert inquiry.event is not None
        event = inquiry.event.model_copy(update={"data": inquiry.event.data.model_copy(update=claims)})
        product = inquiry.reference.product
        family = QUERIES[product].find(inquiry.reference.family)
        assert family is not None
        # As the reconciler asks.
        reference = inquiry.reference if family.needs_media_id else replace(inquiry.reference, media_id=None)
        (answer,) = await QUERIES[product].ask([reference], self.call)
        return conclude(
            replace(inquiry, event=event),
            answer,
            family=family,
            source=build_query_source("asked", product, "default"),
            now=NOW,
            jitter=0.5,
            patience=Patience(retry_s=60.0, give_up_s=60.0),
            route=lambda _: ("sink",),
        )


def _present(value: dict[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if item is not None}


@dataclass
class Row:
    """What the vendor says of one kind of message."""

    product: Product
    family: str
    actions: tuple[str, ...]
    cells: dict[str, str]


COLUMNS = ("outcome", "media_id", "user_data", "outputs", "error")


def families() -> Iterator[tuple[Product, str]]:
    for product in PRODUCTS:
        for family in EVENTS[product]:
            if family in QUERYABLE[product] or family in QUERIES[product].asset_families:
                yield product, family


async def find_row(product: Product, family: str) -> Row:
    vendor = Vendor()
    cells = dict.fromkeys(COLUMNS, NOTHING)
    outcomes: tuple[TrueOutcome, ...] = ("succeeded", "failed")
    for outcome in outcomes:
        # A GIF task is told about by its URL alone, and no action tells of an image that VOD could not make.
        if (product, family, outcome) == ("vod", "animated_image", "failed"):
            continue
        job = vendor.cloud.submit(product, family, outcome=outcome, user_data=USER_DATA)
        event, inquiry = vendor.held(job)
        released = (await vendor.judge(inquiry)).finding.release
        assert released is not None, (product, family, outcome)
        told = await find_told(vendor, inquiry)
        cells["outcome"] = YES if released.data.outcome_verified_by == "query" else NO
        if outcome == "succeeded":
            cells["media_id"] = _whether(event.data.media_id, told.media_id)
            cells["user_data"] = _whether(event.data.user_data, told.user_data)
            cells["outputs"] = _outputs(released.data, told)
        else:
            cells["error"] = _whether(event.data.error, told.error if told.error and told.error.code else None)
    return Row(product, family, tuple(dict.fromkeys(vendor.actions)), cells)


async def find_told(vendor: Vendor, inquiry: Inquiry) -> EventData:
    """What the vendor says by itself: nothing is believed of a message that nobody has signed and that says nothing."""
    silent = {"media_id": None, "user_data": None, "outputs": (), "error": None, "verified_by": "none"}
    released = (await vendor.judge(inquiry, **silent)).finding.release
    assert released is not None
    return released.data


def _whether(claimed: object, told: object) -> str:
    return NOTHING if claimed is None and told is None else YES if told is not None else NO


def _outputs(data: EventData, told: EventData) -> str:
    if not data.outputs or not told.outputs:
        return NOTHING if not data.outputs else NO
    kept = {
        name
        for output, own in zip(data.outputs, told.outputs, strict=True)
        for name, value in dict(output).items()
        if value != getattr(own, name)
    }
    return f"yes, but for {', '.join(f'`{name}`' for name in sorted(kept))}" if kept else YES


def render() -> str:
    lines = []
    for product in PRODUCTS:
        lines += ["", f"### What `confirm` proves of {TITLES[product]}", ""]
        lines += ["| message | kind, outcome, job id | media id | user data | outputs | error | asked |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in (asyncio.run(find_row(*key)) for key in families() if key[0] == product):
            cells = [row.cells[name] for name in COLUMNS]
            asked = ", ".join(row.actions)
            lines.append(f"| `{EVENTS[product][row.family]}` | {' | '.join(cells)} | {asked} |")
    return "\n".join(lines).strip("\n")
