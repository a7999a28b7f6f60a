"""Nothing that is kept of a refused request lets anybody in, whatever the configuration and however it was spelled."""

import base64
import html
import json
import re
import string
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from media_callbacks.admin.models.answers import RefusedDetail
from media_callbacks.admin.refused import tell_afterwards
from media_callbacks.commands.refused import refused_lines
from media_callbacks.config.settings import Settings, build_settings
from media_callbacks.explain.refused import RefusalExplainer
from media_callbacks.model.errors import ServiceError
from media_callbacks.observe.redacting import MAX_DOCUMENT_BYTES, Redactor
from media_callbacks.observe.refused import RefusedRequest
from media_callbacks.sources.base import Callback
from media_callbacks.upkeep.activity import job_in
from tests.factories.operators import FAMILIES
from tests.factories.running import (
    ADMIN_TOKEN,
    SOURCES,
    VOD_KEYS,
    build_payload,
    make_source,
    make_tables,
    sign,
    signer,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
JOB = "3af7e9705cb24c0f9d23231d4c371900"


def configure(changes: Mapping[str, Any] | None = None) -> Settings:
    return build_settings(make_tables(Path("unused"), {}, changes), environ={})


PLAIN = configure()


def keep(
    callback: Callback, *, settings: Settings = PLAIN, source: str = "vod", is_whole: bool = True, detail: str = "wrong"
) -> tuple[str, str]:
    """The document that is kept, and all that the command prints of it."""
    request = RefusedRequest(source, NOW, 403, "signature_mismatch", detail, callback, is_whole)
    redactor = Redactor(settings)
    explanation = None
    if is_whole:
        # Nothing is cut off, however slow this machine is.
        explanation = RefusalExplainer(settings, lambda _: None, lambda: 0.0).explain(request)
    document = redactor.make_document(request, explanation)
    kept, job_id = json.loads(document), job_in(document)
    shown = RefusedDetail.model_validate(
        {
            "id": 1,
            "refused_at": NOW,
            "source": source,
            "status": 403,
            "reason": "signature_mismatch",
            "cause": "",
            "detail": redactor.redact(detail, callback),
            "job_id": job_id,
        }
        | json.loads(document)
        | {"afterwards": tell_afterwards(settings.sources.get(source), FAMILIES["vod"], job_id, kept["explanation"])}
    )
    return document, "\n".join(line for line, _ in refused_lines(shown))


def genuine(name: str, settings: Settings = PLAIN) -> Callback:
    source = make_source(name, settings)
    request = sign(source, build_payload(source, JOB), job_id=JOB, now=NOW)
    path, _, query = request.target.partition("?")
    headers = [(key.lower().encode(), value.encode()) for key, value in request.headers.items()]
    return Callback(request.method, path.encode(), query.encode(), headers, request.body)


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "upper case": str.upper,
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded wholly": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "percent-encoded twice": lambda text: quote("".join(f"%{byte:02X}" for byte in text.encode()), safe=""),
    "as a form has it": lambda text: quote(text, safe=" ").replace(" ", "+"),
    "escaped": escaped,
    "escaped twice": lambda text: json.dumps(escaped(text))[1:-1],
    "in JSON": lambda text: json.dumps(text)[1:-1],
    "in JSON in JSON": lambda text: json.dumps(json.dumps(text))[1:-1],
    "in XML": html.escape,
    "in numbers of XML": lambda text: "".join(f"&#{ord(letter)};" for letter in text),
    "in Base64": lambda text: base64.b64encode(f"({text})".encode()).decode(),
}
_PLACES: Mapping[str, Callable[[Callback, str], Callback]] = {
    "query": lambda c, text: Callback(c.method, c.raw_path, text.encode(), c.headers, c.body),
    "query value": lambda c, text: Callback(c.method, c.raw_path, b"a=1&b=" + text.encode() + b"&c", c.headers, c.body),
    "path": lambda c, text: Callback(c.method, c.raw_path + b"/" + text.encode(), c.query, c.headers, c.body),
    "body": lambda c, text: Callback(c.method, c.raw_path, c.query, c.headers, text.encode()),
    "JSON body": lambda c, text: Callback(
        c.method, c.raw_path, c.query, c.headers, b'{"EventType":"x","UserData":"' + text.encode() + b'"}'
    ),
    "body before": lambda c, text: Callback(c.method, c.raw_path, c.query, c.headers, c.body + text.encode() + c.body),
    "user-agent": lambda c, text: Callback(
        c.method, c.raw_path, c.query, [*c.headers, (b"user-agent", text.encode())], c.body
    ),
    "host": lambda c, text: Callback(c.method, c.raw_path, c.query, [*c.headers, (b"host", text.encode())], c.body),
    "unknown header": lambda c, text: Callback(
        c.method, c.raw_path, c.query, [*c.headers, (b"x-whatever", text.encode())], c.body
    ),
    "method": lambda c, text: Callback(re.sub(r"[^!-~]", "", text) or "GET", c.raw_path, c.query, c.headers, c.body),
    "header name": lambda c, text: Callback(
        c.method, c.raw_path, c.query, [*c.headers, (text.lower().encode(), b"1")], c.body
    ),
}
_WRITTEN = st.text(string.ascii_letters + string.digits + "-._~!$*+/=:@\"'\\<&%{", min_size=8, max_size=40).filter(
    # What is made of one sign alone may stand in words of ours; $NAME and %NAME% are refused as secrets, ${NAME} is read.
    lambda text: len(set(text.lower())) > 4 and text[0] not in "$%" and "${" not in text
)
_SEGMENTS = st.from_regex(r"[a-zA-Z0-9._~-]{5,30}[0-9][a-zA-Z0-9._~-]{5,30}", fullmatch=True)


def assert_hidden(secret: str, *texts: str) -> None:
    """Neither it, nor what one of our own decoders makes it of."""
    for text in texts:
        # Of a document the texts that are in it: that is what one reads.
        lowered = text.lower()
        for spelling in SPELLINGS.values():
            assert spelling(secret).lower() not in lowered, text


def test_the_name_of_a_header_that_may_be_base64_is_not_shown() -> None:
    callback = genuine("vod")
    spelled = SPELLINGS["in Base64"](VOD_KEYS[0])
    document, printed = keep(_PLACES["header name"](callback, spelled))
    assert_hidden(VOD_KEYS[0], *texts_of(json.loads(document)), printed)


@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_secret_of_any_configuration_is_kept_wherever_a_request_has_it(data: st.DataObject) -> None:
    key, old_key, token, segment, mts_segment = (
        data.draw(_WRITTEN),
        data.draw(_WRITTEN),
        data.draw(
            st.from_regex(r"[!-~]{16,40}", fullmatch=True).filter(
                lambda text: text[0] not in "$%<{" and "${" not in text
            )
        ),
        data.draw(_SEGMENTS),
        data.draw(_SEGMENTS),
    )
    settings = configure(
        {
            "sources.vod.keys": [key, old_key],
            "sources.ims.keys": [],
            "sources.ims.unsigned": "accept",
            "sources.ims.confirm": "never",
            "sources.ims.path": f"/ims/{segment}",
            "sources.mts.path": f"/mts/{mts_segment}",
            "admin.token": token,
        }
    )
    secret = data.draw(st.sampled_from([key, old_key, token, segment, mts_segment]))
    spelled = SPELLINGS[data.draw(st.sampled_from(sorted(SPELLINGS)))](secret)
    name = data.draw(st.sampled_from(SOURCES))
    callback = _PLACES[data.draw(st.sampled_from(sorted(_PLACES)))](genuine(name, settings), spelled)
    document, printed = keep(callback, settings=settings, source=data.draw(st.sampled_from([name, "none"])))
    assert_hidden(secret, *texts_of(json.loads(document)), printed)


def texts_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in texts_of(item)]


@given(
    name=st.sampled_from(
        [
            "authorization",
            "x-vod-signature",
            "x-ice-signature",
            "ali-live-signature",
            "x-hub-signature-256",
            "cookie",
            "proxy-authorization",
            "x-amz-security-token",
            "x-api-key",
            "x-forwarded-access-token",
        ]
    ),
    value=st.from_regex(r"(MNS |Bearer |Basic |sha256=|session=)?[A-Za-z0-9+/]{20,60}={0,2}", fullmatch=True),
    place=st.sampled_from(sorted(_PLACES)),
    spelling=st.sampled_from(sorted(SPELLINGS)),
    source=st.sampled_from(SOURCES),
)
def test_what_a_request_brought_to_be_let_in_is_kept_nowhere(
    name: str, value: str, place: str, spelling: str, source: str
) -> None:
    callback = genuine(source)
    callback.headers = [
        *(header for header in callback.headers if header[0].decode() != name),
        (name.encode(), value.encode()),
    ]
    secret = re.split(r"[ =]", value.rstrip("="))[-1]
    document, printed = keep(_PLACES[place](callback, SPELLINGS[spelling](secret)), source=source)
    assert_hidden(secret, *texts_of(json.loads(document)), printed)


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_kept_of_a_genuine_request_can_not_be_sent_again(name: str) -> None:
    """Whatever it was refused for: what can be made of the document is refused by the source itself."""
    callback = genuine(name)
    verify(name, callback)
    request = json.loads(keep(callback, source=name)[0])["request"]
    path, _, query = request["target"].partition("?")
    headers = [(name.encode(), value.encode()) for name, value in request["headers"]]
    again = Callback(request["method"], path.encode(), query.encode(), headers, request["body"].encode())
    with pytest.raises(ServiceError):
        verify(name, again)


def verify(name: str, callback: Callback) -> None:
    source = make_source(name, PLAIN)
    is_signed_by_mns = source.certificate_url(callback) is not None
    source.verify(callback, now=NOW, public_key=signer()[0].private_key.public_key() if is_signed_by_mns else None)


def test_of_a_source_without_keys_the_path_is_what_is_secret() -> None:
    settings = configure(
        {
            "sources.vod.keys": [],
            "sources.vod.unsigned": "accept",
            "sources.vod.confirm": "never",
            "sources.vod.path": "/vod/ab12cd",
        }
    )
    callback = Callback("PUT", b"/vod/ab12cd", b"", [(b"x-forwarded-uri", b"/vod/ab12cd")], b"{}")
    for document in keep(callback, settings=settings, detail="sent to /vod/ab12cd"):
        assert "ab12cd" not in document


def test_what_explains_it_is_kept() -> None:
    callback = genuine("vod", configure({"sources.vod.url": "http://cb.example.com/callbacks/vod"}))
    document, printed = keep(callback)
    assert json.loads(document)["explanation"]["findings"][0]["cause"] == "url_scheme"
    assert json.loads(document)["request"]["target"] == "/callbacks/vod"
    assert JOB in document
    assert "the vendor has http://cb.example.com/callbacks/vod registered" in printed


def test_no_part_of_a_key_and_no_digit_of_a_digest_is_kept() -> None:
    """With a few digits of a digest somebody could find out a weak key."""
    callback = genuine("vod")
    signature = dict(callback.headers)[b"x-vod-signature"].decode().lower()
    for headers in ([], [(b"x-vod-timestamp", b"1767323045"), (b"x-vod-signature", b"0" * 32)], callback.headers):
        document, printed = keep(Callback("POST", b"/callbacks/vod", b"", headers, callback.body))
        for text in (document, printed):
            assert signature[:6] not in text
            assert not re.search(r"[0-9a-f]{6}…|u2026", text)
            assert not any(f"{key[:2]}***" in text for key in VOD_KEYS)
    assert "***" in document


@pytest.mark.parametrize(
    "callback",
    [
        Callback("POST", b"/" + b"\xff" * 16_000, b"", [], b"{}"),
        Callback("POST", b"/callbacks/vod", b"&".join(b"%016d" % n for n in range(900)), [], b"{}"),
        Callback("POST", b"/callbacks/vod", b"", [(b"x-token-%d" % n, b"v%010d" % n) for n in range(500)], b"{}"),
        Callback("POST", b"/callbacks/vod", b"", [(b"host", b"\x01" * 300)] * 50, b"{}"),
        Callback("POST", b"/callbacks/vod", b"", [], b"\x00" * 8192),
        Callback("POST", b"/callbacks/vod", b"", [], b"\xff" * 8192),
        Callback("POST", b"/callbacks/vod", b"", [], b"[" * 8192),
        Callback("POST", b"/callbacks/vod", b"", [], b'"' + b"\\" * 8191),
        Callback("POST", b"/callbacks/vod", b"", [], b"%25" * 2700),
        Callback("POST", b"/callbacks/vod", b"", [], b"QUFB" * 2000),
        Callback("POST", b"/callbacks/vod", b"", [], VOD_KEYS[0].encode() * 400),
        Callback("POST", b"/callbacks/vod", b"", [], b'{"EventType":"\\ud800","UserData":"\\u0000"}'),
    ],
)
def test_whatever_is_sent_a_document_is_small_and_can_be_read(callback: Callback) -> None:
    for is_whole in (True, False):
        document, printed = keep(callback, is_whole=is_whole)
        assert len(document) <= MAX_DOCUMENT_BYTES
        assert document.isascii()
        assert json.loads(document)["request"]["body_bytes"] == len(callback.body)
        assert VOD_KEYS[0] not in document + printed


def test_tokens_of_operators_who_took_the_wrong_port_are_kept_nowhere() -> None:
    settings = configure({"admin.token": ADMIN_TOKEN})
    headers = [(b"authorization", b"Bearer " + ADMIN_TOKEN.encode())]
    callback = Callback("GET", b"/v1/events", b"token=" + ADMIN_TOKEN.encode(), headers, ADMIN_TOKEN.encode())
    for text in keep(callback, settings=settings, source="none"):
        assert ADMIN_TOKEN not in text


def test_to_explain_takes_no_longer_than_it_may() -> None:
    """Counted in looks at the clock, each of which says that another millisecond has gone."""
    now = iter(range(10_000))
    explainer = RefusalExplainer(PLAIN, lambda _: None, lambda: next(now) / 1000)
    headers = [(b"x-vod-timestamp", b"1767323045"), (b"x-vod-signature", b"0" * 32)]
    headers += [(b"x-forwarded-host", b"host-%d.example.com:80%d" % (n, n)) for n in range(8)]
    callback = Callback("POST", b"/callbacks/vod", b"a=1", headers, b"{}")
    explanation = explainer.explain(RefusedRequest("vod", NOW, 403, "signature_mismatch", "", callback, True))
    assert any("not everything" in note for note in explanation["notes"])
    assert next(now) < 50
