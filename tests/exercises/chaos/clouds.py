"""Alibaba Cloud's queue, topic and bus for chaos, as the fake cloud plays them: processes that are killed like brokers."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from media_callbacks.sinks.aliyun_eventbridge import BUS_EXTENSION
from media_callbacks.sources.reading.xml_document import Element, read_document
from tests.exercises.bench.cloud_buses import NAME, CloudBus, CloudEventBus, CloudQueue, CloudTopic
from tests.factories.brokers.broker import Stored


class KeptCloud(CloudBus):
    """As far as chaos needs a ``Broker``. What it has taken outlives its process in a file."""

    deduplicates: ClassVar[bool] = False
    max_read: ClassVar[int] = 1_000_000

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        folder.mkdir(parents=True)
        self.record = folder / "taken"

    def freeze(self) -> None:
        self._process.freeze()

    def kill(self) -> None:
        self._process.kill()

    def name_of(self, body: bytes) -> str:
        return NAME

    async def read(self) -> Sequence[Stored]:
        assert self.record is not None
        taken = self.record.read_text("utf-8").splitlines()
        bodies = [body for line in taken for body in _read_events(json.loads(line))]
        return [Stored(NAME, json.loads(body)["id"], body) for body in bodies]


class KeptQueue(KeptCloud, CloudQueue):
    pass


class KeptTopic(KeptCloud, CloudTopic):
    pass


class KeptEventBus(KeptCloud, CloudEventBus):
    pass


CLOUDS: Mapping[str, type[KeptCloud]] = {cloud.kind: cloud for cloud in (KeptQueue, KeptTopic, KeptEventBus)}


def _read_events(request: str) -> Iterator[bytes]:
    if request.startswith("["):
        for event in json.loads(request):
            assert event.pop(BUS_EXTENSION) == NAME
            yield json.dumps(event).encode()
        return
    yield from _read_messages(read_document(request.encode()))


def _read_messages(element: Element) -> Iterator[bytes]:
    if element.name == "MessageBody":
        yield base64.b64decode(element.text)
    for child in element.children:
        yield from _read_messages(child)
