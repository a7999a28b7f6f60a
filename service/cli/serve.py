"""``media-callbacks serve``: run the service until it is told to stop."""

import argparse
import asyncio

import structlog

from service.cli.options import add_config_option, read_settings
from service.logs import configure_logs


def add_options(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments)
    configure_logs(arguments.log_level)
    for warning in settings.warnings:
        structlog.get_logger().warning("configuration", detail=warning)
    # Here, so that the other commands need not load the server.
    import uvloop  # noqa: PLC0415

    from service.server import exit_after, serve  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, stopping=exit_after))
    return 0
