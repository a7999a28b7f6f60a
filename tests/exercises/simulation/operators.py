"""What operators order, as the commands and the admin API do it."""

import asyncio
from datetime import datetime, timedelta

from media_callbacks.inbox.records import EventFilter, ReplayRequest, SinkState
from media_callbacks.model.errors import ClockDoubted, ServiceError
from media_callbacks.sources.base import PARSER_VERSION
from media_callbacks.upkeep.retention import purge
from tests.exercises.simulation.ledger import Ledger
from tests.exercises.simulation.service import Service


class Operator:
    """Of one service. Whatever can't be done just now is not done."""

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self._service, self._inbox, self._ledger = service, service.inbox, ledger

    async def set_state(self, sink: str, state: SinkState) -> None:
        try:
            await self._inbox.set_sink_state(sink, state, reason=None, changed_by="an operator")
        except ServiceError as error:
            self._ledger.note(f"{sink} can't be {state}: {error}")

    async def resume(self) -> None:
        for sink in ("orders", "audit"):
            await self.set_state(sink, "active")

    async def retry(self) -> None:
        self._ledger.released()
        for sink in ("orders", "audit"):
            try:
                await self._inbox.retry_sink(sink)
            except ServiceError as error:
                self._ledger.note(f"{sink} can't be tried now: {error}")

    async def replay(self, chance: float, now: datetime) -> None:
        """Of what came in the last hours to all sinks, or of what was given up; sometimes he thinks better of it."""
        chosen = EventFilter(state="dead") if chance < 0.3 else EventFilter(since=now - timedelta(hours=12))
        self._ledger.replayed()
        try:
            replay = await self._inbox.create_replay(ReplayRequest(filter=chosen, rate_per_s=0.5))
            self._service.replayer.wake()
            if chance > 0.8:
                await asyncio.sleep(10.0)
                await self._inbox.cancel_replay(replay.id)
        except ServiceError as error:
            self._ledger.note(f"nothing can be replayed: {error}")

    async def purge(self) -> None:
        store = self._service.settings.store
        try:
            await purge(
                self._inbox,
                retention_days=store.retention_days,
                dedup_days=store.dedup_days,
                stopping=asyncio.Event(),
                monotonic=asyncio.get_running_loop().time,
            )
        except (ServiceError, ClockDoubted) as error:
            self._ledger.note(f"nothing is removed: {error}")

    async def reparse(self) -> None:
        """As after an upgrade with a parser that reads everything as before."""
        after_id = 0
        try:
            while page := await self._inbox.outdated_receipts(
                parser_version=PARSER_VERSION + 1, after_id=after_id, limit=20, with_conflicts=True
            ):
                for stored in page:
                    after_id = stored.id
                    if (receipt := self._service.read_again(stored)) is not None:
                        await self._inbox.reparse(stored.id, receipt, dry_run=False)
        except ServiceError as error:
            self._ledger.note(f"receipts can't be read again: {error}")
