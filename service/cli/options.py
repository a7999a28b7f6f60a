"""Options that several commands have."""

import argparse
import os

from service.settings import Settings, load_settings


class UsageError(Exception):
    """The command line asks for what can't be: the option, what was expected, what came."""


def add_config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="PATH",
        help="configuration file (default: $MEDIA_CALLBACKS_CONFIG, else ./media-callbacks.toml)",
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line, instead of a table")


def read_settings(arguments: argparse.Namespace) -> Settings:
    """
    Raises:
        ConfigError: With every mistake found.
    """
    return load_settings(arguments.config, environ=os.environ)
