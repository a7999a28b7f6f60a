"""``media-callbacks explain FILE``: verify a captured request step by step, and say what went wrong."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from rich.console import Console
from rich.text import Text

from media_callbacks.assembly.sources import build_source
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.options import add_config_option, add_json_option, read_settings
from media_callbacks.commands.console.output import printable
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.config.settings import Settings
from media_callbacks.config.sources import MnsPushSourceSettings
from media_callbacks.edge.certificates import read_certificate
from media_callbacks.explain.captured_request import UnreadableRequest, read_captured_request
from media_callbacks.explain.case import Explanation, Status, Surroundings
from media_callbacks.explain.explaining import UnknownSource, explain
from media_callbacks.model.errors import BadSignature
from media_callbacks.model.suggestions import did_you_mean
from media_callbacks.model.times import format_time
from media_callbacks.sources.transports.mns_push import parse_certificate_url
from media_callbacks.timing.clock import utc_now

# A body may have up to 64 MiB, and a capture is little more.
MAX_FILE_BYTES = 80 << 20


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks explain request.txt",
        "media-callbacks explain - --source vod --at 2026-11-20T08:30:00Z",
    )
    parser.description = (
        "Verify a captured request step by step. Exit code 0: genuine, and would be accepted; 1: refused,"
        " unparsed or not decided; 2: wrong usage, or a file that holds no request."
    )
    add_config_option(parser)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="HTTP text (request line, headers, empty line, body) or a curl command; - for stdin",
    )
    parser.add_argument("--source", metavar="NAME", help="instead of the source that the request is meant for")
    parser.add_argument(
        "--at",
        metavar="TIME",
        help="when the request came, to judge freshness at: 2026-01-02T03:04:05Z (without zone: UTC), a Date header, or"
        " UNIX seconds (default: now)",
    )
    parser.add_argument(
        "--certificate", metavar="FILE", help="PEM certificate to check an MNS push with; none is ever fetched"
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    now = utc_now() if arguments.at is None else read_time(arguments.at)
    certificate = None if arguments.certificate is None else read_key(Path(arguments.certificate))
    raw = read_file(arguments.file)
    try:
        captured = read_captured_request(raw)
    except UnreadableRequest as error:
        raise UsageError(f"{arguments.file}: {error}") from error
    settings = read_settings(arguments)
    around = surroundings(settings, now=now, is_arrival_known=arguments.at is not None, certificate=certificate)
    try:
        explanation = explain(captured, around, source_name=arguments.source)
    except UnknownSource as error:
        known = settings.callback_sources
        came = f"came {printable(arguments.source)}{did_you_mean(arguments.source, known)}"
        raise UsageError(f"--source: expected one of {', '.join(known)}; {came}") from error
    if arguments.json:
        print(json.dumps(as_json(explanation), ensure_ascii=True))
    else:
        report(explanation)
    return 0 if explanation.verdict.state == "accepted" else 1


def surroundings(
    settings: Settings, *, now: datetime, is_arrival_known: bool, certificate: RSAPublicKey | None
) -> Surroundings:
    """The configuration, as explanations need it."""
    pinned: dict[str, dict[str, RSAPublicKey]] = {}
    for name, table in settings.callback_sources.items():
        if isinstance(table, MnsPushSourceSettings) and table.certificates:
            keys: dict[str, RSAPublicKey] = {}
            pinned[name] = keys
            for url, pem in table.certificates.items():
                parsed = parse_certificate_url(url)
                keys[parsed[1] if parsed else url] = read_certificate(pem.encode()).public_key
    return Surroundings(
        sources=[build_source(name, table) for name, table in settings.callback_sources.items()],
        now=now,
        is_arrival_known=is_arrival_known,
        pinned=pinned,
        certificate=certificate,
        max_body_bytes=settings.server.max_body_bytes,
    )


# What is read


def read_file(name: str) -> bytes:
    """
    Raises:
        UsageError: It can't be read, or is larger than any request.
    """
    try:
        if name == "-":
            raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise UsageError(f"FILE: cannot read {name} ({reason})") from error
    if len(raw) > MAX_FILE_BYTES:
        raise UsageError(f"FILE: expected at most {MAX_FILE_BYTES} bytes, found more")
    return raw


def read_key(path: Path) -> RSAPublicKey:
    """
    Raises:
        UsageError: There is no certificate with an RSA key in the file.
    """
    try:
        return read_certificate(path.read_bytes()).public_key
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise UsageError(f"--certificate: cannot read {path} ({reason})") from error
    except BadSignature as error:
        raise UsageError(f"--certificate: {path}: {error}") from error


def read_time(text: str) -> datetime:
    """
    Raises:
        UsageError: It is not a point in time.
    """
    try:
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
            return datetime.fromtimestamp(float(text), UTC)
        if re.match(r"[A-Za-z]{3}, ", text):
            moment = parsedate_to_datetime(text)
        else:
            moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            "--at: expected a time such as 2026-01-02T03:04:05Z or UNIX seconds, came another text"
        ) from error


# What is written


def as_json(explanation: Explanation) -> dict[str, Any]:
    fields = asdict(explanation)
    fields["judged_at"] = format_time(explanation.judged_at)
    fields["events"] = [json.loads(event.to_json()) for event in explanation.events]
    return fields


_MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("ok  ", "green"),
    "failed": ("FAIL", "bold red"),
    "not checked": ("--  ", "yellow"),
    "note": ("note", "cyan"),
}


def report(explanation: Explanation) -> None:
    """With colours on a terminal, as plain lines in a pipe."""
    console = Console() if sys.stdout.isatty() else None
    for text, style in lines_of(explanation):
        if console is None:
            print(
                text.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8")
            )
        else:
            console.print(Text(text, style=style), soft_wrap=True)


def lines_of(explanation: Explanation) -> Iterator[tuple[str, str]]:
    """Each line with its style."""
    yield f"request  {explanation.request}", "bold"
    at = format_time(explanation.judged_at)
    known = "" if explanation.is_arrival_known else " (now: the file does not say when it came; give --at)"
    yield f"judged   at {at}{known}", ""
    for note in explanation.notes:
        yield f"file     {note}", "cyan"
    yield "", ""
    width = max((len(step.name) for step in explanation.steps), default=0)
    for step in explanation.steps:
        mark, style = _MARKS[step.status]
        came = step.came or ""
        if step.expected is not None and step.status != "ok":
            yield f"{mark}  {step.name:<{width}}  expected {step.expected}", style
            yield f"      {'':<{width}}  came     {came}", style
        else:
            yield f"{mark}  {step.name:<{width}}  {came}", style if step.status != "ok" else ""
        for line in step.lines:
            yield f"      {'':<{width}}    {line}", "dim"
    if explanation.findings:
        yield "", ""
        yield "what explains this", "bold"
    for finding in explanation.findings:
        yield f"  {finding.cause}: {finding.text}", "yellow"
        yield f"    do: {finding.remedy}", ""
    yield "", ""
    yield from _event_lines(explanation)
    verdict = explanation.verdict
    answer = f", answered with {verdict.answer}" if verdict.answer is not None else ""
    reason = f" ({verdict.reason})" if verdict.reason else ""
    style = "bold green" if verdict.state == "accepted" else "bold red"
    yield f"{verdict.state}{answer}{reason}: {verdict.text}", style


def _event_lines(explanation: Explanation) -> Iterator[tuple[str, str]]:
    is_accepted = explanation.verdict.state == "accepted"
    if explanation.events:
        yield "events" if is_accepted else "events that it would give if it were accepted", "bold"
    for event in explanation.events:
        for line in json.dumps(json.loads(event.to_json()), indent=2, ensure_ascii=True).splitlines():
            yield f"  {line}", ""
    for warning in explanation.warnings:
        # Paths of fields, whose names are the sender's.
        yield f"  not understood: {warning.encode('unicode_escape').decode('ascii')}", "yellow"
    if explanation.unparsed is not None:
        yield f"no event: {explanation.unparsed}", "yellow"
    if explanation.events or explanation.warnings or explanation.unparsed is not None:
        yield "", ""
