"""
The kinds of values that settings have, each with the rule that it must keep and what the operator is told of it.

A rule that has more to say than "expected this, came that" raises a sentence for the operator. None of them holds the
value: it may be a secret, or have one in it. What a sentence says of a bound is made of that bound.
"""

import base64
import binascii
import re
from functools import partial
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from media_callbacks.config.problems import SENTENCE
from media_callbacks.model.naming import NameTemplate

NAME = r"[a-z0-9-]+"


def sentence(text: str) -> PydanticCustomError:
    return PydanticCustomError(SENTENCE, "{text}", {"text": text})


def _refuse_boolean(value: Any) -> Any:
    # pydantic takes true for 1.
    if isinstance(value, bool):
        raise ValueError("a boolean is no number")  # noqa: TRY004 - pydantic lets a TypeError pass
    return value


def one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_PLACEHOLDER = re.compile(r"\$\w+|\$\(.*\)|%\w+%|<.*>|\{\{.*\}\}|(change|replace)[-_ ]?me.*", re.IGNORECASE | re.DOTALL)


def check_secret(text: str) -> str:
    """Returns it, unless it is what stands for a secret in somebody's example, which anyone guesses."""
    if _PLACEHOLDER.fullmatch(text):
        raise sentence(
            "expected the secret itself, came what stands for one ($NAME, %NAME%, <...>, changeme); for the value of a"
            ' variable write "${NAME}", with the braces'
        )
    return text


MIN_TOKEN_CHARACTERS = 16
TOKEN = f"a token of at least {MIN_TOKEN_CHARACTERS} visible ASCII characters"


def check_token(text: str) -> str:
    check_secret(text)
    if not re.fullmatch(rf"[\x21-\x7e]{{{MIN_TOKEN_CHARACTERS},}}", text):
        raise sentence(
            f"expected {TOKEN}, came a string of {len(text)} characters; make one with: openssl rand -hex 32"
        )
    return text


def split_url(url: str) -> SplitResult | None:
    """An absolute http or https URL in its parts; None when it is not one."""
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def check_url(url: str) -> str:
    if split_url(url) is None:
        raise sentence("expected an absolute URL, http:// or https:// with a host and no blanks, came something else")
    return url


MAX_REGISTERED_URL_BYTES = 256


def check_registered_url(url: str) -> str:
    size = len(check_url(url).encode())
    if size > MAX_REGISTERED_URL_BYTES:
        raise sentence(f"expected at most {MAX_REGISTERED_URL_BYTES} bytes, came {size}; the vendor takes no more")
    return url


def check_bare_url(url: str) -> str:
    parts = split_url(check_url(url))
    if parts and (parts.username is not None or parts.password is not None):
        raise sentence("expected a URL without user name and password, came one with them; leave them out")
    return url


def check_endpoint(url: str) -> str:
    """Returns it without a slash at its end."""
    parts = split_url(check_bare_url(url))
    if parts and (parts.path not in ("", "/") or re.search(r"[?#]", url)):
        raise sentence(
            "expected a URL of scheme and host alone, came one with a path, query or fragment; the name of a queue,"
            " topic or bus has a key of its own"
        )
    return url.removesuffix("/")


def check_path(path: str) -> str:
    if "?" in path or "#" in path:
        raise sentence("expected a path alone, came one with a query or fragment (? or #); leave it out")
    if len(path) > 1 and path.endswith("/"):
        raise sentence("expected a path without a slash at its end, came one with it; leave it out")
    if not re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+", path) or {".", ".."} & set(path.split("/")):
        raise sentence(
            'expected a path that begins with "/", its segments of letters, digits and -._~!$&\'()*+,;=:@ (no %, no //,'
            " no dot segments), came something else"
        )
    if path.split("/")[1] == "health":
        raise sentence("expected a path outside /health, which belongs to the service; take another one")
    return path


def _decode_base64(text: str) -> bytes | None:
    """Standard base64 with its padding; None when it is something else."""
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        return None


MIN_URL_KEY_BYTES, MAX_URL_KEY_ID = 32, 255


def read_url_key(text: str) -> tuple[int, bytes]:
    key_id, colon, encoded = text.partition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,3}", key_id) or int(key_id) > MAX_URL_KEY_ID:
        raise sentence(
            f'expected "<key id>:<base64>" with a key id from 0 to {MAX_URL_KEY_ID}, came something else;'
            ' for example "1:${GIF_URL_KEY}"'
        )
    check_secret(encoded)
    # Either alphabet, padding or not: this side is the only one that reads these.
    plain = encoded.rstrip("=").replace("-", "+").replace("_", "/")
    key = _decode_base64(plain + "=" * (-len(plain) % 4))
    if key is None:
        raise sentence("expected base64 after the key id, came something else; make one with: openssl rand -base64 32")
    if len(key) < MIN_URL_KEY_BYTES:
        raise sentence(
            f"expected a key of at least {MIN_URL_KEY_BYTES} bytes, came {len(key)}; make one with: openssl rand"
            " -base64 32"
        )
    return int(key_id), key


def check_url_key(text: str) -> str:
    read_url_key(text)
    return text


MIN_WEBHOOK_SECRET_BYTES, MAX_WEBHOOK_SECRET_BYTES = 24, 64
_OF_BYTES = f"of {MIN_WEBHOOK_SECRET_BYTES} to {MAX_WEBHOOK_SECRET_BYTES} bytes"
WEBHOOK_SECRET = f"whsec_ and base64 {_OF_BYTES}"


def read_webhook_secret(text: str) -> bytes:
    check_secret(text.removeprefix("whsec_"))
    # The standard alphabet alone: receivers decode with their own library, and some skip what they don't know.
    secret = _decode_base64(text.removeprefix("whsec_"))
    if secret is None:
        raise sentence(
            f'expected {WEBHOOK_SECRET}, came something else; make one with: echo "whsec_$(openssl rand -base64 32)"'
        )
    if not MIN_WEBHOOK_SECRET_BYTES <= len(secret) <= MAX_WEBHOOK_SECRET_BYTES:
        raise sentence(
            f'expected a secret {_OF_BYTES}, came {len(secret)}; make one with: echo "whsec_$(openssl rand -base64 32)"'
        )
    return secret


def check_webhook_secret(text: str) -> str:
    read_webhook_secret(text)
    return text


def check_certificate(pem: str) -> str:
    # Here: it takes longer to load than a configuration without certificates to check.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415

    # Neither dates nor key size are looked at: the vendor's own certificate is expired and has 512 bits.
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
        keys = [certificate.public_key() for certificate in certificates]
    except (ValueError, UnsupportedAlgorithm):
        raise sentence(
            "expected one certificate in PEM form, came something else; name a file as file:/path/to/mns.pem"
        ) from None
    if len(keys) != 1:
        raise sentence(f"expected one certificate in PEM form, came {len(keys)}; keep the one that signs")
    if not isinstance(keys[0], RSAPublicKey):
        raise sentence("expected a certificate with an RSA key, came another kind of key; MNS signs with RSA")
    return pem


# By this `check` tells the certificate of a rehearsal from the vendor's.
REHEARSAL_NAME = "media-callbacks rehearsal"


def is_for_rehearsals(pem: str) -> bool:
    """Whether a certificate is one that `simulate --make-signing-key` made."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    names = x509.load_pem_x509_certificate(pem.encode()).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return any(name.value == REHEARSAL_NAME for name in names)


def _check_postgresql_url(url: str) -> str:
    if not re.match(r"postgres(ql)?://", url):
        raise sentence("expected postgresql:// at its beginning, came another spelling of it")
    expected = "expected postgresql://user:password@host:port/database"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is not None and not parts.path.strip("/") and not parts.fragment:
        raise sentence(f"{expected}, came one without a database; for a file it is sqlite:///file.db")
    # A # in a password would end the URL, and a / would end the host.
    if parts is None or parts.fragment or re.search(r"[\s\x00-\x1f]", url) or not re.fullmatch(r"/[^/]+", parts.path):
        raise sentence(
            f"{expected}, came something else; percent-encode what is special"
            "  in the password, such as %23 for # and %2F for /"
        )
    return url


def _shown_scheme(url: str) -> str:
    """How it begins, as far as that can't be a secret."""
    scheme = re.match(r"[a-z][a-z0-9+-]{0,19}:/{1,3}", url)
    return f"one that begins with {scheme[0]}" if scheme else "none that begins with either"


def check_store_url(url: str) -> str:
    if re.match(r"postgres(ql)?(\+\w+)?:", url, re.IGNORECASE):
        return _check_postgresql_url(url)
    file = url.removeprefix("sqlite:///")
    if file == url:
        raise sentence(
            "expected sqlite:///relative/path.db, sqlite:////absolute/path.db or postgresql://user@host/database, came"
            f" {_shown_scheme(url)}"
        )
    if ":memory:" in file or file.rpartition("/")[2] in ("", ".", ".."):
        raise sentence("expected a file after sqlite:///, came none; without one nothing would be durable")
    if re.search(r"[?#\x00-\x1f]", file):
        raise sentence("expected a plain file name after sqlite:///, came one with ?, # or control characters")
    return url


# What the service says itself, and what a proxy or the HTTP client takes for its own.
_OWN_HEADERS = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "media-callbacks-replay",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def check_header_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name):
        raise sentence("expected a header name of letters, digits and hyphens, came something else")
    if name.lower() in _OWN_HEADERS or name.lower().startswith("webhook-"):
        raise sentence("a header that the service sets itself; leave it out")
    return name


MAX_HEADER_VALUE_CHARACTERS = 4096


def check_header_value(value: str) -> str:
    if not re.fullmatch(rf"[\x20-\x7e]{{0,{MAX_HEADER_VALUE_CHARACTERS}}}", value):
        raise sentence(
            f"expected at most {MAX_HEADER_VALUE_CHARACTERS} printable ASCII characters, came something else; encode"
            " what has others, and leave line breaks out"
        )
    return value


def check_template(text: str) -> str:
    try:
        NameTemplate(text)
    except ValueError as error:
        raise sentence(str(error)) from None
    return text


def check_file(path: str) -> str:
    if not re.fullmatch(r"/[^\x00-\x1f]+", path):
        raise sentence("expected an absolute path such as /run/secrets/ca.pem, without file:, came something else")
    return path


def check_kafka_address(text: str) -> str:
    found = re.fullmatch(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})", text)
    if found is None or not 0 < int(found[1]) <= MAX_PORT:
        raise sentence("expected host:port such as kafka-1.example.com:9093, without a scheme, came something else")
    return text


def _check_broker_url(url: str, *, plain: str, secure: str) -> str:
    parts = urlsplit(url) if re.fullmatch(rf"({plain}|{secure})://[A-Za-z0-9._@\[\]:%-]+", url) else None
    try:
        is_right = parts is not None and parts.hostname is not None and parts.port != 0
    except ValueError:
        is_right = False
    if parts is not None and "@" in parts.netloc:
        raise sentence("expected a URL without user name and password, came one with them; there are keys for both")
    if not is_right:
        raise sentence(f"expected {plain}://host:port, or {secure}://host:port for TLS, came something else")
    return url


MAX_PORT = 65535
MAX_QUEUE_NAME_CHARACTERS = 120


def number(
    what: str, *, ge: float | None = None, gt: float | None = None, le: float, examples: list[str] | None = None
) -> Any:
    """
    A field that holds a number, with one of two lower bounds.

    Args:
        what: What it counts; the operator is told the bounds after it.
        examples: Where the default is none.
    """
    lower = f" from {ge} to" if ge is not None else f", more than {gt} and at most"
    return Field(ge=ge, gt=gt, le=le, description=f"{what}{lower} {le}", examples=examples)


Host = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9.:%_-]{1,253}$"),
    Field(description="an address or host name to listen on"),
]
HostName = Annotated[
    str,
    # What a header Host has before its port: an IPv6 address in brackets.
    StringConstraints(pattern=r"^([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])$", to_lower=True),
]
Flag = Annotated[bool, Field(description="true or false", examples=["true"])]
Integer = Annotated[int, BeforeValidator(_refuse_boolean)]
Port = Annotated[Integer, Field(ge=0, le=MAX_PORT, description=f"a port from 0 (any free one) to {MAX_PORT}")]
Seconds = Annotated[float, BeforeValidator(_refuse_boolean), Field(allow_inf_nan=False)]
Days = Annotated[Integer, number("days", ge=1, le=36500)]
BearerToken = Annotated[str, AfterValidator(check_token)]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}$"), Field(description="a region name")]
Account = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
Credential = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$"), AfterValidator(check_secret)]
UrlPath = Annotated[str, AfterValidator(check_path), Field(repr=False, description="the path to listen on")]
UrlKey = Annotated[str, AfterValidator(check_url_key)]
RegisteredUrl = Annotated[str, AfterValidator(check_registered_url)]
BareUrl = Annotated[str, AfterValidator(check_bare_url)]
Endpoint = Annotated[str, AfterValidator(check_endpoint)]
QueueName = Annotated[
    str,
    StringConstraints(pattern=rf"^[A-Za-z0-9-]{{1,{MAX_QUEUE_NAME_CHARACTERS}}}$"),
    Field(description=f"a queue's name, 1 to {MAX_QUEUE_NAME_CHARACTERS} letters, digits and hyphens"),
]
MnsTopic = Annotated[
    str,
    StringConstraints(pattern=rf"^[A-Za-z0-9-]{{1,{MAX_QUEUE_NAME_CHARACTERS}}}$"),
    Field(description=f"a topic's name, 1 to {MAX_QUEUE_NAME_CHARACTERS} letters, digits and hyphens"),
]
AliyunEventBus = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,126}$"),
    Field(description="a bus's name, 1 to 127 letters, digits and hyphens, the first no hyphen"),
]
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
WebhookSecret = Annotated[str, AfterValidator(check_webhook_secret)]
File = Annotated[str, AfterValidator(check_file)]
NatsUrl = Annotated[str, AfterValidator(partial(_check_broker_url, plain="nats", secure="tls"))]
AmqpUrl = Annotated[str, AfterValidator(partial(_check_broker_url, plain="amqp", secure="amqps"))]
KafkaAddress = Annotated[str, AfterValidator(check_kafka_address)]
Template = Annotated[str, AfterValidator(check_template)]
HeaderName = Annotated[str, AfterValidator(check_header_name)]
HeaderValue = Annotated[str, AfterValidator(check_header_value)]

_ARN = r"arn:aws[a-z-]*:{}:[a-z0-9-]{{1,64}}:[0-9]{{12}}:{}"
_TOPIC = r"[A-Za-z0-9_-]{1,256}(\.fifo)?"
_BUS = r"[A-Za-z0-9._/-]{1,256}"
_STREAM = r"[A-Za-z0-9_.-]{1,128}"
TopicArn = Annotated[str, StringConstraints(pattern=f"^{_ARN.format('sns', _TOPIC)}$")]
EventBus = Annotated[str, StringConstraints(pattern=f"^({_ARN.format('events', 'event-bus/' + _BUS)}|{_BUS})$")]
# The default exchange has no name; it would take an event for the queue that its routing key names.
Exchange = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,127}$")]
# The client takes %2F in it for a slash.
VirtualHost = Annotated[str, StringConstraints(pattern=r"^[^%\x00-\x1f]{1,255}$")]
StreamName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,255}$")]
NkeySeed = Annotated[str, StringConstraints(pattern=r"^SU[A-Z2-7]{56}$"), AfterValidator(check_secret)]
Stream = Annotated[str, StringConstraints(pattern=f"^({_ARN.format('kinesis', 'stream/' + _STREAM)}|{_STREAM})$")]


MIN_SEGMENT_CHARACTERS = 6


def unguessable_segments(path: str) -> tuple[str, ...]:
    """The parts of a path that nobody hits upon by reading about us."""
    return tuple(part for part in path.split("/") if len(part) >= MIN_SEGMENT_CHARACTERS and re.search(r"[0-9]", part))
