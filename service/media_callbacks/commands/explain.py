"""``media-callbacks explain FILE``: verify a captured request step by step, and say what went wrong."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from rich.console import Console
from rich.text import Text

from media_callbacks.commands.console.admin_client import add_admin_options, run_with_client
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.explanation import finding_lines, step_lines
from media_callbacks.commands.console.options import add_json_option, read_settings
from media_callbacks.commands.console.output import printable
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.commands.refused import show_last
from media_callbacks.edge.certificates import read_certificate
from media_callbacks.explain.captured_request import UnreadableRequest, read_captured_request
from media_callbacks.explain.explaining import UnknownSource, as_json, explain
from media_callbacks.explain.surroundings import surroundings
from media_callbacks.model.errors import BadSignature
from media_callbacks.model.suggestions import did_you_mean
from media_callbacks.timing.clock import utc_now

# A body may have up to 64 MiB, and a capture is little more.
MAX_FILE_BYTES = 80 << 20


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks explain --last-refused --text 3af7e9705cb24c0f9d23231d4c371900",
        "media-callbacks explain request.txt",
        "media-callbacks explain - --source vod --at 2026-11-20T08:30:00Z",
    )
    parser.description = (
        "Verify a captured request step by step. Exit code 0: genuine, and would be accepted; 1: refused,"
        " unparsed or not decided; 2: wrong usage, or a file that holds no request."
    )
    add_admin_options(parser)
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="HTTP text (request line, headers, empty line, body) or a curl command; - for stdin",
    )
    parser.add_argument(
        "--last-refused",
        action="store_true",
        help="explain the request that the running service refused last, as it kept it; with --source of that source,"
        " with --text of those in which this stands; media-callbacks refused list has them all",
    )
    parser.add_argument("--text", metavar="TEXT", help="with --last-refused: a job id, user data, or other text")
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
    if arguments.last_refused:
        if given := [name for name in ("file", "at", "certificate") if getattr(arguments, name) is not None]:
            name = "FILE" if given[0] == "file" else f"--{given[0]}"
            raise UsageError(f"{name}: expected a file or --last-refused, came both")
        return run_with_client(arguments, show_last)
    if arguments.text is not None:
        raise UsageError("--text: only together with --last-refused")
    if arguments.file is None:
        raise UsageError("expected FILE, - for stdin, or --last-refused")
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
        report(lines_of(as_json(explanation)))
    return 0 if explanation.verdict.state == "accepted" else 1


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


def report(lines: Iterable[tuple[str, str]]) -> None:
    """With colours on a terminal, as plain lines in a pipe."""
    console = Console() if sys.stdout.isatty() else None
    encoding = sys.stdout.encoding or "utf-8"
    for text, style in lines:
        if console is None:
            print(text.encode(encoding, "backslashreplace").decode(encoding))
        else:
            console.print(Text(text, style=style), soft_wrap=True)


def lines_of(explanation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each line with its style, of an explanation in values of JSON."""
    yield f"request  {explanation['request']}", "bold"
    known = "" if explanation["is_arrival_known"] else " (now: the file does not say when it came; give --at)"
    yield f"judged   at {explanation['judged_at']}{known}", ""
    for text in explanation["notes"]:
        yield f"file     {text}", "cyan"
    yield "", ""
    yield from step_lines(explanation["steps"])
    if explanation["findings"]:
        yield "", ""
        yield from finding_lines(explanation["findings"])
    yield "", ""
    yield from _event_lines(explanation)
    yield verdict_line(explanation["verdict"])


def verdict_line(verdict: Mapping[str, Any]) -> tuple[str, str]:
    answer = f", answered with {verdict['answer']}" if verdict["answer"] is not None else ""
    reason = f" ({verdict['reason']})" if verdict["reason"] else ""
    style = "bold green" if verdict["state"] == "accepted" else "bold red"
    return f"{verdict['state']}{answer}{reason}: {verdict['text']}", style


def _event_lines(explanation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    is_accepted = explanation["verdict"]["state"] == "accepted"
    if explanation["events"]:
        yield "events" if is_accepted else "events that it would give if it were accepted", "bold"
    for event in explanation["events"]:
        for line in json.dumps(event, indent=2, ensure_ascii=True).splitlines():
            yield f"  {line}", ""
    for warning in explanation["warnings"]:
        # Paths of fields, whose names are the sender's.
        yield f"  not understood: {warning.encode('unicode_escape').decode('ascii')}", "yellow"
    if explanation["unparsed"] is not None:
        yield f"no event: {explanation['unparsed']}", "yellow"
    if explanation["events"] or explanation["warnings"] or explanation["unparsed"] is not None:
        yield "", ""
