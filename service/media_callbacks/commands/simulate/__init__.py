"""
``media-callbacks simulate PRODUCT [EVENT]``: send what the vendor would send, to the configured source. For
``simulate cloud`` see ``cloud``.
"""

import argparse
import asyncio
import json
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path

from media_callbacks.assembly.sources import build_source
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.options import add_config_option, add_json_option, read_settings
from media_callbacks.commands.console.output import note, print_table, printable, showing_progress
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.commands.simulate import cloud
from media_callbacks.commands.simulate.answers import Answers
from media_callbacks.commands.simulate.signing_keys import KEY_FILE, make_signing_key, read_signer
from media_callbacks.config.settings import Settings
from media_callbacks.config.sources import MnsPushSourceSettings
from media_callbacks.config.values import split_url
from media_callbacks.http_client.session import open_session
from media_callbacks.model.errors import ConfigError
from media_callbacks.model.suggestions import did_you_mean
from media_callbacks.rehearsal.payloads import PAYLOADS, WITHOUT_FAILURE, Json
from media_callbacks.rehearsal.sending import STALE_S, send
from media_callbacks.rehearsal.simulate import (
    MnsSigner,
    PushFormat,
    SimulatedRequest,
    forge,
    has_field,
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
DEFAULT_FORMAT: PushFormat = "SIMPLIFIED"


_OF_CALLBACKS = {
    "--source": "source",
    "--job-id": "job_id",
    "--fail": "fail",
    "--set": "overrides",
    "--rate": "rate",
    "--duplicate": "duplicate",
    "--forge": "forge",
    "--stale": "stale",
}


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
    parser.add_argument(
        "--format", choices=("XML", "JSON", "SIMPLIFIED"), help=f"of an MNS push (default: {DEFAULT_FORMAT})"
    )
    parser.add_argument("--count", type=int, default=1, help="how many jobs (default: 1)")
    parser.add_argument("--rate", type=float, help="jobs per second (default: as fast as answered)")
    parser.add_argument("--duplicate", action="store_true", help="send everything twice")
    parser.add_argument("--forge", action="store_true", help="sign without the key")
    parser.add_argument("--stale", action="store_true", help="sign as an hour ago")
    parser.add_argument(
        "--signing-key", metavar="FILE", type=Path, help=f"private key of MNS pushes (default: ./{KEY_FILE})"
    )
    parser.add_argument(
        "--make-signing-key",
        action="store_true",
        help="make that key and a certificate beside it, print the variable that pins it, and send nothing",
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
    if arguments.make_signing_key:
        return make_signing_key(read_settings(arguments), arguments.signing_key or Path(KEY_FILE))
    check_options(arguments)
    settings = read_settings(arguments)
    if arguments.count < 1 or (arguments.rate is not None and arguments.rate <= 0):
        raise UsageError("--count and --rate: expected numbers above zero")
    source = choose_source(settings, arguments.product, arguments.source)
    signer = None
    if isinstance(source, MnsPushSource):
        signer = read_signer(settings.sources[source.name], arguments.signing_key or Path(KEY_FILE))
    base = arguments.to or f"http://127.0.0.1:{settings.server.port}"
    expected = range(400, 500) if arguments.forge or arguments.stale else range(200, 300)
    answers = Answers(expected, as_json=arguments.json)
    is_interrupted = False
    try:
        asyncio.run(send_all(arguments, source, signer, base, answers))
    except KeyboardInterrupt:
        is_interrupted = True
    answers.finish(is_interrupted=is_interrupted)
    if is_interrupted:
        return 130
    return 0 if answers.are_as_expected else 1


def check_options(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: One has no meaning for this product, or no form that could be right.
    """
    if arguments.product != "mts":
        for option, value in (("--format", arguments.format), ("--signing-key", arguments.signing_key)):
            if value is not None:
                raise UsageError(f"{option}: expected with mts alone, which is pushed by MNS")
    if arguments.to is not None and split_url(arguments.to) is None:
        raise UsageError(
            f"--to: expected http:// or https:// with a host, such as http://127.0.0.1:8080; came"
            f" {printable(arguments.to)}"
        )
    job_id = arguments.job_id
    if job_id and arguments.product == "multimediaai" and not re.fullmatch(r"[1-9][0-9]{0,18}", job_id):
        raise UsageError(
            f"--job-id: expected a number of at most 19 digits, as ids of these tasks are; came {printable(job_id)}"
        )


def run_cloud(arguments: argparse.Namespace) -> int:
    if arguments.event is not None or arguments.list:
        raise UsageError(f"expected no EVENT and no --list together with {CLOUD}")
    given = [option for option, name in _OF_CALLBACKS.items() if getattr(arguments, name)]
    if given:
        raise UsageError(f"{given[0]}: expected without {CLOUD} alone")
    settings = read_settings(arguments)
    path = arguments.signing_key or Path(KEY_FILE)
    if arguments.make_signing_key:
        return make_signing_key(settings, path)
    pushes = [table for table in settings.sources.values() if isinstance(table, MnsPushSourceSettings)]
    signers = [read_signer(table, path) for table in pushes]
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
    configured = [key for key, table in tables.items() if table.product == product]
    names = configured if name is None else [key for key in configured if key == name]
    if not configured:
        queues = [key for key, table in settings.sources.items() if table.product == product]
        others = ", ".join(f"{key} of {table.product}" for key, table in tables.items())
        remedy = (
            f"sources.{queues[0]} reads a queue: use `simulate {CLOUD}`"
            if queues
            else f"configured are: {others or 'none'}"
        )
        raise ConfigError([f"sources: none of product {product} takes callbacks; {remedy}"])
    if len(names) != 1:
        came = "" if name is None else f", came {printable(name)}"
        known = f"configured are: {', '.join(configured)}{did_you_mean(name, configured)}"
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
        job_id = arguments.job_id if arguments.job_id and not number else make_job_id(arguments.product)
        now = utc_now() - timedelta(seconds=STALE_S if arguments.stale else 0)
        payload = known[event](job_id, now, arguments.fail)
        if not number:
            note_new_fields(payload, arguments.overrides)
        for override in arguments.overrides:
            override_field(payload, override)
        request = build_request(source, signer, payload, now=now, arguments=arguments)
        request = forge(request) if arguments.forge else request
        for _ in range(2 if arguments.duplicate else 1):
            yield job_id, request


def make_job_id(product: str) -> str:
    return str(secrets.randbelow(10**15) + 1) if product == "multimediaai" else secrets.token_hex(16)


def note_new_fields(payload: Json, overrides: Iterable[str]) -> None:
    """What is mistyped would be taken for a field that the vendor does not document."""
    for path, separator, _ in (override.partition("=") for override in overrides):
        if separator and not has_field(payload, path):
            note(f"--set: the message had no field {printable(path)}, and has it now")


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
        return signer.push(source, payload, now=now, push_format=arguments.format or DEFAULT_FORMAT)
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
    arguments: argparse.Namespace, source: CallbackSource, signer: MnsSigner | None, base: str, answers: Answers
) -> None:
    total = arguments.count * (2 if arguments.duplicate else 1)
    requests = build_requests(arguments, source, signer)
    started = time.perf_counter()
    # On a terminal, where answers are shown at the end.
    with showing_progress("sending") if answers.are_drawn and total > 1 else nullcontext() as show:
        async with open_session() as session:
            for number, (job_id, request) in enumerate(requests):
                if arguments.rate:
                    await asyncio.sleep(max(0.0, started + number / arguments.rate - time.perf_counter()))
                answers.add(await send(session, base, job_id, request))
                if show is not None:
                    show(number + 1, total)
