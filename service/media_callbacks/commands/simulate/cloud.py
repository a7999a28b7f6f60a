"""``media-callbacks simulate cloud``: the whole vendor on one port, to rehearse against, until it is stopped."""

import argparse
import asyncio
import json
import signal
from collections.abc import Callable, Mapping
from typing import Any

from media_callbacks.commands.console.errors import UsageError
from media_callbacks.config.file import PREFIX
from media_callbacks.config.settings import Settings
from media_callbacks.config.sinks import AliyunSinkSettings
from media_callbacks.config.sources import MnsQueueSourceSettings
from media_callbacks.rehearsal.fake_cloud.cloud import DEFAULT_KEYS, FakeCloud
from media_callbacks.rehearsal.fake_cloud.faults import RATES, Faults, Timing
from media_callbacks.rehearsal.fake_cloud.gateway import AccessKey
from media_callbacks.rehearsal.simulate import MnsSigner

DEFAULT_PORT = 8090

_HELP = {
    "loss": "jobs that nobody is told about",
    "duplication": "callbacks that are sent twice",
    "delay": "callbacks that come some seconds late",
    "reordering": "callbacks that younger ones overtake",
    "forgery": "callbacks beside which a forged one comes",
    "alteration": "callbacks beside which one comes whose signature or token is right and whose body lies",
    "failures": "jobs that fail",
    "throttling": "requests to job APIs, queues, topics and buses that are refused for being too many",
    "server_errors": "requests to job APIs that are answered 500",
    "html": "requests to job APIs that are answered with a page of HTML",
}
_OPTIONS = (*RATES, "port", "seed", "duration", "access_key_id", "secret")


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("with cloud as PRODUCT")
    group.add_argument("--port", type=int, metavar="N", help=f"where it listens (default: {DEFAULT_PORT})")
    group.add_argument("--seed", type=int, metavar="N", help="the same seed, the same faults (default: 0)")
    group.add_argument("--duration", type=float, metavar="S", help="seconds that a job takes at most (default: 3)")
    group.add_argument("--access-key-id", metavar="ID", help="that it takes (default: those of the [vendor] tables)")
    group.add_argument("--secret", metavar="TEXT", help="that belongs to --access-key-id")
    for name in RATES:
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=float, metavar="RATE", help=f"0 to 1: {_HELP[name]} (default: 0)")


def given_options(arguments: argparse.Namespace) -> list[str]:
    """The options of this command that are there."""
    return [f"--{name.replace('_', '-')}" for name in _OPTIONS if getattr(arguments, name) is not None]


def run(arguments: argparse.Namespace, settings: Settings, signer: MnsSigner | None) -> int:
    """
    Raises:
        UsageError: A rate is none, or half of an access key.
        ConfigError: The port can't be had.
    """
    cloud = build_cloud(arguments, settings, signer)
    asyncio.run(_run_until_stopped(cloud, DEFAULT_PORT if arguments.port is None else arguments.port))
    return 0


def build_cloud(arguments: argparse.Namespace, settings: Settings, signer: MnsSigner | None) -> FakeCloud:
    rates = {name: getattr(arguments, name) for name in RATES if getattr(arguments, name) is not None}
    try:
        faults = Faults(**rates)
    except ValueError as error:
        name, _, sentence = str(error).partition(":")
        raise UsageError(f"--{name.replace('_', '-')}:{sentence}") from None
    if (arguments.access_key_id is None) != (arguments.secret is None):
        raise UsageError("--access-key-id and --secret: expected both or neither")
    keys = {arguments.access_key_id: AccessKey(arguments.secret)} if arguments.secret else None
    longest_s = 3.0 if arguments.duration is None else max(0.0, arguments.duration)
    return FakeCloud(
        settings,
        seed=arguments.seed or 0,
        faults=faults,
        timing=Timing(duration_s=(min(0.5, longest_s), longest_s)),
        to=arguments.to,
        signer=signer,
        push_format=arguments.format or "SIMPLIFIED",
        access_keys=keys,
    )


def _say(line: str) -> None:
    # At once, also into a pipe: whoever reads it waits for the port.
    print(line, flush=True)


async def _run_until_stopped(cloud: FakeCloud, port: int) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(cloud, port, stop)


async def serve(cloud: FakeCloud, port: int, stop: asyncio.Event, say: Callable[[str], Any] = _say) -> None:
    """Run the cloud until ``stop``, and say where the configuration is to point."""
    async with cloud.running(port=port):
        for line in describe(cloud):
            say(line)
        await stop.wait()
    told = sum(job.told > 0 for job in cloud.jobs)
    say(f"{len(cloud.jobs)} jobs, {told} of them told about")


def describe(cloud: FakeCloud) -> list[str]:
    """What makes a service, and an application with the vendor's SDK, take this for the vendor."""
    endpoints = dict.fromkeys(("vod", "ice", "mts", "multimediaai"), cloud.url)
    vendors = cloud.settings.vendor or ("main",)
    tables: Mapping[str, Mapping[str, object]] = {"sources": cloud.settings.sources, "sinks": cloud.settings.sinks}
    endpoints_of = [
        f"{section}.{name}"
        for section, named in tables.items()
        for name, table in named.items()
        if isinstance(table, MnsQueueSourceSettings | AliyunSinkSettings)
    ]
    # Public: they are in the source. What is configured is a secret, and is there already.
    keys = {name: key.secret for name, key in DEFAULT_KEYS.items()} if cloud.access_keys == DEFAULT_KEYS else {}
    lines = [
        f"# the cloud listens on {cloud.url} and sends callbacks to {cloud.teller.to}",
        f"# what really happens: curl {cloud.url}/_cloud/jobs, and {cloud.url}/_cloud/faults",
        *([f"# what was put on buses: curl {cloud.url}/_cloud/buses"] if cloud.buses.events else []),
        "# for the shell of the service, with the configuration as it is:",
    ]
    for name in vendors:
        variable = f"{PREFIX}VENDOR__{name.upper().replace('-', '_')}"
        if not cloud.settings.vendor:
            lines.append(f"export {variable}__REGION=cn-shanghai")
        for access_key_id, secret in keys.items():
            lines.append(f"export {variable}__ACCESS_KEY_ID={access_key_id} {variable}__ACCESS_KEY_SECRET={secret}")
        lines.append(f"export {variable}__ENDPOINTS='{json.dumps(endpoints)}'")
    lines += [
        f"export {PREFIX}{path.upper().replace('-', '_').replace('.', '__')}__ENDPOINT={cloud.url}"
        for path in endpoints_of
    ]
    lines.append("# or for the configuration, in the tables that are there:")
    for name in vendors:
        lines.append(f"[vendor.{name}]")
        for access_key_id, secret in keys.items():
            lines += [f'access_key_id = "{access_key_id}"', f'access_key_secret = "{secret}"']
        if not cloud.settings.vendor:
            lines.append('region = "cn-shanghai"')
        lines.append(f"endpoints = {{ {', '.join(f'{api} = {json.dumps(url)}' for api, url in endpoints.items())} }}")
    for path in endpoints_of:
        lines += [f"[{path}]", f'endpoint = "{cloud.url}"']
    key_id, secret = next(iter(keys.items()), ("...", "..."))
    lines += [
        "# for an application, with the vendor's SDK (alibabacloud_vod20170321, _ice20201109, _mts20140618):",
        f'# alibabacloud_tea_openapi.models.Config(access_key_id="{key_id}", access_key_secret="{secret}",',
        f'#     endpoint="{cloud.url.removeprefix("http://")}", protocol="http", region_id="cn-shanghai")',
    ]
    return lines
