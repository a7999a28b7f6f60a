"""``media-callbacks check``: the configuration, and whether what it names can be reached and used from here."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence

from media_callbacks.assembly.sinks import build_sinks
from media_callbacks.commands.check.probes import try_out
from media_callbacks.commands.console.options import add_config_option, add_json_option, read_settings
from media_callbacks.commands.console.output import printable
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.config.settings import Settings
from media_callbacks.config.tracing import read_tracing
from media_callbacks.model.check_results import CheckResult, Severity
from media_callbacks.model.errors import ConfigError


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks check",
        "media-callbacks check --offline --json",
    )
    parser.description = (
        "Reads the configuration; then looks whether the store, the journal, the sinks, the vendor's"
        " certificate, queues and job APIs can be reached and used from here, and whether the clock is right. Queues,"
        " topics, buses and streams are asked for; a webhook gets a connection and no request. Nothing is sent,"
        " received or changed. Exit code 1 when something failed, 2 when the configuration is wrong; warnings"
        " alone are 0."
    )
    parser.add_argument("--offline", action="store_true", help="check the configuration alone")
    add_config_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    try:
        settings = read_settings(arguments)
        # What third parties' sinks have to say of their tables.
        build_sinks(settings.sinks, settings.vendor)
        read_tracing(os.environ)
    except ConfigError as error:
        findings = [_of_sentence("error", problem) for problem in error.problems]
        code, verdict = 2, "the configuration is wrong"
    else:
        findings = [_of_sentence("warning", warning) for warning in settings.warnings]
        code, verdict = 0, "the configuration is right"
        if not arguments.offline:
            findings += _try_out(settings)
            count = sum(finding.severity == "error" for finding in findings)
            code = 1 if count else 0
            verdict += f", {count} check{'s' * (count > 1)} failed" if count else ", and all that was tried worked"
    report(findings, as_json=arguments.json)
    if not arguments.json:
        print(verdict, file=sys.stderr)
    return code


def _of_sentence(severity: Severity, sentence: str) -> CheckResult:
    """What the configuration says of itself: key path and sentence, the remedy within."""
    subject, _, text = sentence.partition(": ")
    return CheckResult(severity, subject, text)


def _try_out(settings: Settings) -> list[CheckResult]:
    # Here: `serve` looks at a store with what is in this folder, and has no terminal to draw on.
    from rich.console import Console  # noqa: PLC0415

    with Console(stderr=True).status("trying out what the configuration names"):
        return asyncio.run(try_out(settings))


def report(findings: Sequence[CheckResult], *, as_json: bool) -> None:
    for finding in findings:
        if as_json:
            said = f"{finding.subject}: {finding.text}"
            print(json.dumps({"severity": finding.severity, "finding": said, "remedy": finding.remedy}))
        else:
            print(printable(f"{finding.severity}: {finding.line}"))
