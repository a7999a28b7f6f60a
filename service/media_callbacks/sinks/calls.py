"""
Sinks that send in calls of bounded number and size, whose answers speak of each event: what they have in common.

A sink of its own says how an event becomes an entry of its API, and how a call is made.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from media_callbacks.model.errors import SinkError, SinkRejected, SinkRetry
from media_callbacks.model.events import Delivery

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallEntry:
    """
    One event on its way into a call.

    Attributes:
        position: Which of the deliveries it is.
        fields: The event as the API takes it.
        size_bytes: As the service counts.
        group: Entries of one group stay in order: none is sent after an earlier one failed. None asks for nothing.
    """

    position: int
    fields: Fields
    size_bytes: int
    group: str | None = None


class CallRefused(Exception):
    """
    A whole call is refused for what one entry is, or the sum of them. The text says how.

    Attributes:
        is_about_entries: It can't mean anything else.
    """

    def __init__(self, message: str, *, is_about_entries: bool = False) -> None:
        super().__init__(message)
        self.is_about_entries = is_about_entries


class CallSink(ABC):
    """
    Attributes:
        title: The service's name in sentences.
        max_bytes: The most that the service takes in one entry, and in one call.
        usual_bytes: The most that a destination takes of one entry whatever its owner has set.
        size_key: What the owner may have set otherwise.
    """

    title: ClassVar[str]
    max_bytes: ClassVar[int]
    usual_bytes: ClassVar[int]
    size_key: ClassVar[str] = "MaximumMessageSize"
    batch_size = 10

    name: str
    timeout_s: float

    @abstractmethod
    def build_entry(self, position: int, delivery: Delivery) -> CallEntry:
        """
        Pure: an event as the API takes it, of whatever size.

        Raises:
            SinkRejected: The stored event is none.
        """

    @abstractmethod
    async def call(self, entries: Sequence[CallEntry]) -> Iterable[tuple[CallEntry, SinkError | None]]:
        """
        One call, and what its answer says of each entry. Entries that it does not mention are left out.

        Raises:
            SinkRetry: It failed as a whole.
            CallRefused: As a whole, for what is in it.
        """

    def arrange(self, entries: list[CallEntry]) -> Iterable[list[CallEntry]]:
        """Entries that may be in one call with each other, as far as numbers and sizes allow."""
        return [entries]

    def build_calls(self, deliveries: Sequence[Delivery]) -> tuple[list[list[CallEntry]], dict[int, SinkRejected]]:
        """What to send, call by call; and for the deliveries that are in none of them, why."""
        entries: list[CallEntry] = []
        rejected: dict[int, SinkRejected] = {}
        for position, delivery in enumerate(deliveries):
            try:
                entry = self.build_entry(position, delivery)
            except SinkRejected as error:
                rejected[position] = error
                continue
            if entry.size_bytes <= self.max_bytes:
                entries.append(entry)
            else:
                rejected[position] = SinkRejected(
                    f"the event has {entry.size_bytes} bytes with what goes along with it, {self.title} takes at most"
                    f" {self.max_bytes}"
                )
        calls = [
            call
            for arranged in self.arrange(entries)
            for call in _cut(arranged, max_entries=self.batch_size, max_bytes=self.max_bytes)
        ]
        return calls, rejected

    def reject(self, entry: CallEntry, code: str) -> SinkRejected:
        """For an entry that the service refuses for what it is. Texts are not repeated: they may quote the message."""
        return SinkRejected(
            f"{self.title} refused the event of {entry.size_bytes} bytes: {code}; compare the size with what the"
            f" destination takes ({self.size_key})"
        )

    async def send(self, deliveries: Sequence[Delivery]) -> Sequence[SinkError | None]:
        calls, rejected = self.build_calls(deliveries)
        outcomes: dict[int, SinkError | None] = {**rejected}
        # For the deliveries that no answer spoke of. One call that failed as a whole ends the others: what it met
        # (throttling, credentials, the network) waits for them too, and a group must not get out of order.
        failure = SinkRetry(f"{self.title}'s answer does not mention this event")
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._send_calls(calls, outcomes)
        except TimeoutError:
            failure = SinkRetry(f"{self.title} gave no answer within {self.timeout_s:g} s")
        except SinkRetry as error:
            failure = error
        return [outcomes.get(position, failure) for position in range(len(deliveries))]

    async def _send_calls(self, calls: list[list[CallEntry]], outcomes: dict[int, SinkError | None]) -> None:
        blocked: set[str | None] = set()
        for entries in calls:
            await self._send_entries([entry for entry in entries if entry.group not in blocked], outcomes)
            for entry in entries:
                if entry.group in blocked:
                    outcomes[entry.position] = SinkRetry("waits for an earlier event of its group, which failed")
                elif entry.group is not None and (
                    entry.position not in outcomes or isinstance(outcomes[entry.position], SinkRetry)
                ):
                    blocked.add(entry.group)

    async def _send_entries(self, entries: list[CallEntry], outcomes: dict[int, SinkError | None]) -> None:
        """
        One call, or more where one entry spoils it.

        A queue, topic or stream may take less than its service does, which its owner alone knows: the whole call is
        refused then (observed with SQS, see https://github.com/floci-io/floci/issues/894), and compatible servers do
        it when a single entry is bad. Halves are sent then, so that nothing waits for what will never pass.
        """
        if not entries:
            return
        try:
            outcomes.update((entry.position, outcome) for entry, outcome in await self.call(entries))
        except CallRefused as refused:
            if len(entries) > 1:
                middle = len(entries) // 2
                await self._send_entries(entries[:middle], outcomes)
                await self._send_entries(entries[middle:], outcomes)
                return
            size_bytes = entries[0].size_bytes
            message = f"{self.title} refused the event of {size_bytes} bytes: {refused}"
            # Alone, and still refused: of usual size the fault may be in the settings, which an operator can mend.
            is_hopeless = refused.is_about_entries or size_bytes > self.usual_bytes
            outcomes[entries[0].position] = SinkRejected(message) if is_hopeless else SinkRetry(message)


def _cut(entries: Iterable[CallEntry], *, max_entries: int, max_bytes: int) -> Iterator[list[CallEntry]]:
    call: list[CallEntry] = []
    size_bytes = 0
    for entry in entries:
        if call and (len(call) == max_entries or size_bytes + entry.size_bytes > max_bytes):
            yield call
            call, size_bytes = [], 0
        call.append(entry)
        size_bytes += entry.size_bytes
    if call:
        yield call
