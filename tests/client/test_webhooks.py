"""What applications verify webhooks with, against what the service signs and what the standard's own library signs."""

import base64
import email
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import standardwebhooks
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from standardwebhooks import Webhook
from starlette.datastructures import Headers as StarletteHeaders
from werkzeug.datastructures import Headers as WerkzeugHeaders

from media_callbacks.client.webhooks import TOLERANCE_S, WebhookVerificationError, verify
from media_callbacks.model.events import Delivery, UnknownEvent
from media_callbacks.sinks.webhook import build_headers
from tests.inbox.conformance import make_event

KEY, OTHER_KEY = b"the secret of the orders", b"a secret that nobody has"
SECRET, OTHER_SECRET = ("whsec_" + base64.b64encode(key).decode() for key in (KEY, OTHER_KEY))
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
EVENT = make_event(user_data="Bestellung 7 – ¥")
BODY = EVENT.to_json()


def headers_of(*keys: bytes, body: bytes = BODY, at: datetime = NOW) -> dict[str, str]:
    """As the sink sends them."""
    return build_headers(Delivery(1, "orders", EVENT.id, body, 1, ""), keys or [KEY], int(at.timestamp()))


def sign(body: bytes, *, event_id: str = EVENT.id, timestamp: str = str(int(NOW.timestamp()))) -> dict[str, str]:
    """Whatever they are: rightly signed."""
    signed = f"{event_id}.{timestamp}.".encode("utf-8", "surrogatepass") + body
    signature = "v1," + base64.b64encode(hmac.digest(KEY, signed, "sha256")).decode()
    return {"webhook-id": event_id, "webhook-timestamp": timestamp, "webhook-signature": signature}


def test_what_the_service_sends_is_an_event():
    assert verify(headers_of(), BODY, secrets=[SECRET], now=NOW) == EVENT


def test_what_another_library_signs_is_taken_too():
    signature = Webhook(SECRET).sign(EVENT.id, NOW, BODY.decode())
    headers = {
        "Webhook-Id": EVENT.id,
        "WEBHOOK-TIMESTAMP": str(int(NOW.timestamp())),
        "webhook-signature": f"v1a,abc {signature}",
    }
    assert verify(headers, BODY, secrets=[SECRET], now=NOW) == EVENT


@pytest.mark.parametrize("signers", [[KEY], [KEY, OTHER_KEY], [OTHER_KEY, KEY]])
@pytest.mark.parametrize("known", [[SECRET], [SECRET, OTHER_SECRET], [OTHER_SECRET, SECRET]])
def test_a_secret_takes_the_place_of_another_without_a_gap(signers, known):
    assert verify(headers_of(*signers), BODY, secrets=known, now=NOW) == EVENT


def test_the_present_is_now_unless_it_is_given():
    assert verify(headers_of(at=datetime.now(UTC)), BODY, secrets=[SECRET]) == EVENT


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"webhook-id": ""}, "expected the headers"),
        ({"webhook-timestamp": ""}, "expected the headers"),
        ({"webhook-signature": ""}, "expected the headers"),
        ({"webhook-id": "evt_1"}, "webhook-signature"),
        ({"webhook-timestamp": str(int(NOW.timestamp()) + 1)}, "webhook-signature"),
        ({"webhook-signature": headers_of(OTHER_KEY)["webhook-signature"]}, "webhook-signature"),
        ({"webhook-signature": headers_of()["webhook-signature"].removeprefix("v1,")}, "webhook-signature"),
        ({"webhook-signature": headers_of()["webhook-signature"].replace("v1,", "v2,")}, "webhook-signature"),
        ({"webhook-signature": headers_of()["webhook-signature"] + "ä"}, "webhook-signature"),
        (sign(BODY, timestamp="yesterday"), "webhook-timestamp: expected seconds"),
        (sign(BODY, timestamp="-1"), "webhook-timestamp: expected seconds"),
        (sign(BODY, timestamp="9" * 5000), "webhook-timestamp: expected seconds"),
        (sign(BODY, timestamp="١٢٣"), "webhook-timestamp: expected seconds"),
        (headers_of(at=NOW - timedelta(seconds=TOLERANCE_S + 1)), "came one 301 s old"),
        (headers_of(at=NOW + timedelta(seconds=TOLERANCE_S + 1)), "came one -301 s old"),
    ],
)
def test_what_is_not_signed_or_not_fresh_is_refused(changes, said):
    with pytest.raises(WebhookVerificationError, match=said) as raised:
        verify(headers_of() | changes, BODY, secrets=[SECRET], now=NOW)
    assert raised.value.status == 401
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("age_s", [-TOLERANCE_S, TOLERANCE_S])
def test_clocks_may_differ_as_far_as_is_tolerated(age_s):
    headers = headers_of(at=NOW - timedelta(seconds=age_s))
    assert verify(headers, BODY, secrets=[SECRET], now=NOW) == EVENT
    with pytest.raises(WebhookVerificationError):
        verify(headers, BODY, secrets=[SECRET], now=NOW, tolerance_s=TOLERANCE_S - 1)


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"{}", b"[" * 100_000, b"9" * 5000, BODY.replace(b'"animated_image"', b'"hologram"')]
)
def test_what_is_signed_and_no_event_is_refused(body):
    with pytest.raises(WebhookVerificationError, match="expected an event") as raised:
        verify(sign(body), body, secrets=[SECRET], now=NOW)
    assert raised.value.__cause__ is not None
    assert raised.value.status == 400


def test_what_is_signed_and_only_a_later_version_knows_is_an_unknown_event():
    body = BODY.replace(b"animated_image", b"hologram")
    event = verify(sign(body), body, secrets=[SECRET], now=NOW)
    assert isinstance(event, UnknownEvent)
    assert event.data["kind"] == "hologram"


@given(position=st.integers(0, len(BODY) * 8 - 1))
def test_a_flipped_bit_is_refused(position):
    body = bytearray(BODY)
    body[position // 8] ^= 1 << position % 8
    with pytest.raises(WebhookVerificationError, match="webhook-signature"):
        verify(headers_of(), bytes(body), secrets=[SECRET], now=NOW)


def as_bytes(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


WAYS: dict[str, Callable[[dict[str, str]], Any]] = {
    "of ASGI": as_bytes,
    "of bytes": lambda headers: dict(as_bytes(headers)),
    "in upper case": lambda headers: {name.upper(): value for name, value in headers.items()},
    "in pairs": lambda headers: iter(headers.items()),
    "of the standard library": lambda headers: email.message_from_string(
        "".join(f"{name}: {value}\n" for name, value in headers.items())
    ),
    "of Starlette": lambda headers: StarletteHeaders(raw=as_bytes(headers)),
    "of Werkzeug": WerkzeugHeaders,
    "of aiohttp": CIMultiDict,
    "with what is no text": lambda headers: headers | {"cookie": None, None: "x", 7: [], "accept": ["a", "b"]},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_headers_are_taken_as_frameworks_have_them(way):
    assert verify(way(headers_of()), BODY, secrets=[SECRET], now=NOW) == EVENT


@pytest.mark.parametrize("name", ["webhook-id", "Webhook-Timestamp", "WEBHOOK-SIGNATURE"])
def test_a_header_that_comes_twice_is_refused(name):
    """Proxies and frameworks disagree about which of them counts."""
    headers = headers_of()
    for value in (headers[name.lower()], "something else"):
        with pytest.raises(WebhookVerificationError, match=f"expected the header {name.lower()} once"):
            verify([*headers.items(), (name, value)], BODY, secrets=[SECRET], now=NOW)


@pytest.mark.parametrize("value", [None, 7, [], ["v1,"], {}, True])
@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_header_that_is_no_text_is_refused(name, value):
    with pytest.raises(WebhookVerificationError):
        verify(headers_of() | {name: value}, BODY, secrets=[SECRET], now=NOW)


@pytest.mark.parametrize("body", [BODY.decode(), json.loads(BODY), None])
def test_a_body_that_is_not_as_it_came_is_a_mistake_of_the_application(body):
    with pytest.raises(TypeError, match="body: expected the bytes as they came"):
        verify(headers_of(), body, secrets=[SECRET], now=NOW)


def test_the_right_signature_is_found_among_many():
    right = headers_of()["webhook-signature"]
    many = " ".join(
        ["v1a,c2lnbmF0dXJl", "v1," + "A" * 43 + "=", "v2," + right[3:], "nonsense", "", ",", "v1,"] * 20_000
    )
    for signatures in (f"{right} {many}", f"{many} {right}", f"  {right}  "):
        headers = headers_of() | {"webhook-signature": signatures}
        assert verify(headers, BODY, secrets=[OTHER_SECRET, SECRET], now=NOW) == EVENT
    for signatures in (many, right[3:], f"v1a{right[2:]}", right.upper(), f"{right},x", f"{right}=", right[:-1]):
        with pytest.raises(WebhookVerificationError, match="webhook-signature: expected one"):
            verify(headers_of() | {"webhook-signature": signatures}, BODY, secrets=[SECRET], now=NOW)


# The library of the standard


class Frozen(datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def judge(headers: dict[str, str], body: bytes) -> bool | None:
    """Whether the library says that it is genuine. None where it breaks."""
    try:
        Webhook(SECRET).verify(body, headers, json_parse=False)
    except standardwebhooks.WebhookVerificationError:
        return False
    except Exception:  # noqa: BLE001
        return None
    return True


def is_taken(headers: dict[str, str], body: bytes) -> bool:
    try:
        verify(headers, body, secrets=[SECRET], now=NOW)
    except WebhookVerificationError as error:
        return error.status == 400
    return True


@pytest.fixture
def _library_in_our_time(monkeypatch):
    monkeypatch.setattr(standardwebhooks.webhooks, "datetime", Frozen)


@pytest.mark.usefixtures("_library_in_our_time")
@given(
    event_id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    age_s=st.integers(-400, 400),
    body=st.text(st.characters(exclude_categories=["Cs"])) | st.just(BODY.decode()),
)
def test_what_the_library_signs_is_genuine_for_as_long_as_it_says(event_id, age_s, body):
    at = NOW - timedelta(seconds=age_s)
    headers = {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(event_id, at, body),
    }
    assert is_taken(headers, body.encode()) is judge(headers, body.encode()) is (abs(age_s) <= TOLERANCE_S)


GENUINE = headers_of(OTHER_KEY, KEY)
SPELLINGS = st.sampled_from(
    [
        *" ,.=+-_v1a0Aé\n\t\x00٣",
        "v1,",
        "v1a,",
        " v1,AAAA",
        "00",
        ".0",
        "e0",
        "v2,",
        *GENUINE["webhook-signature"].split(),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[dict[str, str], bytes]:
    """A genuine request with some changes, or one of the headers or of the body."""
    headers, body = dict(GENUINE), bytearray(BODY)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from([*headers, "body"]))
        if name == "body":
            body[draw(st.integers(0, len(body) - 1))] ^= 1 << draw(st.integers(0, 7))
            continue
        value = headers[name]
        at, length = draw(st.integers(0, len(value))), draw(st.integers(0, 3))
        headers[name] = value[:at] + draw(SPELLINGS | st.text(max_size=2)) + value[at + length :]
    return headers, bytes(body)


@pytest.mark.usefixtures("_library_in_our_time")
@settings(max_examples=500)
@given(request=mutated())
def test_what_the_library_refuses_is_refused_and_what_it_takes_is_taken_in_its_own_spelling(request):
    headers, body = request
    verdict, ours = judge(headers, body), is_taken(headers, body)
    # It breaks at what comes before the right signature, such as an entry without a comma, and takes what comes after.
    assert not (ours and verdict is False)
    timestamp, signatures = headers["webhook-timestamp"], headers["webhook-signature"].split(" ")
    if verdict and not ours:
        # It takes 1.7e9 and " 1_700_000_000" for numbers, and skips what is not of base64's alphabet.
        spelled = str(int(float(timestamp)))
        signature = Webhook(SECRET).sign(
            headers["webhook-id"], datetime.fromtimestamp(int(spelled), UTC), body.decode()
        )
        assert timestamp != spelled or signature not in signatures


TEXT = st.text(st.characters())
NAMES = st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "Webhook-Signature"])


VALUES = TEXT | st.binary() | st.none() | st.integers() | st.lists(TEXT)
PAIRS = st.lists(st.tuples(NAMES | NAMES.map(str.encode) | VALUES, st.sampled_from([*headers_of().values()]) | VALUES))


@given(headers=st.dictionaries(NAMES | TEXT, TEXT) | PAIRS, body=st.binary() | st.just(BODY))
@example(headers={"webhook-id": "\ud800", "webhook-timestamp": "\udcff", "webhook-signature": "v1,\ud800"}, body=BODY)
def test_whatever_comes_unsigned_is_refused_and_nothing_else(headers, body):
    with pytest.raises(WebhookVerificationError):
        verify(headers, body, secrets=[SECRET], now=NOW)


@given(event_id=TEXT.filter(bool), timestamp=TEXT.filter(bool) | st.integers().map(str), body=st.binary())
@example(event_id="\ud800", timestamp=str(int(NOW.timestamp())), body=BODY)
def test_whatever_is_signed_is_an_event_or_refused(event_id, timestamp, body):
    try:
        assert verify(sign(body, event_id=event_id, timestamp=timestamp), body, secrets=[SECRET], now=NOW) == EVENT
    except WebhookVerificationError:
        assert (timestamp, body) != (str(int(NOW.timestamp())), BODY)


@pytest.mark.parametrize("secrets", [[], ["whsec_"], ["whsec_c2hvcnQ="], [SECRET, ""], ["not base64"]])
def test_a_secret_that_cannot_be_one_is_a_mistake_of_the_application(secrets):
    with pytest.raises(ValueError) as raised:
        verify(headers_of(), BODY, secrets=secrets, now=NOW)
    assert "c2hvcnQ" not in str(raised.value)
