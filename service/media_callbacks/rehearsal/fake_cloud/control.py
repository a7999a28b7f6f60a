"""
The control surface of the fake cloud, for rehearsals and other processes; not a part of the vendor, and unprotected.

    GET  /_cloud/jobs      every job, how it really ends, and who was told
    POST /_cloud/jobs      begin one: {"product": ..., "family": ..., "outcome": ..., "media_id": ..., "user_data": ...}
    GET  /_cloud/faults    what goes wrong
    POST /_cloud/faults    change some of it: {"throttling": 1.0}
    GET  /_cloud/buses     what was put on each bus of EventBridge
"""

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from media_callbacks.model.kinds import Product
from media_callbacks.rehearsal.fake_cloud.jobs import EVENTS, CloudJob, format_time

if TYPE_CHECKING:
    from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud

_SUBMITTABLE = {
    "product", "family", "outcome", "media_id", "user_data", "callback_url", "video_name", "duration_s", "is_lost",
}  # fmt: skip


def answer(cloud: "FakeCloud", method: str, path: str, body: bytes) -> tuple[int, Any]:
    """Status and reply."""
    try:
        match method, path:
            case "GET", "/_cloud/jobs":
                return 200, [describe(job) for job in cloud.jobs]
            case "POST", "/_cloud/jobs":
                given = _read(body, _SUBMITTABLE)
                return 200, describe(_submit(cloud, **given))
            case "POST", "/_cloud/faults":
                cloud.faults = replace(cloud.faults, **_read(body, set(asdict(cloud.faults))))
                return 200, asdict(cloud.faults)
            case "GET", "/_cloud/faults":
                return 200, asdict(cloud.faults)
            case "GET", "/_cloud/buses":
                return 200, cloud.buses.events
            case _:
                return 404, {"error": "expected /_cloud/jobs, /_cloud/faults or /_cloud/buses, with GET or POST"}
    except (ValueError, TypeError) as error:
        return 400, {"error": str(error)}


def _submit(cloud: "FakeCloud", product: Product = "vod", family: str = "", **given: Any) -> CloudJob:
    if product not in EVENTS:
        raise ValueError(f"product: expected one of {', '.join(EVENTS)}, came {product}")
    return cloud.submit(product, family, **given)


def _read(body: bytes, known: set[str]) -> dict[str, Any]:
    given = json.loads(body)
    if not isinstance(given, dict) or not given.keys() <= known:
        raise ValueError(f"expected a JSON object with any of {', '.join(sorted(known))}")
    return given


def describe(job: CloudJob) -> dict[str, Any]:
    reference = asdict(job.reference())
    return reference | {
        "outcome": job.outcome,
        "knowable_outcome": job.knowable_outcome,
        "ends_at": format_time(job.ends_at),
        "callback_url": job.callback_url,
        "is_lost": job.is_lost,
        "told": job.told,
        "refused": job.refused,
    }
