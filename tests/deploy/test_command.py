"""What the systemd unit and the image start, and how they ask whether it is well, run for real."""

import asyncio
import base64
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from tests.factories.running import PATIENCE_S, connected, encode_request, read_answer

ROOT = Path(__file__).parents[2]
UNIT = (ROOT / "deploy/systemd/media-callbacks.service").read_text("utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
SECRET = base64.b64encode(b"0123456789abcdef" * 2).decode()
# What /etc/media-callbacks/environment has, and what makes it a test: no fixed ports, nobody outside of this machine.
ENVIRONMENT = {
    "ADMIN_TOKEN": "0123456789abcdef",
    "JOBS_TOKEN": "fedcba9876543210",
    "ALIYUN_ID": "ExampleId",
    "ALIYUN_SECRET": "ExampleSecret",
    "VOD_KEY": "Example1Key",
    "GIF_URL_KEY": SECRET,
    "ORDERS_SECRET": f"whsec_{SECRET}",
    "MEDIA_CALLBACKS__SERVER__HOST": "127.0.0.1",
    "MEDIA_CALLBACKS__SERVER__PORT": "0",
    "MEDIA_CALLBACKS__SERVER__DRAIN_S": "0",
    "MEDIA_CALLBACKS__ADMIN__PORT": "0",
    # Nobody listens there: a vendor that is away stops nothing here.
    "MEDIA_CALLBACKS__SOURCES__IMS__ENDPOINT": "http://127.0.0.1:9",
}


@dataclass(frozen=True)
class Started:
    process: asyncio.subprocess.Process
    address: str
    admin_address: str

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]

    async def status(self, address: str, target: str, *, token: str | None = None) -> int:
        headers = [] if token is None else [(b"Authorization", f"Bearer {ENVIRONMENT[token]}".encode())]
        async with connected(address) as (reader, writer):
            writer.write(encode_request("GET", target, headers))
            answer = await read_answer(reader, method="GET")
        assert answer is not None
        return answer.status

    async def stop(self) -> int:
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def started_as_by_systemd(folder: Path) -> AsyncIterator[Started]:
    """The command of the unit, with its environment and nothing else, its paths below ``folder``."""
    etc, state = folder / "etc", folder / "state"
    etc.mkdir()
    state.mkdir()
    (etc / "media-callbacks.toml").write_bytes((ROOT / "deploy/media-callbacks.toml").read_bytes())
    (command,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    paths = {
        "/opt/media-callbacks/bin": str(Path(sys.executable).parent),
        "/etc/media-callbacks": str(etc),
    }
    for installed, here in paths.items():
        assert installed in command
        command = command.replace(installed, here)
    given = dict(
        pair.split("=", 1) for line in re.findall(r"^Environment=(.*)$", UNIT, re.MULTILINE) for pair in line.split()
    )
    process = await asyncio.create_subprocess_exec(
        *shlex.split(command),
        cwd=state,
        env={"PATH": os.defpath, "MEDIA_CALLBACKS__STORE__URL": f"sqlite:///{state}/store.db"} | given | ENVIRONMENT,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        lines = []
        async with asyncio.timeout(PATIENCE_S):
            while line := await process.stderr.readline():
                lines.append(line.decode())
                if line.startswith(b"{") and (said := json.loads(line))["event"] == "listening":
                    break
            else:
                raise AssertionError("".join(lines))
        yield Started(process, said["server"], said["admin"])
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_the_units_command_gets_ready_and_stops_cleanly(tmp_path: Path):
    async with started_as_by_systemd(tmp_path) as service:
        assert await service.status(service.address, "/health/ready") == 200
        assert await service.status(service.address, "/metrics") == 404
        assert await service.status(service.admin_address, "/metrics") == 401
        for target in ("/metrics", "/v1/events", "/v1/report", "/openapi.json"):
            assert await service.status(service.admin_address, target, token="ADMIN_TOKEN") == 200
            assert await service.status(service.admin_address, target, token="JOBS_TOKEN") == 401, target
        assert await service.status(service.admin_address, "/v1/jobs", token="JOBS_TOKEN") == 200
        assert await service.stop() == 0
    assert (tmp_path / "state/store.db").exists()


async def test_health_checks_tell_a_service_that_runs_from_one_that_does_not(tmp_path: Path):
    image = json.loads(re.findall(r"HEALTHCHECK .*? CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[0])
    compose = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text("utf-8"))
    marker, *composed = compose["services"]["media-callbacks-1"]["healthcheck"]["test"]
    assert marker == "CMD"
    assert "8080" in image[-1]
    assert "8080" in composed[-1]

    async def check(command: list[str]) -> int:
        python, *rest = command
        assert python == "python"
        process = await asyncio.create_subprocess_exec(sys.executable, *rest, stderr=asyncio.subprocess.DEVNULL, env={})
        return await process.wait()

    async with started_as_by_systemd(tmp_path) as service:
        checks = [[*command[:-1], command[-1].replace("8080", service.port)] for command in (image, composed)]
        assert [await check(command) for command in checks] == [0, 0]
        assert await service.stop() == 0
        assert [await check(command) for command in checks] == [1, 1]
