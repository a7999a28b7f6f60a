"""
Jobs as those who submit them name them: what it takes to recognise the end of one, and to ask the vendor about it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from media_callbacks.model.identity import Key
from media_callbacks.model.kinds import Product


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReference:
    """
    One job.

    Attributes:
        family: As in ``model.identity.Key``: what the job id is unique in.
        job_id: The vendor's. None while only the nonce of a minted URL is known, or where a message names no job.
        media_id: The asset that it works on, which some queries ask for in place of the job.
        nonce: Of the minted URL, in lower-case hexadecimal; it is the identity where there is one.
        bind: What the minted URL is bound to, in lower-case hexadecimal (see
        ``sources.transports.url_tokens.bind_task``).
    """

    product: Product
    account: str
    family: str
    job_id: str | None = None
    media_id: str | None = None
    nonce: str | None = None
    bind: str | None = None

    def key(self) -> Key:
        """
        What the job's completion is deduplicated by.

        Raises:
            ValueError: There is neither a job id nor a nonce.
        """
        identity = self.nonce or self.job_id
        if not identity:
            raise ValueError("expected a job id or a nonce, came neither")
        return Key(self.product, self.account, self.family, (identity,))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedJob:
    """
    A job that somebody has submitted and wants to see the end of.

    Attributes:
        deadline: When the vendor is asked, should nothing have come until then: the time that whoever submitted it has
            said, or how long after the registration.
        user_data: For the event, where the vendor's answer has none.
        token: Which setting has the token that it comes with, for the record.
        requested_by: Who registers it, as he says himself, for the record.
    """

    reference: JobReference
    deadline: datetime | timedelta
    user_data: str | None = None
    token: str | None = None
    requested_by: str | None = None
