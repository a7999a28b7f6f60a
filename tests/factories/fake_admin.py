"""An admin API whose answers a test decides, in the shapes of ``admin.models``."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from media_callbacks.__main__ import main
from media_callbacks.admin.models import answers
from media_callbacks.model.identity import event_id

Json = dict[str, Any]


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    document: Any
    authorization: str | None


@dataclass
class FakeAdmin:
    """``answers`` has documents, responses, or functions of what was asked, by ``METHOD /path``; else it is 404."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        asked = Asked(
            request.method,
            request.path,
            dict(request.query),
            json.loads(body) if body else None,
            request.headers.get("Authorization"),
        )
        self.asked.append(asked)
        answer = self.answers.get(f"{request.method} {request.path}")
        if callable(answer):
            answer = answer(asked)
        if answer is None:
            answer = problem(404, "no event has this id")
        if isinstance(answer, web.Response):
            return answer
        is_order = request.method == "POST" and request.path != "/v1/jobs"
        return web.json_response(answer, status=202 if is_order else 200)

    def asked_for(self, route: str) -> list[Asked]:
        return [asked for asked in self.asked if f"{asked.method} {asked.path}" == route]

    async def run(self, *arguments: str) -> int:
        """The exit code of a command that asks this API."""
        return await run_command(*arguments, "--url", self.url)


async def run_command(*arguments: str) -> int:
    def run() -> int:
        try:
            return main(arguments)
        except SystemExit as error:
            return int(error.code or 0)

    return await asyncio.to_thread(run)


@asynccontextmanager
async def fake_admin() -> AsyncIterator[FakeAdmin]:
    fake = FakeAdmin()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield fake
    finally:
        await runner.cleanup()


def problem(status: int, detail: str | None) -> web.Response:
    document = {"title": "Problem", "status": status, "detail": detail}
    return web.json_response(document, status=status, content_type="application/problem+json")


def make_id(number: int) -> str:
    return event_id(number.to_bytes(16, "big"), "succeeded")


def _document(model: type[answers.ApiModel], fields: Json) -> Json:
    document: Json = model.model_validate(fields).model_dump(mode="json")
    return document


def event_item(number: int, **changes: Any) -> Json:
    fields = {
        "id": make_id(number),
        "accepted_at": f"2026-11-20T09:00:{number % 60:02}Z",
        "product": "vod",
        "kind": "animated_image",
        "outcome": "succeeded",
        "revision": 1,
        "job_id": f"job-{number}",
        "media_id": f"media-{number}",
        "deliveries": {"orders": "delivered"},
    }
    return _document(answers.EventItem, fields | changes)


def event_detail(number: int, **changes: Any) -> Json:
    fields = {
        "id": make_id(number),
        "accepted_at": "2026-11-20T09:00:00.500Z",
        "is_routed": True,
        "event": {
            "specversion": "1.0",
            "id": make_id(number),
            "type": "media.animated_image.succeeded",
            "data": {"job_id": f"job-{number}", "media_id": f"media-{number}", "revision": 1, "error": None},
        },
        "receipts": [receipt_item(1)],
        "deliveries": [],
    }
    return _document(answers.EventDetail, fields | changes)


def receipt_item(number: int, **changes: Any) -> Json:
    fields = {
        "id": number,
        "received_at": "2026-11-20T09:00:00.480Z",
        "source": "vod",
        "product": "vod",
        "transport": "http",
        "verified_by": "signature",
        "state": "accepted",
        "reason": None,
        "warnings": [],
        "event_ids": [make_id(1)],
    }
    return _document(answers.ReceiptItem, fields | changes)


def refused_item(number: int, **changes: Any) -> Json:
    fields = {
        "id": number,
        "refused_at": "2026-11-20T10:00:00Z",
        "source": "vod",
        "status": 403,
        "reason": "signature_mismatch",
        "cause": "",
        "detail": "no configured key and url gives this signature",
        "job_id": "job-1",
    }
    return _document(answers.RefusedItem, fields | changes)


def delivery_item(**changes: Any) -> Json:
    fields = {
        "sink": "orders",
        "replay": 0,
        "state": "delivered",
        "attempts": 1,
        "due_at": None,
        "changed_at": "2026-11-20T09:00:01Z",
        "error": None,
        "history": [attempt_item()],
    }
    return _document(answers.DeliveryItem, fields | changes)


def attempt_item(**changes: Any) -> Json:
    fields = {
        "number": 1,
        "started_at": "2026-11-20T09:00:00.750Z",
        "duration_s": 0.021,
        "result": "delivered",
        "error": None,
    }
    return _document(answers.AttemptItem, fields | changes)


def replay_item(number: int, **changes: Any) -> Json:
    nothing = dict.fromkeys(answers.FilterItem.model_fields)
    fields = {
        "id": number,
        "state": "finished",
        "total": 3,
        "done": 3,
        "created_at": "2026-11-21T10:00:00Z",
        "changed_at": "2026-11-21T10:00:01Z",
        "sinks": [],
        "rate": 50.0,
        "requested_by": "kim@desk",
        "reason": None,
    }
    return _document(answers.ReplayItem, fields | changes | {"filter": nothing | changes.get("filter", {})})


def sink_item(name: str, **changes: Any) -> Json:
    fields = {
        "name": name,
        "kind": "webhook",
        "is_configured": True,
        "state": "active",
        "breaker": "closed",
        "reason": None,
        "changed_by": None,
        "changed_at": None,
        "deliveries": {},
        "backlog": 0,
        "oldest_pending_at": None,
        "oldest_pending_age_s": None,
    }
    return _document(answers.TriedSink if "brought_forward" in changes else answers.SinkItem, fields | changes)


def job_item(number: int, **changes: Any) -> Json:
    fields = {
        "id": number,
        "state": "expected",
        "product": "vod",
        "account": "default",
        "family": "transcode",
        "kind": "transcode",
        "job_id": f"job-{number}",
        "media_id": None,
        "nonce": None,
        "user_data": None,
        "registered_at": "2026-11-20T09:00:00Z",
        "deadline_at": "2026-11-20T10:00:00Z",
        "transport": None,
        "event_id": None,
        "outcome": None,
        "ended_at": None,
        "attempts": 0,
        "notification": None,
    }
    return _document(answers.JobItem, fields | changes)


def make_report(**changes: Any) -> Json:
    nothing = dict.fromkeys(("submitted", "completed", "healed", "overdue", "unknown", "expected"), 0)
    waiting = nothing | {"submitted": 3, "overdue": 1, "expected": 2, "time_to_callback_s": None}
    times = {"time_to_callback_s": {"p50": 1.5, "p90": 4.0, "p99": 90.25}}
    hour = {"hour": "2026-11-21T03:00:00Z"}
    vod, mts = {"product": "vod"}, {"product": "mts"}
    fields = {
        "since": "2026-11-21T03:00:00Z",
        "until": "2026-11-21T05:00:00Z",
        "rows": [
            waiting | hour | vod | {"transport": None},
            nothing | {"submitted": 9, "completed": 9} | times | hour | mts | {"transport": "mns-push"},
        ],
        "totals": [
            waiting | vod | {"lost_on_the_way": None, "never_sent": None},
            nothing
            | {"submitted": 12, "completed": 9, "healed": 3}
            | times
            | mts
            | {"lost_on_the_way": 2, "never_sent": 1},
        ],
    }
    return _document(answers.Report, fields | changes)


def job_hit(number: int, **changes: Any) -> Json:
    fields = {
        "product": "vod",
        "id": f"job-{number}",
        "account": "default",
        "job_id": f"job-{number}",
        "media_id": "media-1",
        "user_data": None,
        "found_by": "job_id",
        "state": None,
        "outcome": "succeeded",
        "event_id": make_id(number),
        "at": f"2026-11-20T09:00:{number % 60:02}Z",
    }
    return _document(answers.JobHitItem, fields | changes)


def job_detail(number: int, **changes: Any) -> Json:
    entries = [
        ("2026-11-20T09:00:00Z", "registered", "registered as vod transcode", None),
        ("2026-11-20T10:00:00.500Z", "attempted", "delivered to orders (attempt 1)", 3600.5),
    ]
    fields = {
        "product": "vod",
        "id": f"job-{number}",
        "ended": True,
        "outcome": "succeeded",
        "jobs": [job_item(number, state="completed")],
        "receipts": [receipt_item(1), receipt_item(2, state="conflict", reason="another task")],
        "held": [],
        "answers": [],
        "events": [event_detail(number, deliveries=[delivery_item()])],
        "replays": [],
        "timeline": [{"at": at, "what": what, "text": text, "after_s": after_s} for at, what, text, after_s in entries],
        "is_whole": True,
    }
    return _document(answers.JobDetail, fields | changes)


def receipt_detail(number: int, **changes: Any) -> Json:
    kept = {"body": "{}", "body_base64": "e30=", "meta": {}, "parser_version": 1}
    return _document(answers.ReceiptDetail, receipt_item(number) | kept | changes)
