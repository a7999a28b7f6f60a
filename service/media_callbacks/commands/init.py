"""``media-callbacks init``: a first configuration, with every key made, and what to enter at the vendor's."""

import argparse
import base64
import json
import os
import re
import secrets
import string
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.console.output import printable
from media_callbacks.commands.console.parser import CommandParser
from media_callbacks.config.settings import Settings, build_settings
from media_callbacks.config.values import split_url
from media_callbacks.model.kinds import PRODUCTS, Product

CONFIG_FILE, ENVIRONMENT_FILE = "media-callbacks.toml", "media-callbacks.env"
# The first one is what is taken where nobody says otherwise.
TRANSPORTS: Mapping[Product, Sequence[str]] = {
    "vod": ("http", "mns-queue"),
    "ims": ("http", "mns-queue"),
    "mts": ("mns-push", "mns-queue"),
    "multimediaai": ("token-url",),
}
# The key that says where to, by kind of sink.
_DESTINATIONS = {
    "stdout": None,
    "webhook": "url",
    "sqs": "queue_url",
    "sns": "topic_arn",
    "eventbridge": "event_bus_name",
    "kinesis": "stream_name",
    "mns-queue": "queue",
    "mns-topic": "topic",
    "aliyun-eventbridge": "event_bus",
    "kafka": "brokers",
    "nats": "servers",
    "rabbitmq": "servers",
}
# What is sent to with the vendor's credentials, at an endpoint: what follows it in a URL, and what it needs.
_ALIYUN: Mapping[str, tuple[str, str]] = {
    "mns-queue": ("queues/", "mns:BatchSendMessage"),
    "mns-topic": ("topics/", "mns:PublishMessage"),
    "aliyun-eventbridge": ("", "eventbridge:PutEvents"),
}
_AWS_COMMENTS = ('region = "eu-west-1"', 'endpoint_url = "http://127.0.0.1:4566"')
# What may be said besides, by kind of sink.
_SINK_COMMENTS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("sqs", "sns", "eventbridge", "kinesis"), _AWS_COMMENTS),
    "rabbitmq": ('routing_key = "{type}"', 'virtual_host = "/"', 'ca_file = "/etc/ssl/bus.pem"'),
    "kafka": ("tls = true", 'user = "media-callbacks"', 'password = "${KAFKA_PASSWORD}"'),
    "nats": ('subject = "media.{product}.{kind}.{outcome}"', 'credentials_file = "/run/secrets/media.creds"'),
}
# Sources and variables that are not called as their product is.
_NAMES: Mapping[Product, str] = {"multimediaai": "gif"}
_SINKS = (
    "stdout, webhook:https://..., sqs:QUEUE_URL, sns:TOPIC_ARN, eventbridge:BUS, kinesis:STREAM, mns-queue:URL,"
    " mns-topic:URL, aliyun-eventbridge:URL, kafka:HOST:PORT, nats:URL or rabbitmq:URL"
)
_QUEUE = re.compile(r"(https?://[^/]+)/(?:queues/)?([A-Za-z0-9-]+)/?")
_REGION = re.compile(r"\.(?:mns|eventbridge)\.([a-z0-9-]+?)(?:-internal|-vpc)?\.aliyuncs\.com")


def add_options(parser: CommandParser) -> None:
    parser.examples = (
        "media-callbacks init",
        "media-callbacks init --product vod --url https://cb.example.com --sink webhook:https://orders.example.com/media",
    )
    parser.description = (
        f"Writes {CONFIG_FILE}, which holds no secret, and {ENVIRONMENT_FILE}, which holds all of them, and says what"
        " to enter at the vendor's. On a terminal it asks for what the options leave out."
    )
    parser.add_argument(
        "--product", action="append", choices=PRODUCTS, help="what to receive; may be given several times"
    )
    parser.add_argument(
        "--transport",
        choices=sorted({transport for several in TRANSPORTS.values() for transport in several}),
        help="how callbacks come (default: http for vod and ims, mns-push for mts, token-url for multimediaai)",
    )
    parser.add_argument("--url", help="where the vendor reaches this service, such as https://cb.example.com")
    parser.add_argument(
        "--queue",
        metavar="URL",
        action="append",
        help="of mns-queue, for each product in turn: https://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME",
    )
    parser.add_argument("--topic", metavar="OWNER/NAME", help="of mns-push: the owner's account id and the topic")
    parser.add_argument("--region", metavar="NAME", help="of mns-push: the topic's, such as cn-shanghai")
    parser.add_argument(
        "--sink", metavar="KIND[:WHERE]", action="append", help=f"where events go: {_SINKS}; may be given several times"
    )
    parser.add_argument(
        "--store", metavar="URL", help="sqlite:///FILE or postgresql://... (default: sqlite:///media-callbacks.db)"
    )
    parser.add_argument("--dir", metavar="PATH", type=Path, default=Path(), help="where to write (default: here)")
    parser.add_argument("--force", action="store_true", help="write over both files; keys that are in use are lost")
    parser.add_argument("--yes", action="store_true", help="don't ask: take what is usual for what is left out")
    parser.set_defaults(run=run)


@dataclass(slots=True)
class Draft:
    """
    Attributes:
        lines: Of the configuration.
        variables: The secrets, by the name under which the configuration has them.
        steps: What to enter at the vendor's.
    """

    lines: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    def table(self, name: str, values: Mapping[str, object], *, comments: Sequence[str] = ()) -> None:
        """``comments``: keys that some need, with what is usual for them."""
        # JSON's strings, numbers and lists of strings are TOML's.
        self.lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.lines += [f"# {comment}" for comment in comments]

    def secret(self, name: str, value: str) -> str:
        self.variables[name] = value
        return f"${{{name}}}"


def run(arguments: argparse.Namespace) -> int:
    config, environment = (arguments.dir / name for name in (CONFIG_FILE, ENVIRONMENT_FILE))
    there = [str(path) for path in (config, environment) if os.path.lexists(path)]
    if there and not arguments.force:
        raise UsageError(f"{' and '.join(there)}: there already; name another --dir, or write over with --force")
    complete(arguments)
    draft = draft_configuration(arguments)
    text = "\n".join(["# Secrets are in " + ENVIRONMENT_FILE + ", beside this file.", *draft.lines, ""])
    # Before anything is written: what was typed may be wrong.
    settings = build_settings(tomllib.loads(text), environ=draft.variables)
    try:
        arguments.dir.mkdir(parents=True, exist_ok=True)
        write(config, text, 0o644)
        write(environment, render_environment(draft.variables), 0o600)
    except OSError as error:
        raise UsageError(f"--dir: cannot write to {printable(arguments.dir)}: {error.strerror}") from error
    for line in describe(arguments, settings, draft):
        print(line)
    return 0


# What is asked for


def complete(arguments: argparse.Namespace) -> None:
    """
    Fill in what the options leave out: by asking, where there is somebody to ask.

    Raises:
        UsageError: Something is missing, or does not fit.
    """
    can_ask = not arguments.yes and sys.stdin.isatty() and sys.stdout.isatty()
    missing = []

    def need(name: str, question: str) -> None:
        if getattr(arguments, name):
            return
        answer = ask(question) if can_ask else None
        if answer is None:
            missing.append(f"--{name}: {question}")
        setattr(arguments, name, answer)

    if can_ask and not arguments.product:
        arguments.product = re.split(r"[\s,]+", ask(f"which products ({', '.join(PRODUCTS)})", "vod"))
    if not arguments.product:
        missing.append(f"--product: {', '.join(PRODUCTS)}")
    products = arguments.product = list(dict.fromkeys(arguments.product or ()))
    if unknown := [product for product in products if product not in PRODUCTS]:
        raise UsageError(f"--product: expected some of {', '.join(PRODUCTS)}; came {printable(unknown[0])}")
    if can_ask and arguments.transport is None and len(products) == 1 and len(TRANSPORTS[products[0]]) > 1:
        known = TRANSPORTS[products[0]]
        arguments.transport = ask(f"how do callbacks come ({', '.join(known)})", known[0])
    for product in products:
        if arguments.transport is not None and arguments.transport not in TRANSPORTS[product]:
            raise UsageError(
                f"--transport: expected {' or '.join(TRANSPORTS[product])} for {product}, came"
                f" {printable(arguments.transport)}"
            )
    transports = [arguments.transport or TRANSPORTS[product][0] for product in products]
    if set(transports) - {"mns-queue"}:
        need("url", "where the vendor reaches this service, such as https://cb.example.com")
    if "mns-push" in transports:
        need("topic", "the MNS topic of the pushes, OWNER/NAME, such as 1234567890123456/mts-done")
    if queues := transports.count("mns-queue"):
        given = list(arguments.queue or ())
        of_queues = [name for name, transport in zip(products, transports, strict=True) if transport == "mns-queue"]
        for product in of_queues[len(given) :]:
            question = f"the MNS queue of {product}, https://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME"
            if can_ask:
                given.append(ask(question))
            else:
                missing.append(f"--queue: {question}")
        arguments.queue = given
        if len(given) > queues:
            raise UsageError(f"--queue: expected {queues}, came {len(given)}")
    if not arguments.sink:
        if can_ask:
            arguments.sink = re.split(r"[\s,]+", ask(f"where do events go ({_SINKS})", "stdout"))
        elif arguments.yes:
            arguments.sink = ["stdout"]
        else:
            missing.append(f"--sink: {_SINKS}")
    arguments.store = arguments.store or "sqlite:///media-callbacks.db"
    if missing:
        raise UsageError("missing " + "; ".join(missing))


def ask(question: str, usual: str | None = None) -> str:
    """Until there is an answer."""
    while True:
        answer = input(f"{question}{'' if usual is None else f' [{usual}]'}: ").strip() or usual
        if answer:
            return answer


# What is written


def draft_configuration(arguments: argparse.Namespace) -> Draft:
    draft = Draft()
    store = arguments.store
    if "@" in store:
        store = draft.secret("STORE_URL", store.replace("'", "%27"))
    draft.table("store", {"url": store})
    tokens = {name: draft.secret(name.upper(), secrets.token_hex(32)) for name in ("admin_token", "jobs_token")}
    draft.table("server", {}, comments=("port = 8080",))
    draft.table(
        "admin", {"token": tokens["admin_token"], "jobs_token": tokens["jobs_token"]}, comments=("port = 8081",)
    )
    queues = iter(arguments.queue or ())
    regions = set()
    for product in arguments.product:
        transport = arguments.transport or TRANSPORTS[product][0]
        values: dict[str, object] = {"product": product, "transport": transport}
        if transport == "mns-queue":
            endpoint, queue, region = read_queue(next(queues))
            values |= {"endpoint": endpoint, "queue": queue}
            regions.add(region)
            draft.steps.append(f"{product}: have its messages written to the queue {queue}")
        else:
            values |= draft_entrance(draft, product, transport, arguments)
        draft.table(f"sources.{_NAMES.get(product, product)}", values)
    may = ["read the queue"] if regions else []
    for kind, _, where in (sink.partition(":") for sink in arguments.sink):
        if kind in _ALIYUN:
            regions.add(read_destination(kind, where)[2])
            may.append(f"send ({_ALIYUN[kind][1]})")
    if len(regions) > 1:
        raise UsageError(f"--queue and --sink: expected one region, came {', '.join(sorted(regions))}")
    for region in regions:
        draft.table("vendor.main", {"region": region})
        draft.steps.append(
            f"put a key of a RAM user that may {' and '.join(dict.fromkeys(may))} into the environment file:"
            " ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET"
        )
    draft_sinks(draft, arguments.sink)
    return draft


def draft_entrance(draft: Draft, product: Product, transport: str, arguments: argparse.Namespace) -> dict[str, object]:
    """A path, the URL that leads there, and what proves the sender."""
    parts = split_url(arguments.url)
    if parts is None or parts.query or parts.fragment:
        raise UsageError("--url: expected http:// or https:// with a host and neither query nor fragment")
    base = arguments.url.rstrip("/")
    prefix = urlsplit(base).path
    name = _NAMES.get(product, product)
    variable = name.upper()
    folder = f"{prefix.removesuffix('/callbacks')}/callbacks/{name}"
    if transport == "token-url":
        # Its URLs are minted, and have to be short.
        key = draft.secret(f"{variable}_URL_KEY", base64.b64encode(secrets.token_bytes(32)).decode())
        draft.steps.append(f"{product}: mint a CallbackUrl for each task: media-callbacks mint gif --help")
        return {"path": folder, "url": base.removesuffix(prefix) + folder, "keys": [f"1:{key}"]}
    segment = secrets.token_hex(16)
    path = f"{folder}/" + draft.secret(f"{variable}_PATH", segment)
    url = base.removesuffix(prefix) + path
    shown = url.replace(f"${{{variable}_PATH}}", segment)
    if transport == "mns-push":
        draft.steps.append(
            f"{product}: subscribe the topic {arguments.topic} by HTTP to {shown}, in any of the three formats, to be"
            " tried again by EXPONENTIAL_DECAY_RETRY"
        )
        values: dict[str, object] = {"path": path, "url": url, "topics": [arguments.topic]}
        if arguments.region:
            return values | {"regions": [arguments.region]}
        draft.steps.append(f'{product}: and name the region of that topic in [sources.{name}]: regions = ["..."]')
        return values
    key = make_vendor_key()
    draft.steps.append(f"{product}: as callback URL, byte for byte: {shown}")
    draft.steps.append(f"{product}: as authentication key: {key}")
    return {"path": path, "url": url, "keys": [draft.secret(f"{variable}_KEY", key)]}


def make_vendor_key() -> str:
    """As the consoles of VOD and IMS take it: at most 32 letters and digits, some of each sort."""
    alphabet = string.ascii_letters + string.digits
    while True:
        key = "".join(secrets.choice(alphabet) for _ in range(32))
        if re.search("[a-z]", key) and re.search("[A-Z]", key) and re.search("[0-9]", key):
            return key


def draft_sinks(draft: Draft, sinks: Sequence[str]) -> None:
    names = [name_sink(sink) for sink in sinks]
    for number, sink in enumerate(sinks):
        kind, _, where = sink.partition(":")
        if kind not in _DESTINATIONS or (_DESTINATIONS[kind] is None) != (where == ""):
            raise UsageError(f"--sink: expected {_SINKS}; came {printable(sink)}")
        name = names[number] if names.count(names[number]) == 1 else f"{names[number]}-{number + 1}"
        values: dict[str, object] = {"kind": kind}
        if kind in _ALIYUN:
            values["endpoint"], where, _ = read_destination(kind, where)
        if key := _DESTINATIONS[kind]:
            values[key] = where
        if kind == "webhook":
            variable = f"{name.upper().replace('-', '_')}_SECRET"
            secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
            values["secrets"] = [draft.secret(variable, secret)]
            draft.steps.append(f"the receiver at {where} verifies with {variable} of the environment file")
        if kind == "rabbitmq":
            variable = f"{name.upper().replace('-', '_')}_PASSWORD"
            user, exchange = "media-callbacks", "media"
            values |= {"user": user, "password": draft.secret(variable, secrets.token_hex(16)), "exchange": exchange}
            draft.steps.append(
                f"RabbitMQ has an exchange {exchange}, and a user {user} who may write to it, with {variable} of the"
                " environment file as password"
            )
        if kind == "kafka":
            draft.steps.append("Kafka has a topic media, which neither the service nor a broker makes by itself")
        if kind == "nats":
            draft.steps.append("NATS has a stream of JetStream that takes the subjects media.>")
        draft.table(f"sinks.{name}", values, comments=_SINK_COMMENTS.get(kind, ()))


def name_sink(sink: str) -> str:
    """Of a receiver the first part of its host, such as ``orders``; else the kind."""
    kind, _, where = sink.partition(":")
    host = split_url(where) if kind == "webhook" else None
    label, _, rest = (host.hostname or "").partition(".") if host else ("", "", "")
    return label if rest and re.fullmatch("[a-z][a-z0-9-]*", label) else kind


def read_queue(url: str) -> tuple[str, str, str]:
    """Endpoint, name and region."""
    found, region = _QUEUE.fullmatch(url), _REGION.search(url)
    if found is None or region is None:
        raise UsageError(
            f"--queue: expected https://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME; came {printable(url)}"
        )
    return found[1], found[2], region[1]


def read_destination(kind: str, url: str) -> tuple[str, str, str]:
    """Endpoint, name and region."""
    folder, _ = _ALIYUN[kind]
    found, region = re.fullmatch(rf"(https?://[^/]+)/{folder}([A-Za-z0-9-]+)/?", url), _REGION.search(url)
    if found is None or region is None:
        service = "eventbridge" if kind == "aliyun-eventbridge" else "mns"
        raise UsageError(
            f"--sink: expected {kind}:https://ACCOUNT.{service}.REGION.aliyuncs.com/{folder}NAME; came {printable(url)}"
        )
    return found[1], found[2], region[1]


def render_environment(variables: Mapping[str, str]) -> str:
    # In single quotes a shell and systemd read it alike.
    lines = [f"{name}='{value}'" for name, value in variables.items()]
    return "\n".join(["# Secrets: keep this file to the service's user.", *lines, ""])


def write(path: Path, text: str, mode: int) -> None:
    # Never into a file that is there, whose mode and owner would stay.
    path.unlink(missing_ok=True)
    path.touch(mode, exist_ok=False)
    path.write_text(text, "utf-8")


# What is said


def describe(arguments: argparse.Namespace, settings: Settings, draft: Draft) -> Iterator[str]:
    yield f"written: {arguments.dir / CONFIG_FILE}, and its secrets to {arguments.dir / ENVIRONMENT_FILE}"
    yield from (f"warning: {warning}" for warning in settings.warnings)
    yield "the configuration is right"
    yield ""
    yield "to enter at the vendor's and at your receivers:"
    yield from (f"  {step}" for step in draft.steps)
    yield ""
    yield "to start it:"
    if arguments.dir != Path():
        yield f"  cd {arguments.dir}"
    yield f"  set -a; . ./{ENVIRONMENT_FILE}; set +a"
    yield "  media-callbacks check"
    yield "  media-callbacks serve"
    yield ""
    yield "to send a first callback, in another shell with the same environment:"
    transports = {source.transport for source in settings.sources.values()}
    if "mns-push" in transports:
        yield "  media-callbacks simulate mts --make-signing-key   # prints a variable, for both shells"
    yield from (f"  media-callbacks simulate {source.product}" for source in settings.callback_sources.values())
    if "mns-queue" in transports:
        yield "  media-callbacks simulate cloud"
