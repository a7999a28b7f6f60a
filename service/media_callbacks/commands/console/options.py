"""Options that several commands have."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.output import printable

if TYPE_CHECKING:
    from media_callbacks.config.server import AdminSettings
    from media_callbacks.config.settings import Settings


def add_config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="PATH",
        help="configuration file (default: $MEDIA_CALLBACKS_CONFIG, else ./media-callbacks.toml, else"
        " /etc/media-callbacks/media-callbacks.toml)",
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line, instead of a table")


def read_settings(arguments: argparse.Namespace) -> "Settings":
    """
    Raises:
        ConfigError: With every mistake found.
    """
    # Here: every command has these options, and with --url most of them read no configuration.
    from media_callbacks.config.settings import load_settings  # noqa: PLC0415

    return load_settings(arguments.config, environ=os.environ)


def read_admin_settings(arguments: argparse.Namespace, *, with_token: bool) -> "AdminSettings":
    """
    Raises:
        ConfigError: As ``load_admin`` does.
    """
    from media_callbacks.config.settings import load_admin  # noqa: PLC0415

    return load_admin(arguments.config, environ=os.environ, with_token=with_token)


def read_secret_file(option: str, path: str) -> str:
    """
    Raises:
        UsageError: It can't be read, or is empty.
    """
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"{option}: cannot read {printable(path)} ({reason})") from error
    if not text:
        raise UsageError(f"{option}: {printable(path)} is empty")
    return text
