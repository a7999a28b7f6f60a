"""
``media-callbacks simulate PRODUCT [EVENT]``: send what the vendor would send, to the configured source. For
``simulate cloud`` see ``cloud``.
"""

import argparse
import asyncio
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from media_callbacks.assembly.sources import build_source
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.options import add_config_option, add_json_option, read_settings
from media_callbacks.commands.console.output import can_draw, print_line, print_table, printable
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.commands.simulate import cloud
from media_callbacks.commands.simulate.signing_keys import KEY_FILE, make_signing_key, read_signer
from media_callbacks.config.settings import Settings
from media_callbacks.config.sources import MnsPushSourceSettings
from media_callbacks.http_client.session import open_session
from media_callbacks.model.errors import ConfigError
from media_callbacks.model.suggestions import did_you_mean
from media_callbacks.rehearsal.payloads import PAYLOADS, WITHOUT_FAILURE, Json
from media_callbacks.rehearsal.sending import STALE_S, SentResult, send
from media_callbacks.rehearsal.simulate import (
    MnsSigner,
    SimulatedRequest,
    forge,
    http_request,
    set_field,
    token_url_request,
)
from media_callbacks.sources.base import CallbackSource
from media_callbacks.sources.transports.http import HttpSource
from media_callbacks.sources.transports.mns_push import MnsPushSource
from media_callbacks.sources.transports.token_url import TokenUrlSource
from media_callbacks.timing.clock import utc_now

CLOUD = "cloud"


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks simulate vod",
        "media-callbacks simulate vod SnapshotComplete --fail --set Extend=order-7",
        "media-callbacks simulate cloud --loss 0.2",
    )
    add_config_option(parser)
    parser.add_argument(
        "product",
        choices=[*sorted(PAYLOADS), CLOUD],
        help=f"whose callback to send; {CLOUD} plays all of them, their job APIs and queues until it is stopped",
    )
    parser.add_argument("event", nargs="?", help="the vendor's name of the message (default: the first one known)")
    parser.add_argument("--list", action="store_true", help="print the messages that are known, and send nothing")
    parser.add_argument("--source", metavar="NAME", help="which source of that product, where there are several")
    parser.add_argument("--to", metavar="URL", help="scheme, host and port to send to (default: [server] on loopback)")
    parser.add_argument("--job-id", help="instead of a random one")
    parser.add_argument("--fail", action="store_true", help="tell of a failed job")
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="overwrite a field of the payload (JSON, else text); may be given several times",
    )
    parser.add_argument("--format", choices=("XML", "JSON", "SIMPLIFIED"), default="SIMPLIFIED", help="of an MNS push")
    parser.add_argument("--count", type=int, default=1, help="how many jobs (default: 1)")
    parser.add_argument("--rate", type=float, help="jobs per second (default: as fast as answered)")
    parser.add_argument("--duplicate", action="store_true", help="send everything twice")
    parser.add_argument("--forge", action="store_true", help="sign without the key")
    parser.add_argument("--stale", action="store_true", help="sign as an hour ago")
    parser.add_argument(
        "--signing-key", metavar="FILE", default=KEY_FILE, help=f"private key of MNS pushes (default: ./{KEY_FILE})"
    )
    parser.add_argument(
        "--make-signing-key",
        action="store_true",
        help="make that key and a certificate beside it, say what to pin in the configuration, and send nothing",
    )
    add_json_option(parser)
    cloud.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.product == CLOUD:
        return run_cloud(arguments)
    if given := cloud.given_options(arguments):
        raise UsageError(f"{given[0]}: expected together with {CLOUD} alone")
    if arguments.list:
        list_events(arguments.product, as_json=arguments.json)
        return 0
    settings = read_settings(arguments)
    if arguments.make_signing_key:
        return make_signing_key(Path(arguments.signing_key))
    if arguments.count < 1 or (arguments.rate is not None and arguments.rate <= 0):
        raise UsageError("--count and --rate: expected numbers above zero")
    source = choose_source(settings, arguments.product, arguments.source)
    signer = None
    if isinstance(source, MnsPushSource):
        signer = read_signer(settings.sources[source.name], Path(arguments.signing_key))
    base = arguments.to or f"http://127.0.0.1:{settings.server.port}"
    answers = asyncio.run(send_all(arguments, source, signer, base))
    report(answers, as_json=arguments.json)
    expected = range(400, 500) if arguments.forge or arguments.stale else range(200, 300)
    return 0 if all(answer.status in expected for answer in answers) else 1


def run_cloud(arguments: argparse.Namespace) -> int:
    if arguments.event is not None or arguments.list:
        raise UsageError(f"expected no EVENT and no --list together with {CLOUD}")
    settings = read_settings(arguments)
    if arguments.make_signing_key:
        return make_signing_key(Path(arguments.signing_key))
    pushes = [table for table in settings.sources.values() if isinstance(table, MnsPushSourceSettings)]
    signers = [read_signer(table, Path(arguments.signing_key)) for table in pushes]
    return cloud.run(arguments, settings, signers[0] if signers else None)


def list_events(product: str, *, as_json: bool) -> None:
    if as_json:
        for event in PAYLOADS[product]:
            print(json.dumps({"product": product, "event": event, "can_fail": event not in WITHOUT_FAILURE}))
        return
    print_table(
        ("event", "--fail"),
        [
            (event, "no change: nothing has ended" if event in WITHOUT_FAILURE else "a failed job")
            for event in PAYLOADS[product]
        ],
    )


def choose_source(settings: Settings, product: str, name: str | None) -> CallbackSource:
    """
    Raises:
        ConfigError: No source, or several, fit.
    """
    tables = settings.callback_sources
    names = [key for key, table in tables.items() if table.product == product and name in (None, key)]
    if len(names) != 1:
        configured = [key for key, table in tables.items() if table.product == product]
        came = "" if name is None else f", came {printable(name)}"
        known = f"configured are: {', '.join(configured) or 'none'}{did_you_mean(name, configured)}"
        raise ConfigError([f"--source: expected one source of product {product}{came}, {known}"])
    return build_source(names[0], tables[names[0]])


def build_requests(
    arguments: argparse.Namespace, source: CallbackSource, signer: MnsSigner | None
) -> Iterator[tuple[str, SimulatedRequest]]:
    """
    Raises:
        UsageError: An unknown event, or an override that does not fit the payload.
    """
    known = PAYLOADS[arguments.product]
    event = arguments.event or next(iter(known))
    if event not in known:
        raise UsageError(
            f"EVENT: expected one of {', '.join(known)}; came {printable(event)}{did_you_mean(event, known)}"
        )
    for number in range(arguments.count):
        job_id = arguments.job_id if arguments.job_id and not number else secrets.token_hex(16)
        now = utc_now() - timedelta(seconds=STALE_S if arguments.stale else 0)
        payload = known[event](job_id, now, arguments.fail)
        for override in arguments.overrides:
            override_field(payload, override)
        request = build_request(source, signer, payload, now=now, arguments=arguments)
        request = forge(request) if arguments.forge else request
        for _ in range(2 if arguments.duplicate else 1):
            yield job_id, request


def override_field(payload: Json, override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator:
        raise UsageError(f"--set: expected PATH=VALUE, came {override}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    try:
        set_field(payload, path, value)
    except ValueError as error:
        raise UsageError(f"--set: {error}") from error


def build_request(
    source: CallbackSource, signer: MnsSigner | None, payload: Json, *, now: datetime, arguments: argparse.Namespace
) -> SimulatedRequest:
    if isinstance(source, HttpSource):
        return http_request(source, payload, now=now)
    if isinstance(source, MnsPushSource):
        assert signer is not None
        return signer.push(source, payload, now=now, push_format=arguments.format)
    assert isinstance(source, TokenUrlSource)
    url = source.mint(
        application_id="simulated",
        video_url="https://media.example.com/in.mp4",
        video_name="in.mp4",
        nonce=secrets.token_bytes(12),
        expires_at=int(now.timestamp()) + 600,
    )
    return token_url_request(source, url.rpartition("/")[2], payload)


async def send_all(
    arguments: argparse.Namespace, source: CallbackSource, signer: MnsSigner | None, base: str
) -> list[SentResult]:
    answers = []
    total = arguments.count * (2 if arguments.duplicate else 1)
    show = sys.stderr.isatty() and total > 1
    requests: Any = build_requests(arguments, source, signer)
    if show:
        requests = track(requests, total=total, console=Console(stderr=True))
    started = time.perf_counter()
    async with open_session() as session:
        for number, (job_id, request) in enumerate(requests):
            if arguments.rate:
                await asyncio.sleep(max(0.0, started + number / arguments.rate - time.perf_counter()))
            answers.append(await send(session, base, job_id, request))
    return answers


def report(answers: list[SentResult], *, as_json: bool) -> None:
    if as_json:
        for answer in answers:
            print(json.dumps({"job_id": answer.job_id, "status": answer.status, "error": answer.error}))
        return
    rows = [(answer.job_id, str(answer.status or answer.error)) for answer in answers]
    if not can_draw(sys.stdout):
        print_table((), rows)
        return
    print_table(("job id", "answer"), rows[:20])
    if len(rows) > 20:
        counts = Counter(said for _, said in rows)
        print_line(", ".join(f"{count} answered {said}" for said, count in sorted(counts.items())))
