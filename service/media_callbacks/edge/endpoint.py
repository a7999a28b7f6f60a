"""What is behind the path of a source: is a callback genuine, what is to be kept of it, and the promise that it is."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from media_callbacks.edge.answers import make_answer
from media_callbacks.inbox.roles import ReceiptWriter
from media_callbacks.model.errors import BadSignature
from media_callbacks.model.receipts import Receipt, Verdict
from media_callbacks.sources.base import Callback, CallbackSource, Message
from media_callbacks.sources.intake import HoldRules, Route, build_receipt

# What the callback of CreateGifTask wants to read is not documented; its own API answers so.
_SUCCESS_BODY = b'{"code":"OK"}'


class Certificates(Protocol):
    """Where signing certificates come from."""

    async def get(self, url: str) -> RSAPublicKey: ...

    def known(self, url: str) -> RSAPublicKey | None:
        """The key, if it need not be fetched."""
        ...

    async def refetch(self, url: str) -> RSAPublicKey:
        """The key anew; the very object that ``get`` gave when there is no other."""
        ...


class CallbackEndpoint:
    """
    The steps that a callback of one source takes.

    Args:
        verified: Told the source and which of its keys, for each callback that one of them verified.
        begin_trace: Notes in a genuine message whether it is traced.

    Attributes:
        success: The answer to all that is kept.
    """

    def __init__(
        self,
        source: CallbackSource,
        *,
        inbox: ReceiptWriter,
        route: Route,
        certificates: Certificates,
        clock: Callable[[], datetime],
        verified: Callable[[str, int], None],
        holds: HoldRules | None = None,
        begin_trace: Callable[[Message], None] | None = None,
    ) -> None:
        self.source = source
        self._inbox = inbox
        self._route = route
        self._holds = holds
        self._certificates = certificates
        self._clock = clock
        self._verified = verified
        self._begin_trace = begin_trace
        # VOD, IMS and MNS look at the status alone; without a body it all goes out in one write.
        body = _SUCCESS_BODY if source.transport == "token-url" else b""
        self.success = make_answer(source.success_status, body, media_type="application/json" if body else None)

    def prepare_now(self, callback: Callback) -> Receipt | None:
        """
        Verify a request and read it.

        Returns:
            What to put into the inbox; None when a certificate must be fetched first.

        Raises:
            Rejected: It is refused.
        """
        now = self._clock()
        # Only pushes need a certificate, and an await costs more than the question.
        url = self.source.certificate_url(callback)
        public_key = None
        if url is not None:
            public_key = self._certificates.known(url)
            if public_key is None:
                return None
        try:
            message = self.source.verify(callback, now=now, public_key=public_key)
        except BadSignature as error:
            if url is None or error.reason != "signature_mismatch":
                raise
            # The vendor may have replaced the certificate under the same name.
            return None
        if message.key is not None:
            self._verified(self.source.name, message.key)
        return self._build(message, now)

    async def prepare(self, callback: Callback) -> Receipt:
        """
        What ``prepare_now`` could not, with fetching what is needed.

        Raises:
            Rejected: It is refused.
            CannotVerify: The certificate can't be had just now.
        """
        now = self._clock()
        url = self.source.certificate_url(callback)
        assert url is not None
        message = await self._verify(callback, url, now)
        return self._build(message, now)

    def _build(self, message: Message, now: datetime) -> Receipt:
        if self._begin_trace is not None:
            self._begin_trace(message)
        return build_receipt(self.source, message, received_at=now, route=self._route, holds=self._holds)

    def put(self, receipt: Receipt) -> "asyncio.Future[Verdict]":
        """The promise that a receipt is durable."""
        verdict = self._inbox.put(receipt)
        return verdict if isinstance(verdict, asyncio.Future) else asyncio.ensure_future(verdict)

    async def _verify(self, callback: Callback, certificate_url: str, now: datetime) -> Message:
        public_key = await self._certificates.get(certificate_url)
        try:
            return self.source.verify(callback, now=now, public_key=public_key)
        except BadSignature as error:
            if error.reason != "signature_mismatch":
                raise
            # The vendor may have replaced the certificate under the same name.
            new_key = await self._certificates.refetch(certificate_url)
            if new_key is public_key:
                raise
        return self.source.verify(callback, now=now, public_key=new_key)
