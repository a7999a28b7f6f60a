import asyncio
from pathlib import Path

from media_callbacks.model.errors import SinkRetry


class FolderSink:
    batch_size, concurrency, timeout_s = 1, 4, 10.0

    def __init__(self, name, folder):
        self.name, self.folder = name, folder

    async def open(self):
        pass

    async def send(self, deliveries):
        (delivery,) = deliveries
        try:
            async with asyncio.timeout(self.timeout_s):
                await asyncio.to_thread((self.folder / f"{delivery.event_id}.json").write_bytes, delivery.body)
        except OSError as error:  # TimeoutError is one
            return [SinkRetry(f"the folder can't be written: {error.strerror or 'too slow'}")]
        return [None]

    async def close(self):
        pass


def build(name, options):
    if options.keys() != {"folder"} or not isinstance(options["folder"], str):
        raise ValueError('expected folder = "/path" and no other key')
    return FolderSink(name, Path(options["folder"]))
