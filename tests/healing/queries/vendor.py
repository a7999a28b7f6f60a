"""A vendor whose replies a test writes, and comparisons with the callbacks that it would have sent."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from media_callbacks.aliyun.calls import ApiRequest
from media_callbacks.healing.queries.base import JobAnswer, QuerySource
from media_callbacks.healing.queries.catalogue import QUERIES
from media_callbacks.model.errors import VendorError, VendorRefused
from media_callbacks.model.identity import event_id
from media_callbacks.model.jobs import JobReference
from media_callbacks.rehearsal.payloads import PAYLOADS
from media_callbacks.sources.base import Completion, Message, Parsed
from media_callbacks.sources.intake import build_event
from media_callbacks.sources.products import ims, mts, vod

NOW = datetime(2026, 11, 5, 9, 12, 58, tzinfo=UTC)
TIME = "2026-11-05T09:12:58Z"
CALLBACK_PARSERS = {"vod": vod.parse, "ims": ims.parse, "mts": mts.parse}

Reply = Mapping[str, Any] | Exception | Callable[[ApiRequest], Mapping[str, Any]]


class Vendor:
    """
    Attributes:
        replies: By action: a reply, a function of the query, or what is raised. To any other action there is no right.
        queries: What was asked, in its order.
    """

    def __init__(self, **replies: Reply) -> None:
        self.replies = replies
        self.queries: list[ApiRequest] = []

    async def __call__(self, query: ApiRequest) -> Mapping[str, Any]:
        self.queries.append(query)
        reply = self.replies.get(query.action, refused("Forbidden.RAM", 403))
        if isinstance(reply, Exception):
            raise reply
        return reply(query) if callable(reply) else reply

    @property
    def actions(self) -> list[str]:
        return [query.action for query in self.queries]


def refused(code: str, status: int = 404) -> VendorRefused:
    return VendorRefused("refused", code=code, status=status)


def job(product: str, family: str, job_id: str | None = "j-1", **more: Any) -> JobReference:
    return JobReference(product=product, account="default", family=family, job_id=job_id, **more)  # type: ignore[arg-type]


async def ask(vendor: Vendor, *references: JobReference) -> list[Any]:
    """An answer for each reference, or an error in its place."""
    answers = list(await QUERIES[references[0].product].ask(references, vendor))
    assert len(answers) == len(references)
    return answers


async def ask_one(vendor: Vendor, reference: JobReference) -> JobAnswer:
    """
    Raises:
        VendorError: In place of the answer.
    """
    [answer] = await ask(vendor, reference)
    if isinstance(answer, VendorError):
        raise answer
    assert isinstance(answer, JobAnswer)
    return answer


def read(product: str, answer: JobAnswer) -> Parsed:
    """What an answer means, read as the inbox does: from body and meta alone."""
    assert answer.state == "ended", answer
    message = Message(answer.body, answer.body, "query", meta=dict(answer.meta))
    return QUERIES[product].parse(message)  # type: ignore[index]


async def completion(vendor: Vendor, reference: JobReference) -> Completion:
    """The only completion, or the last one: what holds several comes after its parts."""
    return read(reference.product, await ask_one(vendor, reference)).completions[-1]


async def output(vendor: Vendor, reference: JobReference) -> Any:
    """The only output of the only event."""
    answer = await ask_one(vendor, reference)
    product = reference.product
    source = QuerySource(name="s", product=product, account=reference.account, parser=QUERIES[product].parse)
    message = Message(answer.body, answer.body, "query", meta=dict(answer.meta))
    [one] = source.parse(message).completions
    [found] = build_event(one, source=source, message=message, received_at=NOW).data.outputs
    return found


def callback(product: str, event: str, job_id: str, *, failed: bool = False) -> Parsed:
    payload = json.dumps(PAYLOADS[product][event](job_id, NOW, failed)).encode()
    return CALLBACK_PARSERS[product](Message(payload, payload, "signature"))


def identities(product: str, parsed: Parsed) -> set[tuple[Any, ...]]:
    """All that decides whether two completions are one event, and how it is called."""
    return {
        (
            event_id(one.key(product, "default").digest(), one.outcome),  # type: ignore[arg-type]
            one.kind,
            one.vendor_event,
            one.job_id,
            one.error is None,
        )
        for one in parsed.completions
    }
