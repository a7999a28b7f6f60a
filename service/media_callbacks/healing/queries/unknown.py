"""
Jobs whose end can't be learnt: the answer that the service gives itself when it stops asking.

It is kept as the vendor's answers are, so that it can be read again.
"""

import json
from dataclasses import asdict

from media_callbacks.healing.queries.base import JobAnswer
from media_callbacks.model.errors import Unparseable
from media_callbacks.model.events import EventError
from media_callbacks.model.jobs import JobReference
from media_callbacks.model.kinds import Kind
from media_callbacks.sources.base import Completion, Message, Parsed

ACTION = "none"


def give_up(reference: JobReference, kind: Kind, reason: str) -> JobAnswer:
    """``reason``: for the consumer, why nobody knows how the job ended."""
    body = {"kind": kind, "reason": reason, "reference": asdict(reference)}
    return JobAnswer(state="ended", body=json.dumps(body).encode(), meta={"action": ACTION}, detail=reason)


def parse(message: Message) -> Parsed:
    """
    Raises:
        Unparseable: This is not what ``give_up`` made.
    """
    try:
        body = json.loads(message.payload)
        reference = JobReference(**body["reference"])
        completion = Completion(
            family=reference.family,
            id=reference.key().id,
            kind=body["kind"],
            outcome="unknown",
            vendor_event=None,
            job_id=reference.job_id,
            media_id=reference.media_id,
            error=EventError(code=None, message=body["reason"], retryable=None),
            subject=reference.nonce,
        )
    except (ValueError, TypeError, KeyError) as error:
        raise Unparseable("expected an answer that this service gave itself, found something else") from error
    return Parsed((completion,))
