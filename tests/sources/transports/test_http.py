import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.model.errors import BadSignature, MalformedCallback, Rejected, StaleTimestamp
from media_callbacks.sources.base import Callback, Message
from media_callbacks.sources.products import ims, vod
from media_callbacks.sources.transports.http import HttpSource, sign

URL = "https://www.example.com/your/callback"
SENT_AT = 1519375990
KEY = "test123"
NOW = datetime.fromtimestamp(SENT_AT, UTC)
BODY = b'{"EventType":"FileUploadComplete","VideoId":"v"}'


def source(product="vod", *, urls=(URL,), keys=(KEY,), max_age_s=300):
    parser = {"vod": vod.parse, "ims": ims.parse}[product]
    return HttpSource(
        name="src",
        product=product,
        account="default",
        path="/callbacks/vod",
        urls=urls,
        keys=keys,
        max_age_s=max_age_s,
        parser=parser,
    )


def request(headers, body=BODY):
    return Callback("POST", b"/callbacks/vod", b"", headers, body)


def signed(timestamp=str(SENT_AT), signature=None, *, url=URL, key=KEY, prefix="x-vod-", body=BODY):
    signature = sign(url, timestamp, key) if signature is None else signature
    headers = [(f"{prefix}timestamp".encode(), timestamp.encode()), (f"{prefix}signature".encode(), signature.encode())]
    return request([(b"host", b"balancer.internal"), *headers], body)


def verify(callback, *, now=NOW, **settings):
    return source(**settings).verify(callback, now=now, public_key=None)


# The first is the vendor's documented example, recomputed with all 32 digits. Newer pages, IMS's among them, print key
# Test123 beside the digest of test123; the second is what that key really gives.
VECTORS = {
    "documented": (URL, "1519375990", "test123", "c72b60894140fa98920f1279219b7ed4"),
    "newer-page": (URL, "1519375990", "Test123", "c587b80d2d0ede300e8967937da7219b"),
    "http": ("http://www.example.com/your/callback", "1519375990", "test123", "2c898f48d514b6b4353b3500d55b511c"),
    "slash": (URL + "/", "1519375990", "test123", "a8bb1a13ce9a40707ddeb74bd8b5e1a7"),
    "port": (
        "https://www.example.com:443/your/callback",
        "1519375990",
        "test123",
        "26a7d2b24141cd9fcc6f823832af9fc2",
    ),
    "query": (URL + "?env=prod&src=vod", "1519375990", "test123", "ab6fdfc1bdc447358eaf18efb22704b7"),
    "rotated": (URL, "1519375990", "Dsf346dvet", "227a6d17c554060a188706a5d7d51561"),
    "ims": ("https://callbacks.example.com/v1/ims", "1767322800", "TestKey001", "186c7b859bf062bb75eee29f844293bd"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name):
    url, timestamp, key, signature = VECTORS[name]
    assert sign(url, timestamp, key) == signature
    callback = signed(timestamp, signature)
    now = datetime.fromtimestamp(int(timestamp), UTC)
    assert verify(callback, urls=(url,), keys=(key,), now=now).verified_by == "signature"


@pytest.mark.parametrize("product, prefix", [("vod", "x-vod-"), ("ims", "x-ice-")])
def test_each_product_has_its_headers(product, prefix):
    message = verify(signed(prefix=prefix), product=product)
    assert message == Message(BODY, BODY, "signature", key=0)


@pytest.mark.parametrize("product, prefix", [("vod", "x-ice-"), ("ims", "x-vod-")])
def test_the_headers_of_the_other_product_are_no_signature(product, prefix):
    with pytest.raises(BadSignature) as caught:
        verify(signed(prefix=prefix), product=product)
    assert caught.value.reason == "signature_missing"


@pytest.mark.parametrize("url", ["https://one.example.com/", "https://two.example.com/?q=1"])
@pytest.mark.parametrize("key", ["old-key", "new-key"])
def test_any_url_with_any_key_verifies(url, key):
    urls, keys = ("https://one.example.com/", "https://two.example.com/?q=1"), ("new-key", "old-key")
    message = verify(signed(url=url, key=key), urls=urls, keys=keys)
    assert message.verified_by == "signature"
    assert message.key == keys.index(key)


def test_a_key_that_was_dropped_verifies_no_more():
    with pytest.raises(BadSignature):
        verify(signed(key="old-key"), keys=("new-key",))


def test_the_digest_may_come_in_capitals():
    assert verify(signed(signature=sign(URL, str(SENT_AT), KEY).upper())).verified_by == "signature"


def test_the_timestamp_is_signed_as_it_is_written():
    """Leading zeros are part of the signed text, though not of the number."""
    assert verify(signed(f"00{SENT_AT}")).verified_by == "signature"
    with pytest.raises(BadSignature):
        verify(signed(f"00{SENT_AT}", sign(URL, str(SENT_AT), KEY)))


GOOD = sign(URL, str(SENT_AT), KEY)


@pytest.mark.parametrize(
    "timestamp, signature, reason",
    [
        (None, GOOD, "signature_missing"),
        (str(SENT_AT), None, "signature_missing"),
        (None, None, "signature_missing"),
        ("", GOOD, "signature_malformed"),
        ("-1519375990", GOOD, "signature_malformed"),
        ("1519375990.0", GOOD, "signature_malformed"),
        ("1519375990\n", GOOD, "signature_malformed"),
        ("1" * 13, GOOD, "signature_malformed"),
        ("١٥١٩٣٧٥٩٩٠", GOOD, "signature_malformed"),
        (str(SENT_AT), "", "signature_malformed"),
        (str(SENT_AT), GOOD[:-1], "signature_malformed"),
        (str(SENT_AT), GOOD + "0", "signature_malformed"),
        (str(SENT_AT), GOOD + "\n", "signature_malformed"),
        (str(SENT_AT), "g" * 32, "signature_malformed"),
        (str(SENT_AT), "é" * 16, "signature_malformed"),
        (str(SENT_AT), "\xff" * 32, "signature_malformed"),
        (str(SENT_AT), "0" * 32, "signature_mismatch"),
        (str(SENT_AT + 1), GOOD, "signature_mismatch"),
        (str(SENT_AT), VECTORS["http"][3], "signature_mismatch"),
        (str(SENT_AT), VECTORS["slash"][3], "signature_mismatch"),
        (str(SENT_AT), VECTORS["port"][3], "signature_mismatch"),
        (str(SENT_AT), VECTORS["query"][3], "signature_mismatch"),
        (str(SENT_AT), hashlib.md5(f"{URL}|{SENT_AT}|{KEY}\n".encode()).hexdigest(), "signature_mismatch"),
        (str(SENT_AT), "9be6123e72b935804d3daf3d93335a65", "signature_mismatch"),
    ],
)
def test_refused(timestamp, signature, reason):
    pairs = [(b"x-vod-timestamp", timestamp), (b"x-vod-signature", signature)]
    headers = [(name, value.encode()) for name, value in pairs if value is not None]
    with pytest.raises(BadSignature) as caught:
        verify(request(headers))
    assert (caught.value.reason, caught.value.status) == (reason, 403)
    if signature:
        assert signature not in str(caught.value)


@pytest.mark.parametrize("name", [b"x-vod-timestamp", b"x-vod-signature"])
def test_a_doubled_header_is_malformed_even_with_the_same_value(name):
    callback = signed()
    value = dict(callback.headers)[name]
    with pytest.raises(MalformedCallback) as caught:
        verify(request([*callback.headers, (name, value)]))
    assert (caught.value.reason, caught.value.status) == ("doubled_header", 400)


@pytest.mark.parametrize("age_s", [-300, -1, 0, 1, 300])
def test_fresh(age_s):
    assert verify(signed(), now=datetime.fromtimestamp(SENT_AT + age_s, UTC)).verified_by == "signature"


@pytest.mark.parametrize("age_s", [-86_400, -301, -300.5, 300.5, 301, 86_400])
def test_stale_both_ways_with_its_age(age_s):
    with pytest.raises(StaleTimestamp) as caught:
        verify(signed(), now=datetime.fromtimestamp(SENT_AT + age_s, UTC))
    assert caught.value.age_s == age_s
    assert (caught.value.reason, caught.value.status) == ("stale", 403)


def test_the_age_limit_is_configured():
    late = datetime.fromtimestamp(SENT_AT + 301, UTC)
    assert verify(signed(), now=late, max_age_s=301).verified_by == "signature"


def test_a_wrong_signature_is_not_called_stale():
    """Only who knows the key is told about clocks."""
    with pytest.raises(BadSignature):
        verify(signed(signature="0" * 32), now=datetime.fromtimestamp(SENT_AT + 9999, UTC))


def test_the_body_is_not_signed():
    assert verify(signed(body=b"anything \xff")).payload == b"anything \xff"


def test_an_unsigned_source_takes_what_comes_and_says_so():
    assert verify(request([]), keys=()) == Message(BODY, BODY, "none")
    assert verify(signed(signature="0" * 32), keys=()).verified_by == "none"


def test_it_needs_no_certificate_and_parses_with_its_product():
    callback = signed()
    (completion,) = source().parse(verify(callback)).completions
    assert source().certificate_url(callback) is None
    assert completion.vendor_event == "FileUploadComplete"
    assert (source().methods, source().success_status) == ({"POST"}, 200)


def test_the_refusal_names_neither_key_nor_url():
    with pytest.raises(BadSignature) as caught:
        verify(signed(key="wrong-key"))
    assert KEY not in str(caught.value)
    assert URL not in str(caught.value)


# Properties

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(url=TEXT, key=TEXT, sent_at=st.integers(0, 10**10), body=st.binary(max_size=20))
@settings(max_examples=200, deadline=None)
def test_what_was_signed_verifies(url, key, sent_at, body):
    callback = signed(str(sent_at), url=url, key=key, body=body)
    now = datetime.fromtimestamp(sent_at, UTC)
    assert verify(callback, urls=(url,), keys=(key,), now=now).body == body


@given(part=st.sampled_from(["url", "key", "timestamp", "signature"]), data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_changed_character_is_refused(part, data):
    parts = {"url": URL, "key": KEY, "timestamp": str(SENT_AT), "signature": GOOD}
    value = parts[part]
    place = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(
        st.characters(min_codepoint=32, max_codepoint=126).filter(lambda c: c.lower() != value[place].lower())
    )
    parts[part] = value[:place] + other + value[place + 1 :]
    with pytest.raises(BadSignature):
        verify(signed(parts["timestamp"], parts["signature"]), urls=(parts["url"],), keys=(parts["key"],))


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([b"x-vod-timestamp", b"x-vod-signature", b"x-ice-signature", b"host"]),
            st.binary(max_size=40) | st.just(GOOD.encode()) | st.just(str(SENT_AT).encode()),
        ),
        max_size=4,
    ),
    now=st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC)),
)
@settings(max_examples=300, deadline=None)
def test_any_headers_are_accepted_or_refused(headers, now):
    try:
        status = None
        assert verify(request(headers), now=now).verified_by == "signature"
    except Rejected as refusal:
        status = refusal.status
    assert status in (None, 400, 403)
    assert status or abs(now.timestamp() - SENT_AT) <= 300
