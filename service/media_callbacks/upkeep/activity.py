"""
What comes in and what is refused, noted every few seconds: when something came through each source last, and the last
requests that were refused, each with the reason why. Nothing waits for it, and what can't be kept just now is let go.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from media_callbacks.config.settings import Settings
from media_callbacks.inbox.records import ActivityWord, RefusedRow, SourceNews
from media_callbacks.inbox.roles import ActivityLog
from media_callbacks.model.errors import Unavailable
from media_callbacks.observe.metrics import Metrics
from media_callbacks.observe.redacting import Redactor
from media_callbacks.observe.refused import MAX_ALIKE, RefusedRequest, RefusedRequests
from media_callbacks.timing.loop import Loop
from media_callbacks.timing.waiting import Wait, wait_for

INTERVAL_S = 3.0
# Of refused requests at a time, with pauses between: callbacks wait for as long as it takes to explain one.
MAX_KEPT = 8
PAUSE_S = 0.1

Explain = Callable[[RefusedRequest], Mapping[str, Any]]
# Of a configuration, given the keys of the signing certificates that are known, by URL.
MakeExplain = Callable[[Settings, Callable[[str], RSAPublicKey | None]], Explain]

log = structlog.get_logger()


class ActivityKeeper(Loop):
    """
    Args:
        refused: Where requests are noted.
        explain: Why one was refused, in values of JSON; None where nobody can say more than the reason.
    """

    def __init__(
        self,
        store: ActivityLog,
        settings: Settings,
        *,
        metrics: Metrics,
        refused: RefusedRequests,
        explain: Explain | None,
        wait: Wait = wait_for,
    ) -> None:
        super().__init__(self.note, name="activity", failure="activity_failed", retry_s=INTERVAL_S, wait=wait)
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._refused = refused
        self._explain = explain
        self._redactor = Redactor(settings)
        self._kept: Counter[tuple[str, str]] = Counter()
        self._known_sources = False
        self._counted: Mapping[tuple[ActivityWord, str], int] = {}

    async def note(self) -> float:
        """Note what has come since the last time."""
        try:
            if not self._known_sources:
                await self._store.note_sources(await asyncio.to_thread(_fingerprints, self._settings))
                self._known_sources = True
            await self._note_counts()
            if rows := await self._rows():
                await self._store.keep_refused(rows)
            await self._store.summarise()
        except Unavailable as error:
            log.warning("activity_not_noted", error=str(error))
        return INTERVAL_S

    async def _note_counts(self) -> None:
        counted: dict[tuple[ActivityWord, str], int] = {
            ("delivered", sink): count for sink, count in self._metrics.counts_delivered().items()
        }
        for source, (received, refused) in self._metrics.counts_by_source().items():
            counted["received", source], counted["refused", source] = received, refused
        new = Counter(counted)
        new.subtract(self._counted)
        news = [
            SourceNews(name, new["received", name], new["refused", name])
            for name in self._settings.sources
            if new["received", name] or new["refused", name]
        ]
        if counts := [(what, name, count) for (what, name), count in new.items() if count > 0]:
            await self._store.note_activity(news, counts)
        # What could not be noted is, the next time.
        self._counted = counted

    async def _rows(self) -> list[RefusedRow]:
        taken = self._refused.take()
        # Of each kind one before a second of any, and kinds of which few were kept first: no flood of others hides one.
        kinds = sorted(taken, key=lambda kind: self._kept[kind])
        ordered = [taken[kind][i] for i in range(MAX_ALIKE) for kind in kinds if i < len(taken[kind])]
        rows = []
        for request in ordered[:MAX_KEPT]:
            explanation = self._explained(request)
            # Callbacks come between.
            await asyncio.sleep(0)
            findings = explanation["findings"] if explanation is not None else ()
            document = self._redactor.make_document(request, explanation)
            rows.append(
                RefusedRow(
                    refused_at=request.refused_at,
                    source=request.source,
                    status=request.status,
                    reason=request.reason,
                    cause=findings[0]["cause"] if findings else "",
                    detail=self._redactor.redact(request.detail, request.callback),
                    job_id=job_in(document),
                    document=document,
                )
            )
            self._kept[request.source, request.reason] += 1
            await self._wait(self.stopping, PAUSE_S)
        return rows

    def _explained(self, request: RefusedRequest) -> Mapping[str, Any] | None:
        if self._explain is None or not request.is_whole:
            return None
        try:
            return self._explain(request)
        except Exception as error:  # noqa: BLE001 - whatever strangers send, the reason is kept
            log.error("explaining_failed", error=type(error).__name__)
            return None


def job_in(document: str) -> str | None:
    """Of what is kept, so that nothing is in it that is left out there."""
    explanation = json.loads(document)["explanation"]
    events = explanation["events"] if explanation is not None else ()
    job_id: str | None = next((event["data"]["job_id"] for event in events), None)
    # It may hold half a surrogate pair, which no column takes.
    return job_id and job_id.encode("utf-8", "replace").decode()


def _fingerprints(settings: Settings) -> dict[str, str]:
    """
    Too short, and too slow to make, for whoever reads one to find out by it what keys there are. A change is missed
    once in 65,536 times.
    """
    return {
        name: hashlib.scrypt(
            repr([(key, getattr(source, key)) for key in sorted(source.model_fields_set)]).encode(),
            salt=name.encode(),
            n=2**14,
            r=8,
            p=1,
            dklen=2,
        ).hex()
        for name, source in settings.sources.items()
    }
