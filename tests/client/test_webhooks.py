"""What applications verify webhooks with, against what the service signs and what the standard's own library signs."""

import base64
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from media_callbacks.client.webhooks import TOLERANCE_S, WebhookVerificationError, verify
from media_callbacks.model.events import Delivery
from media_callbacks.sinks.webhook import build_request
from tests.inbox.conformance import make_event

KEY, OTHER_KEY = b"the secret of the orders", b"a secret that nobody has"
SECRET, OTHER_SECRET = ("whsec_" + base64.b64encode(key).decode() for key in (KEY, OTHER_KEY))
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
EVENT = make_event(user_data="Bestellung 7 – ¥")
BODY = EVENT.to_json()


def headers_of(*keys: bytes, body: bytes = BODY, at: datetime = NOW) -> dict[str, str]:
    """As the sink sends them."""
    return build_request(Delivery(1, "orders", EVENT.id, body, 1, ""), keys or [KEY], int(at.timestamp()))


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
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("age_s", [-TOLERANCE_S, TOLERANCE_S])
def test_clocks_may_differ_as_far_as_is_tolerated(age_s):
    headers = headers_of(at=NOW - timedelta(seconds=age_s))
    assert verify(headers, BODY, secrets=[SECRET], now=NOW) == EVENT
    with pytest.raises(WebhookVerificationError):
        verify(headers, BODY, secrets=[SECRET], now=NOW, tolerance_s=TOLERANCE_S - 1)


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"{}", b"[" * 100_000, b"9" * 5000, BODY.replace(b"animated_image", b"hologram")]
)
def test_what_is_signed_and_no_event_is_refused(body):
    with pytest.raises(WebhookVerificationError, match="expected an event") as raised:
        verify(sign(body), body, secrets=[SECRET], now=NOW)
    assert raised.value.__cause__ is not None


@given(position=st.integers(0, len(BODY) * 8 - 1))
def test_a_flipped_bit_is_refused(position):
    body = bytearray(BODY)
    body[position // 8] ^= 1 << position % 8
    with pytest.raises(WebhookVerificationError, match="webhook-signature"):
        verify(headers_of(), bytes(body), secrets=[SECRET], now=NOW)


TEXT = st.text(st.characters())
NAMES = st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "Webhook-Signature"])


@given(headers=st.dictionaries(NAMES | TEXT, TEXT), body=st.binary() | st.just(BODY))
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
