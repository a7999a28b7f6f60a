"""
How requests are signed, apart from how they are sent.

    webhook-signature = v1,<base64 of hmac-sha256 over <id>.<timestamp>.<body>>     one per secret, by spaces

Source: "Standard Webhooks", https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md,
sections "Webhook Headers" and "Signature scheme".
"""

import hmac
from base64 import b64encode
from collections.abc import Sequence


def sign(event_id: str, body: bytes, secrets: Sequence[bytes], timestamp: int) -> dict[str, str]:
    """
    The headers of one attempt.

    Args:
        secrets: Decoded keys. Each gives one signature, so that a receiver knowing any of them can verify.
        timestamp: UNIX time of this attempt, in seconds.
    """
    signed = f"{event_id}.{timestamp}.".encode() + body
    signatures = [f"v1,{b64encode(hmac.digest(secret, signed, 'sha256')).decode()}" for secret in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
