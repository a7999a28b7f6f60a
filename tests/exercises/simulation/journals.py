"""Services' journals: a store that may be away, and what a power loss leaves of files and of their names."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path
from random import Random
from typing import Any, Literal

from media_callbacks.inbox.roles import ReceiptStore
from media_callbacks.model.errors import InboxUnavailable
from media_callbacks.model.receipts import Receipt, Verdict

# Beyond all patience of a journal's.
_SLOW_S = 20.0


@dataclass
class Way:
    """Between services and their store, for receipts."""

    state: Literal["well", "away", "slow"] = "well"


class DistantStore:
    """A store that is somewhere else, as PostgreSQL is. Somebody else opens and closes it."""

    def __init__(self, store: ReceiptStore, way: Way, rng: Random) -> None:
        self._store, self._way, self._rng = store, way, rng

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def check(self) -> None:
        await self._go()
        await self._store.check()

    async def put(self, receipt: Receipt) -> Verdict:
        await self._go()
        verdict = await self._store.put(receipt)
        if self._way.state != "well":
            # It has it, and nobody hears of it.
            await asyncio.sleep(_SLOW_S)
        return verdict

    async def _go(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.0005, 0.01))
        if self._way.state == "away" or self._rng.random() < 0.002:
            raise InboxUnavailable("the store is away")


@dataclass
class JournalDisk:
    """
    What is durable of journals: files up to where they were flushed, and names as of the last flush of their folder.

    Attributes:
        shadow: Where files are kept whose names are gone and may come back.
    """

    shadow: Path
    _flushed: dict[int, int] = field(default_factory=dict)
    _names: dict[Path, dict[str, int]] = field(default_factory=dict)

    def flushed(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not path.is_dir():
            status = os.fstat(descriptor)
            self._flushed[status.st_ino] = status.st_size
            return
        self._names[path] = names = _names(path)
        for name, number in names.items():
            if not (self.shadow / str(number)).exists():
                os.link(path / name, self.shadow / str(number))

    def lose_power(self, old: Path, new: Path, rng: Random) -> None:
        """What may be found afterwards."""
        new.mkdir()
        before, now = self._names.get(old, {}), _names(old)
        found: dict[str, int] = {}
        for name in sorted(before.keys() | now.keys()):
            number = rng.choice((before.get(name), now.get(name)))
            if number is not None:
                found[name] = number
        # A name that has changed is the old one or the new one.
        found |= {
            name: number for name, number in before.items() if number not in found.values() and number in now.values()
        }
        for name, number in found.items():
            kept = self.shadow / str(number)
            data = (kept if kept.exists() else old / name).read_bytes()
            (new / name).write_bytes(self._torn(data, self._flushed.get(number, 0), rng))
        self.copied(new)

    def copied(self, folder: Path) -> None:
        """All that is in there is durable."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            self.flushed(descriptor)
        finally:
            os.close(descriptor)
        for name, number in _names(folder).items():
            self._flushed[number] = (folder / name).stat().st_size

    def _torn(self, data: bytes, flushed: int, rng: Random) -> bytes:
        match rng.choice(("all", "none", "tail", "zeros")):
            case "none":
                return data[:flushed]
            case "tail":
                return data[: rng.randint(min(flushed, len(data)), len(data))]
            case "zeros":
                return data[:flushed] + bytes(len(data) - min(flushed, len(data)))
        return data


def _names(folder: Path) -> dict[str, int]:
    return {entry.name: entry.inode() for entry in os.scandir(folder) if entry.name != "lock"}


def holds_receipts(folder: Path) -> bool:
    return any(
        path.suffix == ".aside" or (path.suffix == ".journal" and path.stat().st_size > 1) for path in folder.iterdir()
    )


class OperatingSystem:
    """``os`` as the journal's modules use it."""

    def __init__(self, flush: Callable[[int], None], is_full: Callable[[], bool]) -> None:
        self.fsync, self._is_full = flush, is_full

    def write(self, descriptor: int, data: bytes) -> int:
        if self._is_full():
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        return os.write(descriptor, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)
