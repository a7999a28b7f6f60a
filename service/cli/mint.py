"""``media-callbacks mint gif``: a CallbackUrl for one CreateGifTask."""

import argparse
import json
import secrets
import time
from typing import Any

from service.app import build_source
from service.cli.options import UsageError, add_config_option, add_json_option, read_settings
from service.errors import ConfigError
from service.settings import Settings
from service.sources.token_url import TokenUrlSource

DEFAULT_DAYS = 7.0


def add_command(commands: Any) -> None:
    parser = commands.add_parser("mint", help="make a signed CallbackUrl")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    gif = what.add_parser("gif", help="for one CreateGifTask")
    add_config_option(gif)
    gif.add_argument("--source", metavar="NAME", help="the token-url source, where there are several")
    gif.add_argument("--application-id", required=True, help="ApplicationId, as you will submit it")
    gif.add_argument("--video-url", required=True, help="VideoUrl, as you will submit it")
    gif.add_argument("--video-name", required=True, help="VideoName without suffix; submit the name that is printed")
    gif.add_argument("--days", type=float, default=DEFAULT_DAYS, help="how long the URL is valid (default: 7)")
    add_json_option(gif)
    gif.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    source = choose_source(read_settings(arguments), arguments.source)
    if not 0 < arguments.days <= 365:
        raise UsageError(f"--days: expected more than 0 and at most 365, came {arguments.days:g}")
    nonce = secrets.token_bytes(12)
    # The name comes back in every query of the job API, which ties the task to this URL without a database.
    video_name = f"{arguments.video_name}#{nonce.hex()}"
    expires_at = int(time.time() + arguments.days * 86400)
    minted = {
        "callback_url": source.mint(
            application_id=arguments.application_id,
            video_url=arguments.video_url,
            video_name=video_name,
            nonce=nonce,
            expires_at=expires_at,
        ),
        "nonce": nonce.hex(),
        "video_name": video_name,
        "expires_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires_at)),
    }
    if arguments.json:
        print(json.dumps(minted))
    else:
        for name, value in minted.items():
            print(f"{name:13} {value}")
    return 0


def choose_source(settings: Settings, name: str | None) -> TokenUrlSource:
    """
    Raises:
        ConfigError: There is no such source, or more than one to choose from.
    """
    built = [build_source(source, table) for source, table in settings.sources.items()]
    found = [source for source in built if isinstance(source, TokenUrlSource) and name in (None, source.name)]
    if len(found) != 1:
        names = ", ".join(source.name for source in built if isinstance(source, TokenUrlSource)) or "none"
        raise ConfigError([f"--source: expected one token-url source, configured are: {names}"])
    return found[0]
