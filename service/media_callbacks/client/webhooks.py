"""
What an application asks of every request at the URL of a ``webhook`` sink: does it come from the service, just now, and
which event is it?

    from media_callbacks.client.webhooks import WebhookVerificationError, verify

    async def receive(request):
        try:
            event = verify(request.headers, await request.body(), secrets=[os.environ["ORDERS_SECRET"]])
        except WebhookVerificationError:
            return Response(status_code=401)
        ...
        return Response(status_code=204)

An event may come more than once, with the same ``id``. Pure: no network, and no clock where ``now`` is given.

Source: "Standard Webhooks", https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md,
sections "Webhook Headers" and "Signature scheme".
"""

import hmac
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from media_callbacks.config.values import read_webhook_secret
from media_callbacks.model.events import Event, parse_event

# What the Standard Webhooks libraries allow. Every attempt is signed anew, however old its event is.
TOLERANCE_S = 300.0


class WebhookVerificationError(Exception):
    """The request brings no event: it is not signed with a secret of ours, not fresh, or holds none that is known."""


def verify(
    headers: Mapping[str, str],
    body: bytes,
    *,
    secrets: Sequence[str],
    tolerance_s: float = TOLERANCE_S,
    now: datetime | None = None,
) -> Event:
    """
    The event of a genuine request.

    Args:
        headers: Of the request, their names in whichever case.
        body: As it came. What a framework made of the JSON has other bytes, which nobody signed.
        secrets: ``whsec_…`` as the sink has them. Any of them is good: give two while one takes the other's place.
        tolerance_s: How far ``webhook-timestamp`` may be from now, both ways.
        now: The present where nothing else is given.

    Raises:
        WebhookVerificationError: It is none. Whatever headers and body are, nothing else is raised because of them.
        ValueError: There is no secret, or one that can't be.
    """
    keys = [read_webhook_secret(secret) for secret in secrets]
    if not keys:
        raise ValueError("secrets: expected at least one, came none")
    given = {name.lower(): value for name, value in headers.items()}
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    event_id, timestamp, signatures = (given.get(name, "") for name in names)
    if not (event_id and timestamp and signatures):
        raise WebhookVerificationError(f"expected the headers {', '.join(names)}, came not all of them")
    signed = _to_bytes(f"{event_id}.{timestamp}.") + body
    expected = [b"v1," + b64encode(hmac.digest(key, signed, "sha256")) for key in keys]
    came = [_to_bytes(signature) for signature in signatures.split(" ")]
    if not any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in came):
        raise WebhookVerificationError("webhook-signature: expected one that is made with a secret of ours, came none")
    if not re.fullmatch("[0-9]{1,15}", timestamp):
        raise WebhookVerificationError("webhook-timestamp: expected seconds since 1970, came something else")
    age_s = (now or datetime.now(UTC)).timestamp() - int(timestamp)
    if abs(age_s) > tolerance_s:
        raise WebhookVerificationError(
            f"webhook-timestamp: expected one at most {tolerance_s:g} s from now, came one {age_s:.0f} s old; are both"
            " clocks right?"
        )
    try:
        return parse_event(body)
    except (ValueError, RecursionError) as error:
        raise WebhookVerificationError(
            "expected an event of media-callbacks in the body, came something else; is the service of a later version?"
        ) from error


def _to_bytes(text: str) -> bytes:
    """Whatever a framework has made of a header: one that nobody can have signed is refused for its signature."""
    return text.encode("utf-8", "surrogatepass")
