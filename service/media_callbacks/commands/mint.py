"""``media-callbacks mint gif``: a CallbackUrl for one CreateGifTask."""

import argparse
import json
import re
from datetime import timedelta

from media_callbacks.client.minting import MintedUrl, mint_gif
from media_callbacks.commands.console.admin_client import AdminClient, add_admin_options, build_client
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.moments import DEADLINES, read_deadline
from media_callbacks.commands.console.options import add_json_option, read_settings
from media_callbacks.commands.console.output import printable
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.config.settings import Settings
from media_callbacks.config.sources import TokenUrlSourceSettings
from media_callbacks.model.errors import ConfigError
from media_callbacks.model.suggestions import did_you_mean
from media_callbacks.model.times import format_time
from media_callbacks.timing.clock import utc_now

DEFAULT_DAYS = 7.0


def add_options(parser: CommandParser) -> None:
    parser.examples = ("media-callbacks mint gif --help",)
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    gif = what.add_parser("gif", help="for one CreateGifTask")
    gif.examples = (
        "media-callbacks mint gif --application-id d79cca0e --video-url https://media.example.com/1.mp4 --video-name 1",
        "media-callbacks mint gif --application-id d79c --video-url https://h/1.mp4 --video-name 1 --register --days 1",
    )
    gif.add_argument("--source", metavar="NAME", help="the token-url source, where there are several")
    gif.add_argument("--application-id", required=True, help="ApplicationId, as you will submit it")
    gif.add_argument("--video-url", required=True, help="VideoUrl, as you will submit it")
    gif.add_argument("--video-name", required=True, help="VideoName without suffix; submit the name that is printed")
    gif.add_argument("--days", type=float, default=DEFAULT_DAYS, help="how long the URL is valid (default: 7)")
    gif.add_argument(
        "--register",
        action="store_true",
        help="tell the running service to expect the task; bind its TaskId later with: jobs expect multimediaai"
        " animated_image TASK_ID --nonce NONCE",
    )
    gif.add_argument("--deadline", metavar="TIME", help=f"with --register: {DEADLINES}")
    add_admin_options(gif)
    add_json_option(gif)
    gif.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    source = choose_source(read_settings(arguments), arguments.source)
    if not 0 < arguments.days <= 365:
        raise UsageError(f"--days: expected more than 0 and at most 365, came {arguments.days:g}")
    if not re.match(r"[a-z]+://.", arguments.video_url):
        raise UsageError(f"--video-url: expected a URL, scheme included, came {printable(arguments.video_url)}")
    now = utc_now()
    if arguments.deadline is not None and not arguments.register:
        raise UsageError("--deadline: only together with --register")
    deadline = None if arguments.deadline is None else read_deadline(arguments.deadline, now=now)
    minted = mint_gif(
        url=source.url,
        key=source.keys[0],
        application_id=arguments.application_id,
        video_url=arguments.video_url,
        video_name=arguments.video_name,
        expires_at=now + timedelta(days=arguments.days),
    )
    if arguments.register:
        # First: a URL that nobody has seen can be forgotten.
        register(build_client(arguments), minted, account=source.account_name, deadline=deadline)
    printed = {
        "callback_url": minted.callback_url,
        "nonce": minted.nonce,
        "video_name": minted.video_name,
        "expires_at": format_time(minted.expires_at),
    }
    if arguments.json:
        print(json.dumps(printed))
    else:
        for name, value in printed.items():
            print(f"{name:13} {value}")
    return 0


def register(client: AdminClient, minted: MintedUrl, *, account: str, deadline: str | None) -> None:
    job = {
        "product": "multimediaai",
        "family": "animated_image",
        "nonce": minted.nonce,
        "bind": minted.bind,
        "account": account,
    }
    client.post("/v1/jobs", job | ({} if deadline is None else {"deadline": deadline}))


def choose_source(settings: Settings, name: str | None) -> TokenUrlSourceSettings:
    """
    Raises:
        ConfigError: There is no such source, or more than one to choose from.
    """
    configured = {
        source: table for source, table in settings.sources.items() if isinstance(table, TokenUrlSourceSettings)
    }
    found = [table for source, table in configured.items() if name in (None, source)]
    if len(found) != 1:
        names = ", ".join(configured) or "none"
        came = "" if name is None else f", came {printable(name)}"
        hint = did_you_mean(name, configured)
        raise ConfigError([f"--source: expected one token-url source{came}, configured are: {names}{hint}"])
    return found[0]
