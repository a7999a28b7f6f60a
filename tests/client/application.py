"""
What an application does with the distribution that has no extra: a program of its own, for environments in which there
is nothing else, the tests' packages neither.
"""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta

from media_callbacks.client import JobsClient
from media_callbacks.client.minting import mint_gif
from media_callbacks.client.webhooks import Receiver, WebhookVerificationError, verify
from media_callbacks.events import AnimatedImage, Event, parse_event

KEY, NOW = b"0123456789abcdef" * 2, datetime(2026, 11, 21, 12, tzinfo=UTC)
SECRET = base64.b64encode(KEY).decode()
BODY = json.dumps(
    {
        "specversion": "1.0",
        "id": "evt_0aa3ead8ad35b2f7eb16bec2f5371d1700",
        "source": "/aliyun/vod/default",
        "type": "media.animated_image.succeeded",
        "subject": "job-1",
        "time": "2026-11-21T12:00:00Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:media-callbacks:animated_image:1",
        "data": {
            "product": "vod",
            "kind": "animated_image",
            "outcome": "succeeded",
            "job_id": "job-1",
            "media_id": "media-1",
            "vendor_event": "DynamicImageComplete",
            "outputs": [],
            "error": None,
            "user_data": None,
            "revision": 1,
            "source": "vod",
            "transport": "http",
            "verified_by": "signature",
            "outcome_verified_by": "signature",
            "received_at": "2026-11-21T12:00:00.120Z",
        },
    }
).encode()

event = parse_event(BODY)
assert isinstance(event.data, AnimatedImage)

timestamp = str(int(NOW.timestamp()))
signature = hmac.digest(KEY, f"{event.id}.{timestamp}.".encode() + BODY, "sha256")
headers = {
    "Webhook-Id": event.id,
    "Webhook-Timestamp": timestamp,
    "Webhook-Signature": f"v1,{base64.b64encode(signature).decode()}",
}
assert verify(headers, BODY, secrets=[f"whsec_{SECRET}"], now=NOW) == event
try:
    verify(headers, BODY + b" ", secrets=[f"whsec_{SECRET}"], now=NOW)
except WebhookVerificationError:
    pass
else:
    raise AssertionError("a forgery was taken for an event")

taken: list[Event[AnimatedImage]] = []
receiver = Receiver(secrets=[f"whsec_{SECRET}"], now=lambda: NOW)


@receiver.on("animated_image")
def take(event: Event[AnimatedImage]) -> None:
    taken.append(event)


assert receiver.receive(headers, BODY) == receiver.receive_unsigned(BODY) == event
assert taken == [event, event]

JobsClient("http://127.0.0.1:8081", "the-token-of-the-jobs")

minted = mint_gif(
    url="https://cb.example.com/callbacks/gif",
    key=f"1:{SECRET}",
    application_id="app",
    video_url="https://media.example.com/in.mp4",
    video_name="holiday",
    expires_at=NOW + timedelta(days=7),
)
assert minted.video_name == f"holiday#{minted.nonce}"

print("an application needs no extra")
