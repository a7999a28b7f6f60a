"""
Requests that are wrong in ways that nobody has thought of: genuine ones, mutated as messages of HTTP, as JSON or XML,
and as bytes.

Request ``n`` of a seed is always the same one, whatever was made before it, but for what depends on the clock and on
keys that are made anew in each process: signatures, digests and minted URLs.
"""

import base64
import hashlib
import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from random import Random
from typing import Any, Literal
from urllib.parse import quote, quote_from_bytes

from media_callbacks.rehearsal.simulate import PAYLOADS, SimulatedRequest
from media_callbacks.sources.base import CallbackSource
from media_callbacks.sources.transports import mns_push
from media_callbacks.sources.transports.mns_push import MnsPushSource
from media_callbacks.sources.transports.token_url import TokenUrlSource
from tests.exercises.hostile.attacks import Listener
from tests.factories.running import TOPIC, encode, encode_request, sign, signer

SAMPLES = Path(__file__).parents[2] / "samples"
# The service takes a megabyte.
MAX_BODY_BYTES = 256 * 1024

Kind = Literal["http", "body", "admin", "admin http"]
# Of a thousand requests. What operators ask reads lists of events and takes a hundred times as long as a callback.
SHARES: Mapping[Kind, int] = {"body": 740, "http": 240, "admin": 10, "admin http": 10}


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """
    Attributes:
        pieces: What is sent, one after the other.
        statuses: What it may be answered, for one whole request whose end can be told, on a connection that stays;
            None for anything else, on a connection of its own.
        stays_open: Nothing says that no more will come.
        pauses: Between pieces there is time for an answer.
    """

    number: int
    kind: Kind
    pieces: Sequence[bytes]
    statuses: frozenset[int] | None = None
    stays_open: bool = False
    pauses: bool = False

    @property
    def listener(self) -> Listener:
        return "admin" if self.kind.startswith("admin") else "server"


# Values

_JOB_ID = "fuzzed-job-000000"
# Stand for what the writer of JSON would not write.
_RAW = {
    "«nan»": b"NaN",
    "«infinity»": b"-Infinity",
    "«digits»": b"9" * 5000,
    "«fraction»": b"0." + b"3" * 400,
    "«exponent»": b"1e99999",
    "«zeros»": b"-000012",
    "«nothing»": b"",
    "«half»": b'"\\ud83d"',
    "«other half»": b'"a\\udc00\\ud83d\\ude00"',
    "«nul»": b'"a\\u0000b"',
    "«raw nul»": b'"a\0b"',
    "«raw break»": b'"a\r\n\tb"',
    "«no UTF-8»": b'"\xff\xfe\xed\xa0\x80"',
    "«deep»": b"[" * 400 + b"]" * 400,
    "«deep objects»": b'{"a":' * 70 + b"{}" + b"}" * 70,
    "«unfinished»": b'{"a":["',
    "«word»": b"undefined",
}
_RAW_TEXT = re.compile(b'"(' + b"|".join(text.encode() for text in _RAW) + b')"')
# At the end of a name, so that an object has it twice.
_AGAIN = "«again»"

VALUES: Sequence[Any] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63, -(2**64), 10**40, 0.5, -0.0, 1e308, 1.7976931348623157e308),
    *("", " ", "0", "-1", "1e5", "null", "true", "NaN", "[]", "{}", '"', "\\", "a\tb", "x" * 300, "x" * 20_000),
    *("\u202e\u2066abc\u2069", "\u200f\u200b\ufeff", "\x01\x1f\x7f\x9f", "\u2028\u2029", "e\u0301" * 50, "\U0001f468"),
    *("\ufffe\uffff", "%00%0d%0a", "a\r\nX-Header: b", "<a>&lt;</a>", "../../etc/passwd", "'; DROP TABLE events;--"),
    *("{SnapshotCount}", "{Count}" * 40, "http://[::1", "http://a.example/{Count}", "javascript:alert(1)", "a,b,,c"),
    *("success", "fail", "Success", "Fail", "FAIL", "Finished", "Running", "Normal", "Cancelled", "Succeed", "3", 2, 3),
    *("2026-01-02T03:04:05Z", "0000-00-00T00:00:00Z", "9999-12-31T23:59:59-23:59", "1767323045", "99999999999999"),
    *([], {}, [[]], [{}], [None], {"": ""}, {"a": {"a": {"a": []}}}, [1] * 600, [{}] * 300, ["x"] * 2500, [[[[[[]]]]]]),
    *({str(number): {} for number in range(300)}, {" JobId ": "a", "jobid": 1, "JOBID": []}),
    *_RAW,
)


@dataclass
class Bodies:
    """What the vendor says and what it has been seen to say, by product, as JSON."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        then = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        for product, events in PAYLOADS.items():
            made = [json.dumps(build(_JOB_ID, then, failed)) for build in events.values() for failed in (False, True)]
            seen = [path.read_text() for path in sorted((SAMPLES / product).glob("*.json"))]
            self.texts[product] = made + seen
        found: dict[str, None] = {}
        values: list[Any] = []
        for texts in self.texts.values():
            for text in texts:
                _collect(json.loads(text, strict=False), found, values)
        self.names = list(found)
        # Twice as many odd ones as others. As text, which is read anew for each place that it is put to: it may be
        # mutated there.
        self.values = [json.dumps(value) for value in (*VALUES, *Random(0).sample(values, len(VALUES) // 2))]

    def make(self, random: Random, product: str, number: int) -> bytes:
        """A message of a product or, once in a while, of another one, mutated."""
        if random.random() < 0.06:
            product = random.choice(list(self.texts))
        # Jobs come again: what is a duplicate, or differs, goes other ways than what is new.
        text = random.choice(self.texts[product]).replace(_JOB_ID, f"fuzzed-job-{number // 3 % 10**6:06}")
        document = json.loads(text, strict=False)
        for _ in range(_few(random)):
            document = self.mutate(random, document)
        body = write(document, escaped=random.random() < 0.5)
        choice = random.random()
        if choice < 0.2:
            body = mutate_bytes(random, body)
        elif choice < 0.23:
            body = base64.b64encode(body)
        elif choice < 0.25:
            body = (
                random.choice((b"", b"\xef\xbb\xbf", b"\n \t", b"[")) + body + random.choice((b"", b"\0", b"\n", b"]"))
            )
        elif choice < 0.27:
            body = self.make_xml(random, document, random.choice(("Notification", "xml", "Message")))
        return body[:MAX_BODY_BYTES]

    def mutate(self, random: Random, document: Any) -> Any:
        """One change somewhere in it."""
        if isinstance(document, str) and document[:1] in ("{", "[") and random.random() < 0.5:
            try:
                return json.dumps(self.mutate(random, json.loads(document, strict=False)), ensure_ascii=False)
            except ValueError:
                pass
        if isinstance(document, dict) and document:
            return self._mutate_object(random, document)
        if isinstance(document, list) and document:
            index = random.randrange(len(document))
            choice = random.random()
            if choice < 0.6:
                document[index] = self.mutate(random, document[index])
            elif choice < 0.8:
                del document[index]
            else:
                document += document[index : index + 3] * random.choice((1, 2, 30))
            return document
        return self._replace(random, document)

    def _mutate_object(self, random: Random, document: dict[str, Any]) -> Any:
        name = random.choice(list(document))
        value = document[name]
        choice = random.random()
        if choice < 0.5:
            inner = isinstance(value, dict | list) or (isinstance(value, str) and value[:1] in ("{", "["))
            document[name] = (self.mutate if inner and random.random() < 0.75 else self._replace)(random, value)
        elif choice < 0.62:
            del document[name]
        elif choice < 0.74:
            twin = random.choice(
                (name.swapcase(), name[:1].swapcase() + name[1:], name + " ", name + _AGAIN, "\t" + name)
            )
            document[twin] = value if random.random() < 0.4 else self._value(random)
        elif choice < 0.84:
            other = random.choice(list(document) if random.random() < 0.5 else self.names)
            document[other] = document.pop(name)
        elif choice < 0.94:
            document[random.choice(self.names)] = self._value(random)
        elif choice < 0.97:
            other = random.choice(list(document))
            document[name], document[other] = document[other], value
        else:
            return self._replace(random, document)
        return document

    def _value(self, random: Random) -> Any:
        return json.loads(random.choice(self.values))

    def _replace(self, random: Random, value: Any) -> Any:
        choice = random.random()
        if choice < 0.75:
            return self._value(random)
        if choice < 0.8:
            return [value]
        if choice < 0.84:
            return {random.choice(self.names): value}
        if choice < 0.9:
            return json.dumps(value, ensure_ascii=random.random() < 0.5)
        if choice < 0.92:
            return base64.b64encode(write(value)).decode()
        if choice < 0.96:
            return [value] * random.choice((2, 17, 600))
        if isinstance(value, str):
            return random.choice((value + " ", value.upper(), value * 3, value[:-1], f"\ufeff{value}", value + "\n"))
        return str(value)

    def make_xml(self, random: Random, document: Any, root: str) -> bytes:
        members = document if isinstance(document, dict) else {"Message": document}
        lines = [f"<{name}>{_xml_text(random, value)}</{name}>" for name, value in members.items()]
        if random.random() < 0.3:
            lines.insert(random.randrange(len(lines) + 1), random.choice(_XML_ODDITIES))
        start = random.choice(_XML_STARTS) if random.random() < 0.3 else _XML_STARTS[0]
        return f"{start}<{root}>{''.join(lines)}</{root}>".encode("utf-8", "surrogatepass")


_XML_STARTS = (
    '<?xml version="1.0" encoding="utf-8"?>',
    "",
    '<?xml version="1.0" encoding="utf-16"?>',
    '<?xml version="1.0" encoding="no-such"?>',
    '<?xml version="1.1"?>',
    '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;&b;">]>',
    '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
    "\ufeff<!-- -->",
    "<?xml-stylesheet href='a'?>",
)
_XML_ODDITIES = (
    *("&lol;", "&#0;", "&#x110000;", "&#xd800;", "&amp", "<", "]]>", "<![CDATA[<a>]]>", "<!-- -- -->", "\0", "\x01"),
    *("<a/>" * 3000, "<a>" * 40, "<a>" * 40 + "</a>" * 40, "<b:c>d</b:c>", '<a xmlns="x" a="1" a="2"/>', "</a>"),
    *(
        "<TopicName>other</TopicName>",
        "<x:Message>{}</x:Message>",
        "<Message>{}</Message>",
        "<PublishTime>9</PublishTime>",
    ),
)


def _xml_text(random: Random, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if random.random() < 0.05:
        return text
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _collect(value: Any, names: dict[str, None], values: list[Any]) -> None:
    values.append(value)
    children: Iterable[Any] = value if isinstance(value, list) else ()
    if isinstance(value, dict):
        names.update(dict.fromkeys(value))
        children = value.values()
    for child in children:
        _collect(child, names, values)


def _few(random: Random) -> int:
    return int(random.random() ** 3 * 6)


def write(document: Any, *, escaped: bool = True) -> bytes:
    """As JSON, or nearly."""
    text = json.dumps(document, ensure_ascii=escaped)
    if escaped:
        text = text.replace("\\u00ab", "«").replace("\\u00bb", "»")
    # Half a character is written as it is.
    body = text.encode("utf-8", "surrogatepass")
    if "«" in text:
        body = _RAW_TEXT.sub(lambda found: _RAW[found[1].decode()], body).replace(_AGAIN.encode(), b"")
    return body


# Bytes


def mutate_bytes(random: Random, data: bytes, tokens: Sequence[bytes] = ()) -> bytes:
    """One to three changes somewhere."""
    for _ in range(1 + int(random.random() ** 2 * 3)):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice((1, 1, 2, 4, 20, 300)))
        choice = random.random()
        if choice < 0.25:
            flipped = bytes([byte ^ (1 << random.randrange(8)) for byte in data[start : min(end, start + 20)]])
            data = data[:start] + flipped + data[start + len(flipped) :]
        elif choice < 0.4:
            data = data[:start] + data[end:]
        elif choice < 0.55:
            data = data[:end] + data[start:end] * random.choice((1, 1, 2, 60)) + data[end:]
        elif choice < 0.7 or not tokens:
            data = data[:start] + random.randbytes(random.choice((1, 2, 8, 60))) + data[start:]
        else:
            data = data[:start] + random.choice(tokens) + data[start:]
    return data


# HTTP

TOKENS: Sequence[bytes] = (
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\n\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"\x7f",
        b"\x80",
        b"\xff\xfe",
        b"\xc3\x28",
    ),
    *(
        b"\r\n ",
        b"\r\n\tfolded",
        b"%",
        b"%00",
        b"%0d%0a",
        b"%2e%2e%2f",
        b"%zz",
        b"%ff",
        b"?",
        b"#",
        b"*",
        b"//",
        b"/../",
    ),
    *(b"0\r\n\r\n", b"0\r\nX-Trailer: a\r\n\r\n", b"5\r\nhello\r\n", b"-1\r\n", b"0x5\r\n", b"ffffffffffffffffff\r\n"),
    *(b"1;a=b\r\nx\r\n", b'1;a="\r\n', b"00000000000000000000\r\n\r\n", b"http://other.example:99999/", b"http://["),
    *(
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\3\3",
    ),
    *(b"HTTP/1.1 200 OK\r\n", b" HTTP/1.0\r\n", b"x" * 17_000, b"x" * 900, b"\r\n" * 300, b"\x1b[2J", b"\xe2\x80\xae"),
)
LINES: Sequence[bytes] = (
    *(
        b"Content-Length: " + value
        for value in (b"5", b"0", b"-1", b"+5", b"0x10", b"5, 5", b"5,6", b"", b"1e3", b"\xb2")
    ),
    *(b"Content-Length: " + b"9" * count for count in (7, 12, 13, 19, 20, 400, 5000)),
    *(b"Content-Length : 5", b"content-length:5", b"Content-Length: 000000000000000000000005", b"Content_Length: 5"),
    *(
        b"Transfer-Encoding: " + value
        for value in (b"chunked", b"gzip, chunked", b"chunked, gzip", b"identity", b"x", b"")
    ),
    *(b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding: chunked, chunked"),
    *(
        b"Expect: 100-continue",
        b"Expect: 200-ok",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: upgrade",
    ),
    *(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: ", b"Upgrade: websocket", b"Upgrade:"),
    *(
        b"Host: other.example",
        b"Host:",
        b"Host: a\r\nHost: b",
        b" folded: a",
        b"\tfolded",
        b": no name",
        b"no value",
        b"a:",
    ),
    *(
        b"X-Long: " + b"x" * 9000,
        b"X-NUL: a\0b",
        b"X-Break: a\rb",
        b"X-\xff: \xff",
        b"X-Blank : a",
        b"Trailer: a",
        b"TE: x",
    ),
    *(
        b"Content-Type: text/html",
        b"Content-Encoding: gzip",
        b"Forwarded: for=1.2.3.4",
        b"Origin: null",
        b"Authorization: x",
    ),
    *(
        b"X-VOD-TIMESTAMP: 0",
        b"X-VOD-TIMESTAMP: " + b"9" * 30,
        b"X-VOD-SIGNATURE: \xff",
        b"x-mns-version: ",
        b"Date: now",
    ),
    *(b"Authorization: ====", b"x-mns-signing-cert-url: " + base64.b64encode(b"https://a.example/b.pem"), b"x-mns-: a"),
    b"\r\n".join(b"X-Many-%d: x" % number for number in range(150)),
    b"\r\n".join([b"X-Same: x"] * 900),
)
METHODS = (
    b"GET",
    b"HEAD",
    b"PUT",
    b"OPTIONS",
    b"CONNECT",
    b"TRACE",
    b"get",
    b"",
    b"P\0ST",
    b"X" * 300,
    b"M-SEARCH",
    b"POST ",
)
VERSIONS = (
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/1.2",
    b"HTTP/11.1",
    b"http/1.1",
    b"HTTP/1.",
    b"RTSP/1.0",
    b"",
    b"\xff",
)
TARGETS = (
    *(b"", b"/", b"*", b"//", b"/callbacks/vod/", b"/callbacks//vod", b"/callbacks/%76od", b"/callbacks/vod%00", b"/%"),
    *(
        b"/callbacks/gif/",
        b"/callbacks/gif/" + b"A" * 90,
        b"/callbacks/gif/%ff",
        b"/callbacks/mts",
        b"/callbacks/vod?a=b&a",
    ),
    *(
        b"http://cb.example.com/callbacks/vod",
        b"HTTP://x:y@z:0/callbacks/vod",
        b"https://[::1]:x/",
        b"://",
        b"http:///",
    ),
    *(b"/callbacks/vod#a", b"/callbacks/../callbacks/vod", b"/callbacks/vod;a", b"\\callbacks\\vod", b"callbacks/vod"),
    *(b"/health/live", b"/health/live/", b"/health/live?%ff", b"/" + b"a/" * 4000, b"/\xc3\xa9", b"cb.example.com:443"),
)


def mutate_message(random: Random, message: bytes) -> bytes:
    """One to three things wrong with it as a message of HTTP."""
    for _ in range(1 + int(random.random() ** 2 * 3)):
        choice = random.random()
        if choice < 0.3:
            message = mutate_bytes(random, message, TOKENS)
            continue
        head, separator, body = message.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        at = random.randrange(1, len(lines)) if len(lines) > 1 else 0
        if choice < 0.5:
            lines.insert(at, random.choice(LINES))
        elif choice < 0.58:
            name, colon, value = lines[at].partition(b":")
            lines[at] = name + colon + mutate_bytes(random, value, TOKENS)
        elif choice < 0.66:
            method, _, rest = lines[0].partition(b" ")
            target, _, version = rest.rpartition(b" ")
            part = random.randrange(3)
            method = random.choice(METHODS) if part == 0 else method
            target = random.choice(TARGETS) if part == 1 else target
            version = random.choice(VERSIONS) if part == 2 else version
            lines[0] = method + b" " + target + b" " + version
        elif choice < 0.72:
            lines[at] = random.choice((lines[at].lower(), lines[at].upper(), lines[at] + b" ", b"", lines[at] + b"\0"))
        elif choice < 0.77:
            lines += [lines[at]] * random.choice((1, 2, 40))
        elif choice < 0.82:
            del lines[at]
        elif choice < 0.92:
            lines = [line for line in lines if not line.lower().startswith(b"content-length")]
            lines.append(b"Transfer-Encoding: chunked")
            body = _chunk(random, body)
        else:
            separator, body = random.choice(((b"\n\n", body), (b"\r\n", body), (b"\r\n\r\n", body[: len(body) // 2])))
        message = b"\r\n".join(lines) + separator + body
    if random.random() < 0.15:
        message = message[: random.randrange(len(message) + 1)]
    return message


def _chunk(random: Random, body: bytes) -> bytes:
    size = random.choice((1, 7, 100, 5000)) if len(body) < 5000 else 5000
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    extension = random.choice((b"", b"", b"", b";a", b";a=b", b';a="b', b" ", b"; \xff"))
    encoded = b"".join([b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces]) + b"0\r\n\r\n"
    return mutate_bytes(random, encoded, TOKENS) if random.random() < 0.6 else encoded


def split(random: Random, data: bytes) -> Sequence[bytes]:
    if random.random() < 0.6 or len(data) < 2:
        return (data,)
    places = {0, len(data), *(random.randrange(1, len(data)) for _ in range(random.choice((0, 1, 2, 3, 7))))}
    if (end := data.find(b"\r\n\r\n") + 4) > 3 and random.random() < 0.5:
        # Before the body, which may have been refused by then.
        places.add(end)
    return [data[start:end] for start, end in itertools.pairwise(sorted(places))]


# What operators ask


@dataclass(frozen=True, slots=True)
class Operations:
    """
    What the document says that there is.

    Args:
        event_ids: Of events that are there.
    """

    document: Mapping[str, Any]
    event_ids: Sequence[str]
    host: str
    bodies: Bodies

    def make(self, random: Random) -> tuple[bytes, frozenset[int]]:
        """A request and what the document says that it may be answered."""
        path = random.choice(list(self.document["paths"]))
        item = self.document["paths"][path]
        method = random.choice(list(item))
        operation = item[method]
        query: list[tuple[str, str]] = []
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", self._path_value(random, parameter))
            elif random.random() < 0.3:
                query.append((parameter["name"], self._query_value(random, parameter)))
        if random.random() < 0.1 and query:
            query.append(random.choice((query[0], ("unknown", "1"), ("", ""), (query[0][0].upper(), "1"))))
        target = path + ("?" + "&".join(f"{quote(name)}={value}" for name, value in query) if query else "")
        headers, body = [], b""
        if "requestBody" in operation:
            types = [b"application/json"] * 12 + [b"application/json; charset=x", b"text/plain", b""]
            headers = [(b"Content-Type", random.choice(types))]
            body = self._body(random, operation["requestBody"]["content"]["application/json"]["schema"])
        statuses = {int(status) for status in operation["responses"]} | {404, 405}
        data = encode_request(method.upper(), target, headers, body, host=self.host)
        return data, frozenset(status for status in statuses if status < 500)

    def _path_value(self, random: Random, parameter: Mapping[str, Any]) -> str:
        choice = random.random()
        if choice < 0.7:
            known = {
                "event_id": self.event_ids,
                "sink": ("orders", "others"),
                "product": ("vod", "ims", "mts", "multimediaai"),
                "job_id": ("job-1", "a/b", "*", "%2F"),
            } | dict.fromkeys(("replay_id", "receipt_id", "refused_id"), ("1", "2", "3"))
            return random.choice(known[parameter["name"]])
        return _quote_odd(random, random.choice(VALUES)) or "x"

    def _query_value(self, random: Random, parameter: Mapping[str, Any]) -> str:
        if random.random() < 0.25:
            return _quote_odd(random, random.choice(VALUES))
        if parameter["name"] == "wait":
            # Whoever waits is answered late, and that is no failure.
            return "0"
        return quote(str(parameter.get("example", self._example(random, parameter["schema"]))))

    def _body(self, random: Random, schema: Mapping[str, Any]) -> bytes:
        document = self._example(random, schema)
        if isinstance(document, dict) and "dry_run" in document:
            # One order for many events is work for minutes, whoever gives it.
            document["dry_run"] = True
        for _ in range(_few(random)):
            document = self.bodies.mutate(random, document)
        body = b"" if random.random() < 0.05 else write(document)
        return mutate_bytes(random, body) if random.random() < 0.1 else body[:MAX_BODY_BYTES]

    def _example(self, random: Random, schema: Mapping[str, Any]) -> Any:
        """Something that the schema allows, as far as that is told by examples, types and words."""
        if "$ref" in schema:
            return self._example(random, self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        if schema.get("examples"):
            return json.loads(json.dumps(random.choice(schema["examples"])))
        if "enum" in schema:
            return random.choice(schema["enum"])
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            described = [choice for choice in choices if set(choice) - {"required"}]
            if described:
                return self._example(random, random.choice(described))
        kind = schema.get("type")
        if kind == "object":
            required = schema.get("required", ())
            return {
                name: self._example(random, member)
                for name, member in schema.get("properties", {}).items()
                if name in required or random.random() < 0.5
            }
        if kind == "array":
            return [self._example(random, schema["items"]) for _ in range(random.randint(1, 3))]
        if kind in ("integer", "number"):
            return random.choice((1, 50, 500, 0, -1))
        if kind == "boolean":
            return random.random() < 0.9
        if schema.get("format") == "date-time":
            return random.choice(("2026-01-02T03:04:05Z", "2100-01-02T03:04:05+01:00", "0001-01-01T00:00:00Z"))
        return schema.get("const") or random.choice(("1", "orders", "fuzzed-job-000001", "vod"))


def _quote_odd(random: Random, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    quoted = quote_from_bytes(text.encode("utf-8", "surrogatepass")[:3000])
    return quoted + random.choice(("", "", "", "%00", "%ff", "%", "+", "%2F", ";", "&"))


# Requests

_RESIGN_AFTER_S = 30.0
# Minted URLs, of which many callbacks come.
_TOKENS = 40
_ENVELOPES = ("XML", "JSON", "SIMPLIFIED")


class Requests:
    """
    Requests by number.

    Args:
        operations: What is asked of the operators' listener.
    """

    def __init__(self, seed: int, sources: Mapping[str, CallbackSource], operations: Operations) -> None:
        self._seed = seed
        self._sources = sources
        self._operations = operations
        self._bodies = operations.bodies
        self._random = Random()
        self._signed: dict[str, tuple[float, SimulatedRequest]] = {}
        self._kinds = [kind for kind, share in SHARES.items() for _ in range(share)]

    def make(self, number: int) -> Fuzzed:
        random = self._random
        random.seed(f"{self._seed}:{number}")
        kind = random.choice(self._kinds)
        make: Callable[[Random, int], tuple[bytes, frozenset[int]]] = self._callback
        if kind.startswith("admin"):
            make = self._question
        data, statuses = make(random, number)
        if not kind.endswith("http"):
            return Fuzzed(number, kind, split(random, data), statuses, pauses=random.random() < 0.2)
        if random.random() < 0.15:
            data += b"".join([make(random, number + 1)[0] for _ in range(random.randint(1, 3))])
        data = mutate_message(random, data)
        stays_open, pauses = random.random() < 0.004, random.random() < 0.2
        return Fuzzed(number, kind, split(random, data), stays_open=stays_open, pauses=pauses)

    def _question(self, random: Random, _: int) -> tuple[bytes, frozenset[int]]:
        return self._operations.make(random)

    def _callback(self, random: Random, number: int) -> tuple[bytes, frozenset[int]]:
        source = self._sources[random.choice(_BUSY_SOURCES)]
        body = self._bodies.make(random, source.product, number)
        chunk = random.choice((3, 100, 4000)) if random.random() < 0.05 and len(body) < 4000 else None
        if isinstance(source, MnsPushSource):
            return encode(self._push(random, source, body), chunk=chunk), _OF_PUSHES
        name = f"gif {random.randrange(_TOKENS)}" if isinstance(source, TokenUrlSource) else source.name
        request = self._sign(source, name)
        signed = SimulatedRequest(request.method, request.target, request.headers, body)
        return encode(signed, chunk=chunk), frozenset({source.success_status})

    def _sign(self, source: CallbackSource, name: str) -> SimulatedRequest:
        """A request whose body may be any."""
        at, request = self._signed.get(name, (0.0, None))
        if request is None or time.monotonic() - at > _RESIGN_AFTER_S:
            request = sign(source, b"", job_id=name)
            self._signed[name] = time.monotonic(), request
        return request

    def _push(self, random: Random, source: MnsPushSource, message: bytes) -> SimulatedRequest:
        form = random.choice(_ENVELOPES)
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "text/plain;charset=utf-8",
            "Date": format_datetime(now, usegmt=True),
            "x-mns-request-id": "5F0C9D6E3AB1447700000001",
            "x-mns-signing-cert-url": base64.b64encode(signer()[0].certificate_url.encode()).decode(),
            "x-mns-version": "2015-06-06",
        }
        body = message
        if form == "SIMPLIFIED":
            owner, _, topic = TOPIC.partition("/")
            headers |= {
                "x-mns-message-id": hashlib.md5(message).hexdigest().upper(),
                "x-mns-publish-time": str(int(now.timestamp() * 1000)),
                "x-mns-topic-name": topic,
                "x-mns-topic-owner": owner,
            }
        else:
            body = self._envelope(random, form, message)
        headers["Content-MD5"] = hashlib.md5(body).hexdigest().upper()
        names = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        text = mns_push.string_to_sign("POST", source.path.encode(), names)
        headers["Authorization"] = mns_push.sign(text, signer()[0].private_key)
        return SimulatedRequest("POST", source.path, headers, body)

    def _envelope(self, random: Random, form: str, message: bytes) -> bytes:
        owner, _, topic = TOPIC.partition("/")
        document: Any = {
            "TopicOwner": owner,
            "TopicName": topic,
            "MessageId": "A" * 32,
            "MessageMD5": hashlib.md5(message).hexdigest().upper(),
            "Message": message.decode("utf-8", "replace"),
            "PublishTime": "1767323045000",
        }
        if random.random() < 0.3:
            document = self._bodies.mutate(random, document)
        if form == "XML":
            body = self._bodies.make_xml(random, document, "Notification")
        else:
            body = write(document, escaped=random.random() < 0.5)
        return mutate_bytes(random, body) if random.random() < 0.1 else body


# A signature of a push takes longer than all the rest of it.
_BUSY_SOURCES = ("vod",) * 5 + ("ims",) * 5 + ("gif",) * 2 + ("mts",) * 2
# What is in a push may say that it is from another topic, or not say from which.
_OF_PUSHES = frozenset({204, 403})
