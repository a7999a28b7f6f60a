"""
The service as a process, and what it has in memory.

Its limit is 512 MiB of resident memory, by the kernel's own count of the peak (``VmHWM``): a limit of address space
(``RLIMIT_AS``) would count what threads reserve and never touch, and one of a control group needs rights that a test
does not have everywhere.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from media_callbacks.config.settings import build_settings
from media_callbacks.sources.base import CallbackSource
from tests.factories.running import PATIENCE_S, encode_request, make_source, make_tables, read_answer, to_toml

CHECKOUT = Path(__file__).parents[3]
LIMIT_BYTES = 512 * 2**20
# What it may keep of an attack that is over.
KEPT_BYTES = 20 * 2**20


@dataclass
class Victim:
    """
    Attributes:
        address, admin_address: ``host:port`` of the public and of the operators' listener.
        log: The file that it writes its lines to.
    """

    pid: int
    address: str
    admin_address: str
    log: Path
    source: CallbackSource
    _baseline_bytes: int = field(default=0)

    def memory_bytes(self) -> int:
        return self._status("VmRSS")

    def peak_bytes(self) -> int:
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(lines[name].split()[0]) * 1024

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def addresses(self) -> Mapping[str, str]:
        return {"server": self.address, "admin": self.admin_address}

    async def get(self, target: str, *, listener: str = "server") -> int:
        """Ask on a connection of its own; gives the status."""
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(*self.addresses[listener].split(":"))
            try:
                writer.write(encode_request("GET", target, host=self.addresses[listener]))
                answer = await read_answer(reader, method="GET")
            finally:
                writer.transport.abort()
        assert answer is not None, "the connection was closed without an answer"
        return answer.status

    async def metrics(self) -> dict[str, float]:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(*self.admin_address.split(":"))
            writer.write(encode_request("GET", "/metrics", host=self.admin_address))
            answer = await read_answer(reader, method="GET")
            writer.transport.abort()
        assert answer is not None
        lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def remember_memory(self) -> None:
        """From here on, growth counts."""
        self._baseline_bytes = self.memory_bytes()

    def kept_bytes(self) -> int:
        """How much memory has grown since."""
        return self.memory_bytes() - self._baseline_bytes

    async def forgets(self) -> None:
        """Wait until memory is what it was, but for what may be kept."""
        async with asyncio.timeout(PATIENCE_S):
            while self.kept_bytes() > KEPT_BYTES:  # noqa: ASYNC110 - it is no event of ours
                await asyncio.sleep(0.1)


@asynccontextmanager
async def attacked(folder: Path, changes: Mapping[str, Any] | None = None) -> AsyncIterator[Victim]:
    """A service of all four sources. At the end it must be alive, and have stayed within its limit of memory."""
    tables = make_tables(folder, {}, changes)
    config, log = folder / "media-callbacks.toml", folder / "log"
    config.write_text(to_toml(tables))
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "media_callbacks", "serve", "--config", str(config)),
            cwd=CHECKOUT,
            # Its memory is watched, so it is not to be measured for coverage besides.
            env={
                name: text for name, text in os.environ.items() if not name.startswith(("MEDIA_CALLBACKS", "COVERAGE"))
            },
            stdin=asyncio.subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        listening = await _listening(process, log)
        source = make_source("vod", build_settings(tables, environ={}))
        victim = Victim(process.pid, listening["server"], listening["admin"], log, source)
        yield victim
        assert process.returncode is None, f"it has ended with {process.returncode}"
        assert victim.peak_bytes() < LIMIT_BYTES, f"it took {victim.peak_bytes() >> 20} MiB"
        with log.open() as lines:
            # Read as they are needed: of a million requests there are many.
            for line in lines:
                assert "Traceback" not in line
                assert "pip install" not in line
        process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _listening(process: asyncio.subprocess.Process, log: Path) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while (line := _find(log, "listening")) is None:
            assert process.returncode is None, f"it has ended with {process.returncode}"
            await asyncio.sleep(0.02)
        return line


def _find(log: Path, event: str) -> Any:
    return next((json.loads(line) for line in log.read_text().splitlines() if f'"event":"{event}"' in line), None)
