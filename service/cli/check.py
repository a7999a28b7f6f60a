"""``media-callbacks check``: read the configuration and say everything that is wrong or deserves a look."""

import argparse
import json
import sys
from typing import Any

from service.cli.options import add_config_option, add_json_option, read_settings
from service.errors import ConfigError
from service.sinks.registry import build_sinks


def add_command(commands: Any) -> None:
    parser = commands.add_parser("check", help="check the configuration")
    add_config_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    findings: list[dict[str, str]] = []
    try:
        settings = read_settings(arguments)
    except ConfigError as error:
        findings += [{"severity": "error", "finding": problem} for problem in error.problems]
    else:
        findings += [{"severity": "warning", "finding": warning} for warning in settings.warnings]
        try:
            build_sinks(settings.sinks)
        except ConfigError as error:
            findings += [{"severity": "error", "finding": problem} for problem in error.problems]
    failed = any(finding["severity"] == "error" for finding in findings)
    for finding in findings:
        print(json.dumps(finding) if arguments.json else f"{finding['severity']}: {finding['finding']}")
    if not arguments.json:
        print("the configuration is wrong" if failed else "the configuration is right", file=sys.stderr)
    return 1 if failed else 0
