"""``explain``: the service's own verdict, each step to it, and the causes that people have met, by name."""

import base64
import gzip
import hashlib
import io
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.__main__ import main
from media_callbacks.commands.console.errors import UsageError
from media_callbacks.commands.explain import lines_of, read_time
from media_callbacks.config.settings import Settings, build_settings
from media_callbacks.explain.captured_request import CapturedRequest, UnreadableRequest, read_captured_request
from media_callbacks.explain.case import Explanation
from media_callbacks.explain.explaining import UnknownSource, as_json, explain
from media_callbacks.explain.surroundings import surroundings
from media_callbacks.model.errors import Rejected
from media_callbacks.rehearsal.simulate import MnsSigner, SimulatedRequest, make_mns_key
from media_callbacks.sources.base import Callback
from media_callbacks.sources.transports import mns_push
from media_callbacks.sources.transports.http import sign as sign_http
from media_callbacks.sources.transports.mns_push import MnsPushSource, string_to_sign
from tests.factories.running import (
    GIF_KEY,
    IMS_KEY,
    MTS_PATH,
    SECRETS,
    SOURCES,
    TOPIC,
    VOD_KEYS,
    build_payload,
    encode,
    make_source,
    make_tables,
    sign,
    signer,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
URL = "https://cb.example.com/callbacks/vod"
JOB = "3af7e9705cb24c0f9d23231d4c371900"
# The unguessable segment of a path is part of what is signed, and shown; everything else here never is.
HIDDEN = tuple(secret for secret in SECRETS if secret not in MTS_PATH)


def configure(changes: Mapping[str, object] | None = None) -> Settings:
    return build_settings(make_tables(Path("unused"), {}, changes), environ={})


@cache
def plain() -> Settings:
    return configure()


def genuine(name: str, *, settings: Settings | None = None, now: datetime = NOW, **options) -> SimulatedRequest:
    source = make_source(name, settings or plain())
    payload = options.pop("payload", None) or build_payload(source, JOB, event=options.pop("event", None))
    return sign(source, payload, job_id=JOB, now=now, **options)


def signed_for(url: str, key: str = VOD_KEYS[0], *, name: str = "vod", body: bytes | None = None) -> SimulatedRequest:
    """A request as VOD sends it that has another url registered, or another key."""
    request = genuine(name)
    timestamp = str(int(NOW.timestamp()))
    headers = {"X-VOD-TIMESTAMP": timestamp, "X-VOD-SIGNATURE": sign_http(url, timestamp, key)}
    return replace(request, headers=dict(request.headers) | headers, body=request.body if body is None else body)


def without(request: SimulatedRequest, *names: str) -> SimulatedRequest:
    return replace(request, headers={name: value for name, value in request.headers.items() if name not in names})


def changed(request: SimulatedRequest, **headers: str) -> SimulatedRequest:
    return replace(
        request, headers=dict(request.headers) | {name.replace("_", "-"): value for name, value in headers.items()}
    )


def push(
    payload: bytes = b'{"jobId":"J1","type":"Transcode","state":"Success"}',
    *,
    target: bytes = MTS_PATH.encode(),
    headers: Mapping[str, str] | None = None,
    leave_out: tuple[str, ...] = (),
    by: MnsSigner | None = None,
    **options,
) -> SimulatedRequest:
    """A push that was signed with another target or other headers."""
    mns = by or signer()[0]
    source = make_source("mts", plain())
    assert isinstance(source, MnsPushSource)
    request = mns.push(source, payload, now=NOW, **options)
    signed = {name: value for name, value in request.headers.items() if name not in ("Authorization", *leave_out)}
    signed |= headers or {}
    text = string_to_sign("POST", target, [(name.lower().encode(), value.encode()) for name, value in signed.items()])
    return replace(request, headers=signed | {"Authorization": mns_push.sign(text, mns.private_key)})


def ask(
    request: SimulatedRequest | bytes | CapturedRequest,
    *,
    settings: Settings | None = None,
    source: str | None = None,
    now: datetime = NOW,
    is_arrival_known: bool = True,
    certificate=None,
) -> Explanation:
    if isinstance(request, SimulatedRequest):
        request = encode(request)
    if isinstance(request, bytes):
        request = read_captured_request(request)
    around = surroundings(settings or plain(), now=now, is_arrival_known=is_arrival_known, certificate=certificate)
    explanation = explain(request, around, source_name=source)
    written = "\n".join(text for text, _ in lines_of(as_json(explanation)))
    for secret in HIDDEN:
        assert secret not in written
    values = dict(request.callback.headers)
    for name in (b"authorization", b"x-vod-signature", b"x-ice-signature"):
        value = values.get(name, b"")
        # Junk is no secret, and may happen to stand elsewhere.
        if re.search(rb"[0-9a-fA-F]{32}|[A-Za-z0-9+/]{40}", value):
            assert value.decode("utf-8", "replace") not in written
    assert explanation.verdict.state != "refused" or any(step.status == "failed" for step in explanation.steps)
    return explanation


def causes(explanation: Explanation) -> list[str]:
    return [finding.cause for finding in explanation.findings]


def step(explanation: Explanation, name: str):
    return next(found for found in explanation.steps if found.name == name)


# Genuine requests


@pytest.mark.parametrize("name", SOURCES)
def test_a_genuine_request_is_accepted_with_every_step_right_and_its_events(name):
    explanation = ask(genuine(name))
    assert explanation.verdict.state == "accepted"
    assert explanation.verdict.answer == (204 if name == "mts" else 200)
    assert {found.status for found in explanation.steps} <= {"ok", "note"}
    assert explanation.findings == []
    assert explanation.source == name
    (event,) = explanation.events
    assert event.data.source == name
    assert event.data.received_at == NOW


@pytest.mark.parametrize("push_format", ["XML", "JSON", "SIMPLIFIED"])
def test_a_genuine_push_in_each_format(push_format):
    explanation = ask(genuine("mts", push_format=push_format))
    assert explanation.verdict.state == "accepted"
    assert causes(explanation) == []
    assert step(explanation, "string to sign").lines[0] == "POST"
    assert step(explanation, "string to sign").lines[-1] == MTS_PATH


def test_a_task_with_several_outputs_gives_several_events():
    explanation = ask(genuine("vod", event="TranscodeComplete"))
    assert [event.data.kind for event in explanation.events] == ["transcode", "transcode_task"]


def test_a_source_without_keys_accepts_and_says_that_nothing_was_looked_at():
    secret_path = "/callbacks/vod/5f0c9d6e3ab144772"
    settings = configure({"sources.vod.keys": [], "sources.vod.unsigned": "accept", "sources.vod.path": secret_path})
    explanation = ask(genuine("vod", settings=settings), settings=settings)
    assert explanation.verdict.state == "accepted"
    assert explanation.events[0].data.verified_by == "none"
    assert step(explanation, "signature").status == "note"


def test_a_request_captured_before_a_proxy_that_rewrites_its_path_is_judged_as_behind_it():
    settings = configure({"sources.mts.url": "https://cb.example.com/prefix/mts?x=1"})
    request = replace(push(target=b"/prefix/mts?x=1"), target="/prefix/mts?x=1")
    explanation = ask(request, settings=settings)
    assert explanation.verdict.state == "accepted"
    assert step(explanation, "path").status == "note"


# Named causes: a request, words of the configuration to change, the cause, and words that must be said

VOD = "https://cb.example.com/callbacks/vod"
VARIANTS = {
    "scheme": (signed_for("http://cb.example.com/callbacks/vod"), "url_scheme", "http://cb.example.com/callbacks/vod"),
    "slash": (signed_for(VOD + "/"), "url_trailing_slash", VOD + "/"),
    "port": (signed_for("https://cb.example.com:443/callbacks/vod"), "url_port", ":443"),
    "http port": (signed_for("http://cb.example.com:80/callbacks/vod"), "url_port", ":80"),
    "host case": (
        signed_for("https://CB.example.com/callbacks/vod".replace("CB.example.com", "CB.EXAMPLE.COM")),
        "url_host_case",
        "CB.EXAMPLE.COM",
    ),
    "query of the request": (
        replace(signed_for(VOD + "?tenant=7"), target="/callbacks/vod?tenant=7"),
        "url_query",
        "?tenant=7",
    ),
    "path of another source": (signed_for("https://cb.example.com/callbacks/ims"), "url_path", "/callbacks/ims"),
    "blank in url": (signed_for(VOD + " "), "url_blank", "blank at its end"),
    "line break in key": (signed_for(VOD, VOD_KEYS[0] + "\n"), "key_blank", "line break at its end"),
    "blank in key": (signed_for(VOD, VOD_KEYS[1] + " "), "key_blank", "keys[1] with a blank"),
    "capitals in key": (signed_for(VOD, VOD_KEYS[0].upper()), "key_case", "in capitals"),
    "quotes in key": (signed_for(VOD, f'"{VOD_KEYS[0]}"'), "key_quotes", "quotes"),
    "key of another source": (signed_for(VOD, IMS_KEY), "key_of_other_source", "sources.ims.keys[0]"),
    "unknown key": (signed_for(VOD, "never-configured-1"), "key_unknown", "none of the configured keys"),
    "volcengine": (
        signed_for(VOD, f"{VOD_KEYS[0]}|{base64.b64encode(b'{}').decode()}", body=b"{}"),
        "other_product",
        "Volcengine",
    ),
    "no headers": (
        without(genuine("vod"), "X-VOD-TIMESTAMP", "X-VOD-SIGNATURE"),
        "signature_missing",
        "authentication is off",
    ),
    "milliseconds": (changed(genuine("vod"), X_VOD_TIMESTAMP="1767323045000"), "timestamp_form", "milliseconds"),
}


@pytest.mark.parametrize("case", VARIANTS)
def test_what_was_registered_otherwise_is_found_by_trying_and_named(case):
    request, cause, words = VARIANTS[case]
    explanation = ask(request)
    assert explanation.verdict.state == "refused"
    assert cause in causes(explanation)
    finding = next(found for found in explanation.findings if found.cause == cause)
    assert words in finding.text
    assert finding.remedy
    assert case == "volcengine" or explanation.events


def test_several_differences_are_all_named():
    explanation = ask(signed_for("http://cb.example.com:80/callbacks/vod/", VOD_KEYS[0] + "\n"))
    assert {"url_scheme", "url_port", "url_trailing_slash", "key_blank"} == set(causes(explanation))


def test_a_query_or_port_that_was_not_registered_is_named():
    settings = configure({"sources.vod.url": "https://cb.example.com:8443/callbacks/vod?a=b"})
    assert set(causes(ask(signed_for(VOD), settings=settings))) == {"url_query", "url_port"}


def test_the_key_that_verified_is_named_when_it_is_not_the_first():
    explanation = ask(signed_for(URL, VOD_KEYS[1]))
    assert explanation.verdict.state == "accepted"
    assert causes(explanation) == ["key_switched"]
    assert "keys[1] (vo***)" in explanation.findings[0].text


def test_keys_show_two_characters_and_short_ones_none():
    settings = configure({"sources.vod.keys": ["short12", "longer-key-1"]})
    lines = step(ask(signed_for(URL, "longer-key-1"), settings=settings), "signature").lines
    assert lines[0].startswith(f"{URL}|1767323045|***  ->  ")
    assert lines[1].startswith(f"{URL}|1767323045|lo***  ->  ")


@pytest.mark.parametrize("key", ["Test123", "some-other-key-1"])
def test_the_vendors_printed_example_is_recognised(key):
    settings = configure({"sources.vod.url": "https://www.example.com/your/callback", "sources.vod.keys": [key]})
    request = changed(genuine("vod"), X_VOD_TIMESTAMP="1519375990", X_VOD_SIGNATURE="c72b60894140fa98920f1279219b7ed4")
    explanation = ask(request, settings=settings)
    assert causes(explanation) == ["vendor_example"]
    assert "Test123" not in str(explanation)


@pytest.mark.parametrize("sender, source", [("vod", "ims"), ("ims", "vod")])
def test_a_request_of_the_other_product_is_recognised_by_its_headers_and_body(sender, source):
    request = replace(genuine(sender), target=f"/callbacks/{source}")
    explanation = ask(request)
    assert explanation.source == source
    assert explanation.verdict.reason == "signature_missing"
    assert causes(explanation) == ["header_family", "other_product"]
    assert f"url and key of source {sender}" in explanation.findings[0].text


@pytest.mark.parametrize("source, other", [("vod", "ims"), ("ims", "vod")])
def test_the_other_products_envelope_under_a_right_signature(source, other):
    body = build_payload(make_source(other, plain()), JOB)
    explanation = ask(genuine(source, payload=body))
    assert explanation.verdict.state == "unparsed"
    assert explanation.verdict.answer == 200
    assert causes(explanation) == ["other_product"]
    assert explanation.unparsed


@pytest.mark.parametrize(
    "late_s, words",
    [
        (8 * 3600 + 3, "time zone"),
        (-5.5 * 3600, "time zone"),
        (900, "EventTime in the body agrees"),
        (-700, "clock of this machine is behind"),
    ],
)
@pytest.mark.parametrize("name", ["vod", "mts"])
def test_a_right_signature_at_a_wrong_time_says_which_clock(name, late_s, words):
    source = make_source(name, plain())
    payload = build_payload(source, JOB) | {"EventTime": NOW.strftime("%Y-%m-%dT%H:%M:%SZ")}
    late_s = late_s * 2 if name == "mts" and abs(late_s) < 1000 else late_s
    explanation = ask(genuine(name, payload=payload), now=NOW + timedelta(seconds=late_s))
    assert explanation.verdict.reason == "stale"
    assert causes(explanation) == ["clock"]
    assert words in explanation.findings[0].text
    assert f"{abs(late_s):.0f} s" in explanation.findings[0].text
    assert explanation.events


def test_an_old_capture_without_arrival_time_says_its_age_and_how_to_go_on():
    explanation = ask(genuine("vod"), now=NOW + timedelta(days=3), is_arrival_known=False)
    assert explanation.verdict.reason == "stale"
    assert causes(explanation) == ["old_capture"]
    assert "259200 s (3.0 days) old" in explanation.findings[0].text
    assert "--at 2026-01-02T03:04:05Z" in explanation.findings[0].remedy
    assert explanation.events[0].data.verified_by == "signature"


# Pushes

PUSHES: dict[str, tuple[SimulatedRequest, dict[str, object], str, str]] = {
    "prefix stripped, guessed from a header": (
        changed(push(target=b"/cb" + MTS_PATH.encode()), X_Forwarded_Prefix="/cb"),
        {},
        "path_rewritten",
        "/cb" + MTS_PATH,
    ),
    "prefix stripped, original uri": (
        changed(push(target=b"/other/way?q=1"), X_Original_URI="/other/way?q=1"),
        {},
        "path_rewritten",
        "/other/way?q=1",
    ),
    "prefix added": (
        push(target=b"/" + MTS_PATH.encode().rpartition(b"/")[2]),
        {},
        "path_rewritten",
        "the first 2 segments left out",
    ),
    "no path": (push(target=b"/notifications"), {}, "path_rewritten", "/notifications"),
    "slash": (push(target=MTS_PATH.encode() + b"/"), {}, "path_trailing_slash", "slash"),
    "query dropped": (replace(push(), target=MTS_PATH + "?utm=1"), {}, "path_query", "without its query"),
    "url set though the path is unchanged": (
        push(),
        {"sources.mts.url": "https://cb.example.com/pre"},
        "path_rewritten",
        "own path",
    ),
    "header added": (changed(push(), **{"x-mns-trace": "1"}), {}, "header_added", "x-mns-trace"),
    "header changed": (
        changed(push(), **{"Content-Type": "text/plain; charset=UTF-8"}),
        {},
        "header_changed",
        "text/plain;charset=utf-8",
    ),
    "header removed": (without(push(), "x-mns-version"), {}, "header_removed", "x-mns-version"),
    "subscriber removed": (without(push(), "x-mns-subscriber"), {}, "header_removed", "x-mns-subscriber"),
    "no date": (without(push(), "Date"), {}, "header_removed", "date"),
    "authorization stripped": (without(push(), "Authorization"), {}, "authorization_stripped", "take it away"),
    "scheme word": (
        changed(push(), Authorization="Bearer " + push().headers["Authorization"]),
        {},
        "authorization_changed",
        "scheme word",
    ),
    "pretty": (
        replace(push(), body=b'{\n  "jobId": "J1",\n  "type": "Transcode",\n  "state": "Success"\n}'),
        {},
        "body_reserialized",
        "compact",
    ),
    "compact": (
        replace(
            push(json.dumps({"jobId": "J1", "type": "Analysis"}, indent=4).encode()),
            body=b'{"jobId":"J1","type":"Analysis"}',
        ),
        {},
        "body_reserialized",
        "indented by 4",
    ),
    "escapes": (
        replace(push('{"jobId":"J1","a":"é"}'.encode()), body=b'{"jobId":"J1","a":"\\u00e9"}'),
        {},
        "body_reserialized",
        "compact",
    ),
    "crlf": (replace(push(b'{"jobId":\n"J1"}'), body=b'{"jobId":\r\n"J1"}'), {}, "body_line_ends", "LF"),
    "lf": (replace(push(b'{"jobId":\r\n"J1"}'), body=b'{"jobId":\n"J1"}'), {}, "body_line_ends", "CR LF"),
    "final line break": (replace(push(), body=push().body + b"\n"), {}, "body_final_newline", "without the line break"),
    "final line break lost": (
        replace(push(b'{"jobId":"J1"}\n'), body=b'{"jobId":"J1"}'),
        {},
        "body_final_newline",
        "with a line break",
    ),
    "base64": (replace(push(), body=base64.b64encode(push().body)), {}, "body_base64", "before it was encoded"),
    "decoded": (
        replace(push(base64.b64encode(b'{"jobId":"J1"}')), body=b'{"jobId":"J1"}'),
        {},
        "body_base64",
        "decoded",
    ),
    "gzip": (replace(push(), body=gzip.compress(push().body)), {}, "body_gzip", "before it was compressed"),
    "other body": (replace(push(), body=b'{"jobId":"J2"}'), {}, "body_changed", "another body"),
    "digest spoilt": (changed(push(), **{"Content-MD5": "no digest"}), {}, "header_changed", "not a digest"),
    "foreign topic": (push(headers={"x-mns-topic-owner": "999"}), {}, "topic_not_allowed", "999/mts-done"),
    "foreign envelope": (
        genuine("mts", push_format="XML"),
        {"sources.mts.topics": ["1/b"]},
        "topic_not_allowed",
        TOPIC,
    ),
    "simplified, no topic": (
        push(leave_out=("x-mns-topic-owner", "x-mns-topic-name")),
        {},
        "topic_unknown",
        "SIMPLIFIED",
    ),
    "region": (
        genuine("mts", by=MnsSigner(signer()[0].private_key, "https://mns-cert.oss-cn-beijing.aliyuncs.com/x.pem")),
        {"sources.mts.certificates": None},
        "certificate_region",
        "cn-beijing",
    ),
    "not pinned": (
        genuine("mts", by=MnsSigner(signer()[0].private_key, "https://mns-cert.oss-cn-beijing.aliyuncs.com/x.pem")),
        {},
        "certificate_not_pinned",
        "not pinned",
    ),
    "somebody's certificate": (
        genuine("mts", by=MnsSigner(signer()[0].private_key, "https://evil.example/x.pem")),
        {},
        "certificate_url",
        "not one of the vendor's",
    ),
    "somebody's key": (genuine("mts", by=MnsSigner(make_mns_key(now=NOW)[0])), {}, "signature_unknown", "neither"),
}


@pytest.mark.parametrize("case", PUSHES)
def test_what_a_proxy_did_to_a_push_is_found_by_trying_and_named(case):
    request, changes, cause, words = PUSHES[case]
    explanation = ask(request, settings=configure(changes))
    assert explanation.verdict.state in ("refused", "undecided")
    assert cause in causes(explanation)
    assert any(words in found.text for found in explanation.findings if found.cause == cause)
    assert all(found.remedy for found in explanation.findings)


@pytest.mark.parametrize("number, words", [(0, "documented"), (1, "upper-case"), (2, "lower-case"), (3, "RFC 1864")])
def test_the_spelling_of_the_digest_is_named(number, words):
    digest = hashlib.md5(push().body, usedforsecurity=False)
    text = digest.hexdigest()
    value = [base64.b64encode(text.encode()).decode(), text.upper(), text, base64.b64encode(digest.digest()).decode()]
    explanation = ask(push(headers={"Content-MD5": value[number]}))
    assert explanation.verdict.state == "accepted"
    assert words in step(explanation, "Content-MD5").came


def test_without_a_certificate_the_signature_is_not_checked_and_with_one_it_is():
    settings = configure({"sources.mts.certificates": None})
    explanation = ask(genuine("mts"), settings=settings)
    assert explanation.verdict.state == "undecided"
    assert explanation.verdict.answer is None
    assert step(explanation, "signature").status == "not checked"
    assert explanation.events
    key = signer()[0].private_key.public_key()
    assert ask(genuine("mts"), settings=settings, certificate=key).verdict.state == "accepted"


def test_a_certificate_that_fits_where_the_pinned_one_does_not_is_named():
    other = make_mns_key(now=NOW)[0]
    explanation = ask(genuine("mts", by=MnsSigner(other)), certificate=other.public_key())
    assert explanation.verdict.reason == "signature_mismatch"
    assert causes(explanation) == ["certificate_changed"]


def test_a_message_that_means_too_much_is_unparsed_as_it_is_in_the_service():
    infos = [{"JobId": f"job-{number}"} for number in range(20)]
    body = {"EventType": "SnapshotComplete", "VideoId": "v", "SnapshotInfos": infos, "Extend": "x" * 300_000}
    explanation = ask(genuine("vod", payload=body))
    assert (explanation.verdict.state, explanation.events) == ("unparsed", ())
    assert explanation.unparsed is not None
    assert explanation.unparsed.startswith("expected at most 4194304 bytes of events, the first 14 of 20 have 42")


def test_a_message_that_is_not_the_published_one_is_unparsed_with_its_reason():
    request = push(push_format="JSON")
    body = request.body.replace(b"Transcode", b"Transcoda")
    digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
    text = {name: value for name, value in request.headers.items() if name != "Authorization"} | {"Content-MD5": digest}
    signed = string_to_sign("POST", MTS_PATH.encode(), [(n.lower().encode(), v.encode()) for n, v in text.items()])
    headers = text | {"Authorization": mns_push.sign(signed, signer()[0].private_key)}
    explanation = ask(replace(request, headers=headers, body=body))
    assert explanation.verdict.state == "unparsed"
    assert step(explanation, "MessageMD5").status == "failed"


@pytest.mark.parametrize("name", ["vod", "ims"])
def test_bodies_that_were_wrapped_are_named_with_what_they_hold(name):
    body = genuine(name).body
    assert causes(ask(replace(genuine(name), body=base64.b64encode(body)))) == ["body_base64"]
    compressed = ask(replace(genuine(name), body=gzip.compress(body)))
    assert compressed.verdict.state == "unparsed"
    assert causes(compressed) == ["body_gzip"]
    assert "it can be read" in compressed.findings[0].text
    wrapped = ask(replace(genuine(name), body=json.dumps(body.decode()).encode()))
    assert causes(wrapped) == ["body_reserialized"]


# Minted URLs


def token() -> str:
    return genuine("gif").target.rpartition("/")[2]


OTHER_GIF_KEY = base64.b64encode(b"another key of thirty-two bytes!").decode()
TOKENS = {
    "slash": (f"/callbacks/gif/{token()}/", {}, 404, "token_place"),
    "padding": (f"/callbacks/gif/{token()}=", {}, 404, "token_place"),
    "in the query": (f"/callbacks/gif/x?t={token()}", {}, 404, "token_place"),
    "cut": (f"/callbacks/gif/{token()[:-2]}", {}, 404, "token_shape"),
    "altered": (f"/callbacks/gif/{token()[:-6]}AAAAAA", {}, 404, "key_unknown"),
    "key removed": (f"/callbacks/gif/{token()}", {"sources.gif.keys": [f"2:{OTHER_GIF_KEY}"]}, 404, "key_switched"),
    "key renumbered": (f"/callbacks/gif/{token()}", {"sources.gif.keys": [f"2:{GIF_KEY}"]}, 404, "key_switched"),
    "key replaced": (f"/callbacks/gif/{token()}", {"sources.gif.keys": [f"1:{OTHER_GIF_KEY}"]}, 404, "key_unknown"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_what_is_wrong_with_a_minted_url_is_named_and_the_token_never_shown(case):
    target, changes, status, cause = TOKENS[case]
    explanation = ask(replace(genuine("gif"), target=target), settings=configure(changes))
    assert explanation.verdict.answer == status
    assert cause in causes(explanation)
    assert token()[:20] not in str(explanation)
    assert bool(explanation.events) == (case != "cut")


def test_what_stands_in_the_place_of_a_token_is_never_shown():
    explanation = ask(replace(genuine("gif"), target="/callbacks/gif/half-a-token"))
    assert explanation.verdict.answer == 404
    assert "half-a-token" not in str(explanation)


def test_an_expired_token_shows_its_fields_and_its_events():
    explanation = ask(genuine("gif"), now=NOW + timedelta(days=9))
    assert explanation.verdict.reason == "expired_token"
    assert causes(explanation) == ["expired"]
    assert "key id 1, expires 2026-01-02T03:14:05Z, nonce " in step(explanation, "token fields").came
    assert explanation.events
    unknown = ask(genuine("gif"), now=NOW + timedelta(days=9), is_arrival_known=False)
    assert causes(unknown) == ["old_capture"]


# Which source


@pytest.mark.parametrize("name", SOURCES)
def test_a_request_on_an_unknown_path_is_told_by_what_it_looks_like(name):
    target = "/elsewhere" + ("/" + token() if name == "gif" else "")
    explanation = ask(replace(genuine(name), target=target))
    assert explanation.source == name
    assert explanation.verdict.answer == 404
    assert "no source has the request's path" in step(explanation, "source").came
    assert token()[:20] not in str(explanation)


def test_a_request_that_nothing_is_known_about_is_refused_without_a_source():
    explanation = ask(b"POST /elsewhere HTTP/1.1\n\nhello")
    assert (explanation.source, explanation.verdict.answer) == (None, 404)
    assert causes(explanation) == ["path_unknown"]


def test_the_source_can_be_named():
    assert ask(genuine("vod"), source="ims").source == "ims"
    with pytest.raises(UnknownSource):
        ask(genuine("vod"), source="none")


@pytest.mark.parametrize(
    "target, cause",
    [
        ("/callbacks/vod/", "path_trailing_slash"),
        ("/Callbacks/vod", "path_case"),
        ("/x/callbacks/vod", "path_rewritten"),
    ],
)
def test_a_path_that_is_nearly_ours_says_how_it_differs(target, cause):
    explanation = ask(replace(genuine("vod"), target=target))
    assert explanation.verdict.answer == 404
    assert causes(explanation) == [cause]
    assert explanation.events[0].data.job_id == JOB


def test_method_and_sizes_are_judged_as_the_service_does():
    assert ask(replace(genuine("vod"), method="GET")).verdict.answer == 405
    assert ask(changed(genuine("vod"), Cookie="x" * 20_000)).verdict.answer == 431
    large = ask(genuine("vod"), settings=configure({"server.max_body_bytes": 1024}))
    assert large.verdict.state == "accepted"
    body = genuine("vod").body + b" " * 1024
    large = ask(replace(genuine("vod"), body=body), settings=configure({"server.max_body_bytes": 1024}))
    assert large.verdict.answer == 413
    assert "body_too_large" in causes(large)


# Always: the source's own verdict, no exception, nothing secret


HEADER_NAMES = [
    b"x-vod-timestamp",
    b"x-vod-signature",
    b"x-ice-signature",
    b"authorization",
    b"content-md5",
    b"content-type",
    b"date",
    b"x-mns-date",
    b"x-mns-signing-cert-url",
    b"x-mns-topic-owner",
    b"x-mns-version",
    b"x-original-uri",
    b"host",
]


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(SOURCES),
    headers=st.lists(st.tuples(st.sampled_from(HEADER_NAMES), st.binary(max_size=40)), max_size=3),
    dropped=st.sets(st.sampled_from(HEADER_NAMES), max_size=2),
    body=st.none() | st.binary(max_size=60) | st.just(b'{"EventType":"x"}'),
    target=st.none() | st.binary(max_size=60),
    query=st.binary(max_size=20),
    late_s=st.integers(-2000, 2000),
    named=st.booleans(),
)
def test_whatever_was_changed_the_verdict_is_the_sources_own(
    *, name, headers, dropped, body, target, query, late_s, named
):
    captured = read_captured_request(encode(genuine(name)))
    genuine_callback = captured.callback
    kept = [(key, value) for key, value in genuine_callback.headers if key not in dropped]
    callback = Callback(
        "POST",
        genuine_callback.raw_path if target is None else b"/" + target,
        query,
        [*kept, *headers],
        genuine_callback.body if body is None else body,
    )
    now = NOW + timedelta(seconds=late_s)
    explanation = ask(replace(captured, callback=callback), source=name if named else None, now=now)
    if explanation.source is None or callback.raw_path != genuine_callback.raw_path:
        assert explanation.verdict.answer in (404, None) or explanation.verdict.state in (
            "accepted",
            "unparsed",
            "refused",
        )
        return
    source = make_source(explanation.source, plain())
    try:
        key = signer()[0].private_key.public_key() if source.certificate_url(callback) else None
        source.verify(callback, now=now, public_key=key)
    except Rejected as error:
        expected: tuple[str, int, str | None] = ("refused", error.status, error.reason)
    else:
        expected = ("genuine", source.success_status, None)
    verdict = explanation.verdict
    state = "genuine" if verdict.state in ("accepted", "unparsed") else verdict.state
    assert (state, verdict.answer, None if state == "genuine" else verdict.reason) == expected


@settings(max_examples=200, deadline=None)
@given(
    raw=st.binary(max_size=200),
    start=st.sampled_from([b"", b"POST /callbacks/vod HTTP/1.1\n", b"curl h/x ", b"POST /callbacks/gif/"]),
)
def test_any_file_is_explained_or_refused_with_a_sentence(raw, start):
    try:
        captured = read_captured_request(start + raw)
    except UnreadableRequest:
        return
    explanation = ask(captured)
    json.dumps([text for text, _ in lines_of(as_json(explanation))]).encode()
    assert all(text.isprintable() for text, _ in lines_of(as_json(explanation)))


# The command


@pytest.fixture
def config(tmp_path):
    _, certificate = signer()
    (tmp_path / "mns.pem").write_text(certificate)
    path = tmp_path / "media-callbacks.toml"
    path.write_text(f"""
[server]
[admin]
[store]
url = "sqlite:///{tmp_path}/x.db"
[sources.vod]
product = "vod"
transport = "http"
path = "/callbacks/vod"
url = "{URL}"
keys = ["{VOD_KEYS[0]}", "{VOD_KEYS[1]}"]
[sources.mts]
product = "mts"
transport = "mns-push"
path = "{MTS_PATH}"
topics = ["{TOPIC}"]
""")
    return path


def run(config: Path, *arguments: str) -> int:
    return main(["explain", "--config", str(config), *arguments])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "request.txt"
    path.write_bytes(encode(genuine("vod")))
    return path


def test_the_command_prints_steps_events_and_verdict(config, file, capsys):
    assert run(config, str(file), "--at", "2026-01-02T03:04:05Z") == 0
    written = capsys.readouterr().out
    assert f"{URL}|1767323045|vo***" in written
    assert '"type": "media.animated_image.succeeded"' in written
    assert written.rstrip().splitlines()[-1].startswith("accepted, answered with 200")
    assert not any(secret in written for secret in HIDDEN)


def test_the_command_says_the_age_and_fails_when_the_capture_is_old(config, file, capsys):
    assert run(config, str(file)) == 1
    written = capsys.readouterr().out
    assert "old_capture: the signature is right and" in written
    assert "do: give the moment of arrival" in written
    assert "give --at" in written


def test_json_is_one_object_on_one_line(config, file, capsys):
    assert run(config, str(file), "--at", "1767323045", "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["verdict"]["state"] == "accepted"
    assert found["judged_at"] == "2026-01-02T03:04:05Z"
    assert found["events"][0]["data"]["job_id"] == JOB
    assert [step["name"] for step in found["steps"]][:3] == ["source", "path", "method"]


def test_standard_input_and_a_certificate(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(encode(genuine("mts")))))
    at = ["--at", "Fri, 02 Jan 2026 03:04:05 GMT"]
    assert run(config, "-", *at, "--certificate", str(tmp_path / "mns.pem")) == 0
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(encode(genuine("mts")))))
    assert run(config, "-", *at) == 1
    assert "undecided: everything but the signature was checked" in capsys.readouterr().out


def test_a_curl_command_is_explained(config, tmp_path, capsys):
    request = genuine("vod")
    headers = " ".join(f"-H '{name}: {value}'" for name, value in request.headers.items())
    command = f"curl '{URL}' \\\n  -X POST {headers} --compressed --data-raw '{request.body.decode()}'\n"
    (tmp_path / "c.sh").write_text(command)
    assert run(config, str(tmp_path / "c.sh"), "--at", "2026-01-02T03:04:05") == 0
    assert "ignored: --compressed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.txt"], "FILE: cannot read missing.txt"),
        (["."], "FILE: cannot read ."),
        (["FILE", "--at", "yesterday"], "--at: expected a time"),
        (["FILE", "--at", "999999999999"], "--at: expected a time"),
        (["FILE", "--certificate", "missing.pem"], "--certificate: cannot read missing.pem"),
        (["FILE", "--certificate", "FILE"], "expected a certificate in PEM form"),
        (["FILE", "--source", "none"], "--source: expected one of vod, mts"),
        (["EMPTY"], "expected a request, came an empty file"),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(*, config, file, capsys, arguments, message, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    names = {"FILE": str(file), "EMPTY": str(tmp_path / "empty")}
    assert run(config, *(names.get(argument, argument) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05Z", "2026-01-02 04:04:05+01:00", "1767323045", "1767323045.0"])
def test_times_of_arrival_are_read_in_several_forms(text):
    assert read_time(text) == NOW


@pytest.mark.parametrize("text", ["", "x", "2026-13-01", "9" * 12, "Fri, 99 Jan 2026 03:04:05 GMT"])
def test_other_times_are_refused(text):
    with pytest.raises(UsageError):
        read_time(text)
