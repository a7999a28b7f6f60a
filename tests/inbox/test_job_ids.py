"""A job id finds every event that names it: what identifies an event begins with its job id, or is bound to it."""

import json
from collections.abc import Iterable
from pathlib import Path

from media_callbacks.inbox.records import EventFilter
from media_callbacks.model.events import Event
from media_callbacks.rehearsal.payloads import PAYLOADS
from media_callbacks.sources.base import Message
from media_callbacks.sources.intake import build_receipt
from tests.inbox.conformance import NOW
from tests.inbox.timed import TimedSqliteInbox
from tests.sources.test_mutations import SAMPLES, SOURCES


def messages() -> Iterable[tuple[str, Message]]:
    """All samples, and one of each message that we know of, each with the URL that it came to."""
    bodies = [(path.parent.name, path.read_bytes()) for path in sorted(SAMPLES.glob("*/*.json"))]
    for product, events in PAYLOADS.items():
        for event, build in events.items():
            bodies += [(product, json.dumps(build(f"job-{event}", NOW, failed)).encode()) for failed in (False, True)]
    for n, (product, body) in enumerate(bodies):
        yield product, Message(body, body, "signature", meta={"nonce": f"{n:024x}"})


async def test_every_event_is_found_by_its_job_id(tmp_path: Path) -> None:
    inbox = TimedSqliteInbox(tmp_path / "inbox.db")
    await inbox.open()
    accepted: list[Event] = []
    for product, message in messages():
        receipt = build_receipt(SOURCES[product], message, received_at=NOW, route=lambda _: ())
        accepted += (await inbox.put(receipt)).accepted
    named = [event for event in accepted if event.data.job_id is not None]
    assert {event.data.product for event in named} == set(PAYLOADS)
    missed = set()
    for event in named:
        found = await inbox.list_events(EventFilter(job_id=event.data.job_id), limit=100)
        assert {summary.job_id for summary in found} <= {event.data.job_id}
        if event.id not in {summary.id for summary in found}:
            missed.add(f"{event.data.product} {event.data.vendor_event}")
    await inbox.close()
    assert missed == set()
