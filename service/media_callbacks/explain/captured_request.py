"""
A captured request, as people have it: the text of an HTTP/1.x message, or a curl command line.

What is read is what was on the wire, as far as the file tells. An editor adds a line break at the end of a file, so
where ``Content-Length`` or ``Content-MD5`` says that the body ended before it, it is left out. Everything that was
taken otherwise than it stands in the file is said in a note.

No note and no error holds a value of the request: a header or a token may be a secret.

Source: RFC 9112 for messages; for command lines the manual of curl, https://curl.se/docs/manpage.html, and the quoting
rules of bash.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote_plus

from media_callbacks.model.errors import ServiceError
from media_callbacks.sources.base import Callback

Headers = list[tuple[bytes, bytes]]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]+(\S+)(?:[ \t]+(HTTP/[0-9](?:\.[0-9])?))?[ \t]*")
_URL = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*)://)?([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
_CURL = re.compile(r"\s*(?:[$#%>]\s+)?(?:[^\s'\"]*/)?curl(?:\.exe)?(?=\s|\\|$)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_NOT_IN_URL = re.compile(r"[\s\x00-\x1f\x7f]")


class UnreadableRequest(ServiceError):
    """The file holds no request that can be read. The message says what was expected, what came, and where."""


@dataclass(frozen=True, slots=True)
class CapturedRequest:
    """
    Attributes:
        callback: The request as the service would get it.
        url: In full, where the file has it (curl, or the absolute form of a request line); may hold secrets.
        notes: What was taken otherwise than it stands in the file, or left out, one sentence each.
    """

    callback: Callback
    form: Literal["http", "curl"]
    url: str | None
    notes: tuple[str, ...]


def read_captured_request(raw: bytes) -> CapturedRequest:
    """
    Args:
        raw: The file, byte by byte.

    Raises:
        UnreadableRequest: It is neither of the two forms.
    """
    notes: list[str] = []
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableRequest("expected ASCII or UTF-8, came UTF-16: save the file as UTF-8 (PowerShell: utf8)")
    if raw.startswith(b"\xef\xbb\xbf"):
        raw = raw[3:]
        notes.append("the byte order mark at the start of the file was left out")
    if not raw.strip():
        raise UnreadableRequest("expected a request, came an empty file")
    start = _CURL.match(raw[:4096].decode("utf-8", "replace"))
    if start is not None:
        return _read_curl(raw.decode("utf-8", "surrogateescape"), notes)
    return _read_http(raw, notes)


# HTTP/1.x


def _read_http(raw: bytes, notes: list[str]) -> CapturedRequest:
    head, body = _split_head(raw.lstrip(b"\r\n"), notes)
    method, target = _read_request_line(head[0], notes)
    headers: Headers = []
    for number, line in enumerate(head[1:], 2):
        if line[:1] in (b" ", b"\t") and headers:
            name, value = headers[-1]
            headers[-1] = (name, value + b" " + line.strip(b" \t"))
            notes.append(f"line {number} begins with a blank and was taken for the rest of the header before it")
            continue
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name.strip(b" \t")):
            raise UnreadableRequest(
                f"line {number}: expected a header as Name: value, or the empty line before the body, came something"
                " else"
            )
        headers.append((name.strip(b" \t").lower(), value.strip(b" \t")))
    if any(name == b"transfer-encoding" and b"chunked" in value.lower() for name, value in headers):
        joined = _join_chunks(body)
        if joined is not None:
            body = joined
            notes.append("the chunks of the body were put together")
    body = _settle_body(body, headers, notes)
    url = None
    if not target.startswith(b"/"):
        url = target.decode("utf-8", "surrogateescape")
        target, host = _split_url(url, notes)
        if not any(name == b"host" for name, _ in headers):
            headers.insert(0, (b"host", host))
    elif b"#" in target:
        target = target.partition(b"#")[0]
        notes.append("the fragment of the target (from # on) was left out: it is never sent")
    raw_path, _, query = target.partition(b"?")
    return CapturedRequest(Callback(method, raw_path, query, headers, body), "http", url, tuple(dict.fromkeys(notes)))


def _split_head(raw: bytes, notes: list[str]) -> tuple[list[bytes], bytes]:
    """The lines before the first empty one, without their ends, and every byte after it."""
    lines: list[bytes] = []
    start = 0
    while start < len(raw):
        end = raw.find(b"\n", start)
        if end < 0:
            end = len(raw)
        line = raw[start:end].removesuffix(b"\r")
        start = end + 1
        if not line:
            return lines, raw[start:]
        lines.append(line)
    notes.append("the file has no empty line after the headers, so the body was taken to be empty")
    return lines, b""


def _read_request_line(line: bytes, notes: list[str]) -> tuple[str, bytes]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None or not match[2].startswith((b"/", b"http://", b"https://")):
        raise UnreadableRequest(
            "expected a request line such as POST /callbacks/vod HTTP/1.1, or a curl command, came"
            f" {_describe_line(line)}"
        )
    if match[3] is None:
        notes.append("the request line has no HTTP version; it was read as HTTP/1.1")
    return match[1].decode("ascii"), match[2]


def _describe_line(line: bytes) -> str:
    if line.startswith(b"HTTP/"):
        return "a response: capture what was sent to the service, not what it answered"
    if line.lstrip()[:1] in (b"{", b"["):
        return "JSON: a body alone does not say how it was signed, its request line and headers are needed too"
    if line.lstrip().startswith(b"<"):
        return "XML: a body alone does not say how it was signed, its request line and headers are needed too"
    if _TOKEN.fullmatch(line.partition(b":")[0]) and b":" in line:
        return "a header: the request line above it is needed too"
    if b"\0" in line[:1000]:
        return "binary data"
    return f"a first line of {len(line)} bytes that is neither"


def _join_chunks(body: bytes) -> bytes | None:
    """The content of a chunked body; None when there are no chunks in it, as after a proxy that joined them."""
    pieces: list[bytes] = []
    position = 0
    while match := _CHUNK_SIZE.match(body, position):
        size = int(match[1], 16)
        position = match.end()
        if size == 0:
            return b"".join(pieces)
        piece = body[position : position + size]
        position += size
        end = re.compile(rb"\r?\n").match(body, position)
        if len(piece) != size or end is None:
            return None
        pieces.append(piece)
        position = end.end()
    return None


# The body


def _settle_body(body: bytes, headers: Sequence[tuple[bytes, bytes]], notes: list[str]) -> bytes:
    """Leave out a line break that was added at the end, where the headers tell; say when they tell something else."""
    lengths = {value for name, value in headers if name == b"content-length"}
    digests = [value for name, value in headers if name == b"content-md5"]
    declared = int(length) if len(lengths) == 1 and (length := lengths.pop()).isdigit() and len(length) < 16 else None
    shorter = [body.removesuffix(b"\n"), body.removesuffix(b"\n").removesuffix(b"\r"), body.rstrip(b"\r\n")]
    if declared is not None:
        if declared == len(body):
            return body
        for candidate in shorter:
            if len(candidate) == declared:
                notes.append(
                    f"the body ends with a line break that Content-Length ({declared} bytes) does not count: it was"
                    " taken for an editor's and left out"
                )
                return candidate
    if not any(content_md5_spelling(value, body) for value in digests):
        for candidate in shorter:
            if candidate != body and any(content_md5_spelling(value, candidate) for value in digests):
                notes.append(
                    "the body ends with a line break that Content-MD5 does not cover: it was taken for an editor's"
                    " and left out"
                )
                body = candidate
                break
    if declared is not None and declared != len(body):
        notes.append(
            f"Content-Length says {declared} bytes and the body has {len(body)}: the file was cut or changed after it"
            " was captured, or the header is not the vendor's; the body is taken as it stands"
        )
    return body


def content_md5_spelling(value: bytes, body: bytes) -> str | None:
    """Which of the four spellings of the body's digest this is; None when it is that of something else."""
    return next((words for words, text in _spellings(body, value) if text == value), None)


def _spellings(body: bytes, value: bytes) -> Iterator[tuple[str, bytes]]:
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    text = digest.hex().encode("ascii")
    yield "base64 of the hexadecimal text (documented)", base64.b64encode(text)
    yield "upper-case hexadecimal (seen in SIMPLIFIED pushes)", text.upper()
    yield "lower-case hexadecimal", text
    yield "base64 of the digest (RFC 1864)", base64.b64encode(digest)
    if value.lower() == text:
        yield "hexadecimal in mixed case", value


def read_content_md5(value: bytes) -> bytes | None:
    """The sixteen bytes that a Content-MD5 stands for in any of its spellings; None when it is none of them."""
    if re.fullmatch(rb"[0-9A-Fa-f]{32}", value):
        return bytes.fromhex(value.decode("ascii"))
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    if re.fullmatch(rb"[0-9A-Fa-f]{32}", raw):
        return bytes.fromhex(raw.decode("ascii"))
    return raw if len(raw) == 16 else None


def _split_url(url: str, notes: list[str]) -> tuple[bytes, bytes]:
    """Path and query as they are sent, and the value of Host."""
    if _NOT_IN_URL.search(url):
        raise UnreadableRequest("expected a URL without blanks and control characters: put it in quotes, blanks as %20")
    match = _URL.fullmatch(url)
    assert match is not None
    scheme, authority, path, query, fragment = match.groups()
    if (scheme or "http").lower() not in ("http", "https") or not authority.rpartition("@")[2]:
        raise UnreadableRequest("expected an http:// or https:// URL with a host")
    if fragment:
        notes.append("the fragment of the URL (from # on) was left out: it is never sent")
    target = (path or "/") + ("" if query is None else f"?{query}")
    return _encode(target), _encode(authority.rpartition("@")[2])


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# curl

_SHORT: Mapping[str, str] = {
    "X": "request",
    "H": "header",
    "d": "data",
    "G": "get",
    "I": "head",
    "A": "user-agent",
    "e": "referer",
    "b": "cookie",
    "F": "form",
    "T": "upload-file",
    "K": "config",
    ":": "next",
}
_SHORT_WITH_VALUE = frozenset("XHdAebFTKuomxwcErtyYzCDPQU")
# What changes the request in a way that is read here.
_READ = (
    "request header data data-ascii data-raw data-binary data-urlencode json url user-agent referer cookie"
    " request-target"
)
_WITH_VALUE = frozenset(_READ.split())
_REFUSED: Mapping[str, str] = {
    "form": "the vendor never sends multipart forms",
    "form-string": "the vendor never sends multipart forms",
    "upload-file": "put the body itself into the command with --data-binary",
    "config": "put its options into the command",
    "next": "give each request in a file of its own",
    "variable": "put the value itself into the command",
}
# What changes nothing that is looked at, known only so that its value is not taken for a URL.
_HARMLESS = (
    "cacert capath cert cert-type ciphers connect-timeout connect-to cookie-jar dump-header interface key key-type"
    " limit-rate max-filesize max-redirs max-time noproxy oauth2-bearer output output-dir pass pinnedpubkey proto proxy"
    " proxy-header proxy-user range resolve retry retry-delay retry-max-time socks5 socks5-hostname speed-limit"
    " speed-time stderr tls-max trace trace-ascii unix-socket user write-out aws-sigv4"
)
_HARMLESS_WITH_VALUE = frozenset(_HARMLESS.split())


def _read_curl(text: str, notes: list[str]) -> CapturedRequest:
    words = _split_words(text, notes)
    while words and not _CURL.fullmatch(words[0]):
        words = words[1:]  # a prompt
    given = _Options()
    _read_options(words[1:], given)
    if given.ignored:
        names = ", ".join(dict.fromkeys(given.ignored))
        notes.append(f"options that say nothing about the request were ignored: {names}")
    urls = given.urls or [word for word in given.doubtful if "://" in word] or given.doubtful
    if len(urls) != 1:
        came = "none" if not urls else f"{len(urls)} (an argument that is no option counts as one: is it in quotes?)"
        raise UnreadableRequest(f"expected one URL in the curl command, came {came}")
    target, host = _split_url(urls[0], notes)
    url = urls[0] if "://" in urls[0] else f"http://{urls[0]}"
    if given.target is not None:
        target = given.target
    has_data = given.data is not None
    body = given.data or b""
    if given.is_get and has_data:
        target += (b"&" if b"?" in target else b"?") + body
        body, has_data = b"", False
    method = given.method or ("HEAD" if given.is_head else "POST" if has_data else "GET")
    headers = given.headers
    settled = {name for name, _ in headers} | given.removed
    if has_data and b"content-type" not in settled:
        default = b"application/json" if given.is_json else b"application/x-www-form-urlencoded"
        headers.append((b"content-type", default))
        notes.append(f"the command gives no Content-Type, so that is {default.decode()}, as curl would send")
    if b"host" not in settled:
        headers.insert(0, (b"host", host))
    body = _settle_body(body, headers, notes)
    raw_path, _, query = target.partition(b"?")
    return CapturedRequest(Callback(method, raw_path, query, headers, body), "curl", url, tuple(dict.fromkeys(notes)))


class _Options:
    """
    What the options of a command come to.

    Attributes:
        doubtful: Arguments that may be a URL, or the value of an unknown option before them.
        removed: Headers that curl was told not to send.
    """

    def __init__(self) -> None:
        self.method: str | None = None
        self.headers: Headers = []
        self.removed: set[bytes] = set()
        self.data: bytes | None = None
        self.is_get = self.is_head = self.is_json = False
        self.target: bytes | None = None
        self.urls: list[str] = []
        self.doubtful: list[str] = []
        self.ignored: list[str] = []

    def take(self, name: str, value: str) -> None:
        if name == "request":
            if not _TOKEN.fullmatch(_encode(value)):
                raise UnreadableRequest("--request: expected the name of a method, came something else")
            self.method = value
        elif name == "header":
            self._add_header(value)
        elif name in ("user-agent", "referer", "cookie"):
            self.headers.append((name.encode(), _encode(value)))
        elif name == "url":
            self.urls.append(value)
        elif name == "request-target":
            if not value.startswith("/") or _NOT_IN_URL.search(value):
                raise UnreadableRequest("--request-target: expected a path, came something else")
            self.target = _encode(value)
        elif name == "data-urlencode":
            self._add_data(_encode_data(value), b"&")
        elif name == "json":
            self.is_json = True
            self._add_data(_literal(name, value), b"")
        else:
            self._add_data(_encode(value) if name == "data-raw" else _literal(name, value), b"&")

    def _add_data(self, data: bytes, separator: bytes) -> None:
        self.data = data if self.data is None else self.data + separator + data

    def _add_header(self, text: str) -> None:
        if text.startswith("@"):
            raise UnreadableRequest("--header @file: another file is not read; put the headers into the command")
        name, colon, value = _encode(text).partition(b":")
        if not colon:
            if not name.strip():
                return
            # curl's spelling of a header without a value.
            if not name.rstrip().endswith(b";"):
                raise UnreadableRequest("--header: expected Name: value, came text without a colon")
            name, value = name.rstrip().removesuffix(b";"), b""
        elif not value.strip():
            self.removed.add(name.strip().lower())
            return
        if not _TOKEN.fullmatch(name.strip()):
            raise UnreadableRequest("--header: expected the name of a header before the colon, came something else")
        self.headers.append((name.strip().lower(), value.strip(b" \t")))


def _literal(name: str, value: str) -> bytes:
    if value.startswith("@"):
        raise UnreadableRequest(
            f"--{name} @file: another file is not read; put the body itself into the command, or save the request as"
            " HTTP text: request line, headers, an empty line, and the body"
        )
    return _encode(value)


def _encode_data(value: str) -> bytes:
    name, equals, content = value.partition("=")
    if "@" in name:
        raise UnreadableRequest("--data-urlencode name@file: another file is not read; put the value into the command")
    if not equals:
        name, content = "", value
    encoded = quote_plus(_encode(content)).replace("+", "%20").encode("ascii")
    return _encode(name) + b"=" + encoded if name else encoded


def _read_options(words: Sequence[str], given: _Options) -> None:
    left = list(reversed(words))
    after_unknown = False
    while left:
        word = left.pop()
        was_unknown, after_unknown = after_unknown, False
        if word == "--":
            given.urls += reversed(left)
            return
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            after_unknown = _take_long(name, value if equals else None, left, given)
        elif word.startswith("-") and len(word) > 1:
            after_unknown = _take_short(word[1:], left, given)
        else:
            (given.doubtful if was_unknown else given.urls).append(word)


def _take_long(name: str, value: str | None, left: list[str], given: _Options) -> bool:
    """Returns whether the option is unknown, so that the next word may be its value."""
    if name in _REFUSED or name.startswith("expand-"):
        raise UnreadableRequest(f"--{name} can't be read: {_REFUSED.get(name, _REFUSED['variable'])}")
    if name in _WITH_VALUE:
        given.take(name, _value_of(f"--{name}", value, left))
    elif name == "get":
        given.is_get = True
    elif name == "head":
        given.is_head = True
    elif name in _HARMLESS_WITH_VALUE:
        _value_of(f"--{name}", value, left)
        given.ignored.append(f"--{name}")
    else:
        given.ignored.append(f"--{name}" if re.fullmatch(r"[a-z0-9.-]{1,40}", name) else "one with a strange name")
        return value is None
    return False


def _take_short(letters: str, left: list[str], given: _Options) -> bool:
    for index, letter in enumerate(letters):
        name = _SHORT.get(letter)
        if letter not in _SHORT_WITH_VALUE:
            if name is None:
                given.ignored.append(f"-{letter}" if letter.isalnum() or letter == "#" else "one with a strange name")
            else:
                _take_long(name, None, left, given)
            continue
        rest = letters[index + 1 :] or None
        if name is None:
            _value_of(f"-{letter}", rest, left)
            given.ignored.append(f"-{letter}")
        else:
            _take_long(name, rest, left, given)
        break
    return False


def _value_of(option: str, value: str | None, left: list[str]) -> str:
    if value is not None:
        return value
    if not left:
        raise UnreadableRequest(f"expected a value after {option}, came the end of the command")
    return left.pop()


# Words, as bash would split them

# Letters after a backslash, and what they stand for.
_ESCAPES = dict(zip("abeEfnrtv\\'\"?", "\a\b\x1b\x1b\f\n\r\t\v\\'\"?", strict=True))
_ANSI_C = re.compile(
    r"\\(?:u[dD]([89abAB][0-9A-Fa-f]{2})\\u[dD]([c-fC-F][0-9A-Fa-f]{2})|[uU]([0-9A-Fa-f]{1,8})"
    r"|x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|(.))",
    re.DOTALL,
)
_ANSI_C_STRING = re.compile(r"((?:[^'\\]++|\\.)*+)'", re.DOTALL)
_IN_DOUBLE_QUOTES = re.compile(r'((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_CMD_CONTINUATION = re.compile(r"\^[ \t]*\r?\n")
_NOT_BLANK = re.compile(r"\S")
_CONTINUATION = re.compile(r"\\([ \t]*)\r?\n")


def _split_words(text: str, notes: list[str]) -> list[str]:
    """
    Raises:
        UnreadableRequest: A quote is not closed, or the command can't be read without running it.
    """
    words: list[str] = []
    current: list[str] | None = None
    position = 0
    while position < len(text):
        letter = text[position]
        continuation = _CONTINUATION.match(text, position) if letter == "\\" else None
        if continuation is not None:
            if continuation[1]:
                notes.append("a backslash with blanks after it was read as the continuation of the line")
            position = continuation.end()
        elif letter in " \t\r\n":
            if current is not None:
                words.append("".join(current))
                current = None
            position += 1
            if letter == "\n" and words:
                following = _NOT_BLANK.search(text, position)
                if following is None:
                    break
                position = following.start()
                if following[0] not in "-'\"":
                    notes.append("the file goes on after the curl command; only the command was read")
                    break
                notes.append("a line break without a backslash was read as the continuation of the line")
        elif letter == "#" and current is None and words:
            position = end if (end := text.find("\n", position)) >= 0 else len(text)
        elif letter in "|;&<>()" and words:
            hint = ": a URL with & belongs in quotes" if letter == "&" else ""
            notes.append(f"an unquoted {letter} ends the command, the rest was ignored{hint}")
            break
        elif letter == "`" or text.startswith("$(", position):
            raise UnreadableRequest("the command has another command in it, which is not run: put its output there")
        elif letter == "^" and _CMD_CONTINUATION.match(text, position):
            raise UnreadableRequest("this command is quoted for cmd.exe: copy it as cURL (bash) instead")
        else:
            piece, position = _read_piece(text, position, notes)
            current = [] if current is None else current
            current.append(piece)
    if current is not None:
        words.append("".join(current))
    return words


def _read_piece(text: str, position: int, notes: list[str]) -> tuple[str, int]:
    """One quoted string, or one unquoted letter, and where it ends."""
    letter = text[position]
    if text.startswith("$'", position):
        match = _ANSI_C_STRING.match(text, position + 2)
        return _ANSI_C.sub(_unescape, _closed(match)[1]), _closed(match).end()
    if letter == "'":
        end = text.find("'", position + 1)
        if end < 0:
            _closed(None)
        return text[position + 1 : end], end + 1
    if letter == '"':
        match = _IN_DOUBLE_QUOTES.match(text, position + 1)
        content = _closed(match)[1]
        if re.search(r"(?<!\\)(?:`|\$\()", content):
            raise UnreadableRequest("the command has another command in it, which is not run: put its output there")
        if re.search(r"(?<!\\)\$[A-Za-z_{]", content):
            notes.append(_VARIABLE_NOTE)
        return re.sub(r'\\(?:\r?\n|([\\"$`]))', lambda found: found[1] or "", content), _closed(match).end()
    if letter == "\\":
        return text[position + 1 : position + 2], position + 2
    if letter == "$" and re.match(r"[A-Za-z_{]", text[position + 1 : position + 2]):
        notes.append(_VARIABLE_NOTE)
    return letter, position + 1


_VARIABLE_NOTE = "the command has a shell variable in it, which was taken as it is written: put its value there"


def _closed(match: re.Match[str] | None) -> re.Match[str]:
    if match is None:
        raise UnreadableRequest("expected a closing quote, came the end of the file")
    return match


def _unescape(match: re.Match[str]) -> str:
    high, low, unicode_digits, byte_digits, octal_digits, letter = match.groups()
    if high is not None:
        return chr(0x10000 + ((int(high, 16) & 0x3FF) << 10) + (int(low, 16) & 0x3FF))
    if unicode_digits is not None:
        number = int(unicode_digits, 16)
        return chr(number) if number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF else "\ufffd"
    if byte_digits is not None or octal_digits is not None:
        number = int(byte_digits, 16) if byte_digits is not None else int(octal_digits, 8) & 0xFF
        return bytes([number]).decode("utf-8", "surrogateescape")
    return _ESCAPES.get(letter, "\\" + letter)
