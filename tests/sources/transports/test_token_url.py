import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media_callbacks.model.errors import ExpiredToken, Rejected, UnknownToken
from media_callbacks.sources.base import Callback
from media_callbacks.sources.products import multimediaai
from media_callbacks.sources.transports.token_url import TokenUrlSource
from media_callbacks.sources.transports.url_tokens import UrlToken, bind_task, mint_token, read_token

# A fixed example of this token format: multimediaai has none of its own.
KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))
EXPIRES_AT = 1767322800
NONCE = bytes.fromhex("000102030405060708090a0b")
APPLICATION, VIDEO_URL, VIDEO_NAME = "d79cca0e686843e9", "https://media.example.com/in/2278518_74.mp4", "2278518_74.mp4"
BIND = bytes.fromhex("f6ec4457336be573006161b8d364b99a")
TOKEN = "AQdpVzSwAAECAwQFBgcICQoL9uxEVzNr5XMAYWG402S5mpa1FHJAZjtOTvLUsGoVzDM"
NOW = datetime.fromtimestamp(EXPIRES_AT - 60, UTC)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def source(keys=None, minting_key_id=7):
    return TokenUrlSource(
        name="gif",
        product="multimediaai",
        account="default",
        path="/callbacks/gif",
        url="https://cb.example.com/callbacks/gif",
        keys={7: KEY} if keys is None else keys,
        minting_key_id=minting_key_id,
        parser=multimediaai.parse,
    )


def call(token, *, method="POST", query=b"", body=b""):
    path = b"/callbacks/gif/" + (token.encode() if isinstance(token, str) else token)
    return Callback(method, path, query, [], body)


def verify(callback, *, now=NOW, **settings):
    return source(**settings).verify(callback, now=now, public_key=None)


def test_the_vector():
    assert bind_task(APPLICATION, VIDEO_URL, VIDEO_NAME) == BIND
    assert mint_token(UrlToken(7, EXPIRES_AT, NONCE, BIND), KEY) == TOKEN
    assert read_token(TOKEN.encode(), {7: KEY}, now=NOW) == UrlToken(7, EXPIRES_AT, NONCE, BIND)


def test_the_vector_by_hand():
    body = bytes.fromhex("0107695734b0000102030405060708090a0bf6ec4457336be573006161b8d364b99a")
    mac = hmac.digest(KEY, b"mmai-callback\0" + body, hashlib.sha256)[:16]
    assert mac.hex() == "96b5147240663b4e4ef2d4b06a15cc33"
    assert base64.urlsafe_b64encode(body + mac).decode() == TOKEN + "="


def test_minted_urls():
    url = source().mint(
        application_id=APPLICATION, video_url=VIDEO_URL, video_name=VIDEO_NAME, nonce=NONCE, expires_at=EXPIRES_AT
    )
    assert url == f"https://cb.example.com/callbacks/gif/{TOKEN}"


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
def test_a_genuine_call(method):
    message = verify(call(TOKEN, method=method, query=b"TaskId=5", body=b"{}"))
    assert method in source().methods
    assert (message.body, message.payload, message.verified_by) == (b"{}", b"{}", "token")
    assert message.meta == {"nonce": NONCE.hex(), "bind": BIND.hex(), "query": "TaskId=5"}
    assert TOKEN not in repr(message)


def test_what_a_message_keeps_of_a_query():
    assert "query" not in verify(call(TOKEN)).meta
    meta = verify(call(TOKEN, query=b"a=\xff&" + b"x" * 10_000)).meta
    assert meta["query"].startswith("a=\ufffd&")
    assert len(meta["query"]) == 8192


def test_the_event_of_a_minted_url_is_about_its_nonce():
    gif_source = source()
    (completion,) = gif_source.parse(verify(call(TOKEN))).completions
    assert completion.id == (NONCE.hex(),)
    assert completion.subject == "000102030405060708090a0b"
    assert gif_source.certificate_url(call(TOKEN)) is None


def test_rotation():
    """The first key mints, all verify, a dropped one does not."""
    rotating = {8: OTHER_KEY, 7: KEY}
    assert verify(call(TOKEN), keys=rotating).verified_by == "token"
    url = source(rotating, 8).mint(
        application_id="a", video_url="b", video_name="c", nonce=NONCE, expires_at=EXPIRES_AT
    )
    newer = url.rpartition("/")[2]
    assert verify(call(newer), keys=rotating).verified_by == "token"
    with pytest.raises(UnknownToken, match="no key with id 8"):
        verify(call(newer))
    with pytest.raises(UnknownToken, match="not made with the configured key"):
        verify(call(TOKEN), keys={7: OTHER_KEY})


def test_a_token_lives_to_the_second_it_names():
    assert verify(call(TOKEN), now=datetime.fromtimestamp(EXPIRES_AT, UTC)).verified_by == "token"
    with pytest.raises(ExpiredToken) as caught:
        verify(call(TOKEN), now=datetime.fromtimestamp(EXPIRES_AT + 90, UTC))
    assert caught.value.age_s == 90
    assert (caught.value.status, caught.value.reason) == (404, "expired_token")
    assert TOKEN not in str(caught.value)


def test_expiry_is_told_only_of_genuine_tokens():
    with pytest.raises(UnknownToken):
        verify(call(TOKEN), keys={7: OTHER_KEY}, now=datetime.fromtimestamp(EXPIRES_AT + 90, UTC))


def decode(token):
    return base64.urlsafe_b64decode(token + "=")


def encode(raw):
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def test_every_flipped_bit_is_refused():
    for bit in range(8 * len(decode(TOKEN))):
        raw = bytearray(decode(TOKEN))
        raw[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UnknownToken) as caught:
            verify(call(encode(bytes(raw))))
        assert (caught.value.status, caught.value.reason) == (404, "unknown_token"), bit


def test_the_key_id_is_part_of_what_is_proven():
    raw = bytearray(decode(TOKEN))
    raw[1] = 8
    with pytest.raises(UnknownToken, match="not made with"):
        verify(call(encode(bytes(raw))), keys={7: KEY, 8: OTHER_KEY})


def test_another_version_is_refused_even_when_rightly_signed():
    body = b"\x02" + decode(TOKEN)[1:34]
    mac = hmac.digest(KEY, b"mmai-callback\0" + body, "sha256")[:16]
    with pytest.raises(UnknownToken, match="version 1, found 2"):
        verify(call(encode(body + mac)))


def same_bytes_in_other_letters():
    last = ALPHABET.index(TOKEN[-1])
    return [TOKEN[:-1] + ALPHABET[last ^ spare] for spare in (1, 2, 3)]


@pytest.mark.parametrize(
    "token",
    [
        *same_bytes_in_other_letters(),
        TOKEN + "=",
        TOKEN + "==",
        TOKEN[:-1] + "=",
        TOKEN[:-2] + "==",
        TOKEN[:30] + "\n" + TOKEN[30:-1],
        TOKEN[:30] + " " + TOKEN[31:],
        TOKEN[:30] + "%" + TOKEN[31:],
        "%41" + TOKEN[1:],
        TOKEN[:-1],
        TOKEN + "A",
        "",
        "=" * 67,
        "é" * 33 + "a",
        b"\xff" * 67,
    ],
)
def test_other_spellings_are_refused(token):
    with pytest.raises(UnknownToken):
        verify(call(token))


def test_the_usual_base64_alphabet_is_another_spelling():
    token = next(
        token
        for nonce in range(1000)
        if {"-", "_"} <= set(token := mint_token(UrlToken(7, EXPIRES_AT, nonce.to_bytes(12, "big"), BIND), KEY))
    )
    assert verify(call(token)).verified_by == "token"
    for spelling in (
        token.replace("-", "+"),
        token.replace("_", "+"),
        token.replace("-", "/"),
        token.replace("_", "/"),
    ):
        with pytest.raises(UnknownToken):
            source().verify(Callback("POST", spelling.encode(), b"", [], b""), now=NOW, public_key=None)


@pytest.mark.parametrize(
    "token",
    [
        UrlToken(7, EXPIRES_AT, NONCE[:-1], BIND),
        UrlToken(7, EXPIRES_AT, NONCE + b"x", BIND),
        UrlToken(7, EXPIRES_AT, NONCE, BIND[:-1]),
        UrlToken(256, EXPIRES_AT, NONCE, BIND),
        UrlToken(-1, EXPIRES_AT, NONCE, BIND),
        UrlToken(7, 2**32, NONCE, BIND),
        UrlToken(7, -1, NONCE, BIND),
    ],
)
def test_parts_that_do_not_fit_are_not_minted(token):
    with pytest.raises(ValueError):
        mint_token(token, KEY)


@pytest.mark.parametrize(
    "change", [("a", VIDEO_URL, VIDEO_NAME), (APPLICATION, "b", VIDEO_NAME), (APPLICATION, VIDEO_URL, "c")]
)
def test_a_token_names_its_task(change):
    assert bind_task(*change) != BIND


# Properties


@given(
    key_id=st.integers(0, 255),
    key=st.binary(min_size=32, max_size=64),
    expires_at=st.integers(0, 2**32 - 1),
    nonce=st.binary(min_size=12, max_size=12),
    bind=st.binary(min_size=16, max_size=16),
)
@settings(max_examples=200, deadline=None)
def test_what_was_minted_is_read_back(key_id, key, expires_at, nonce, bind):
    token = UrlToken(key_id, expires_at, nonce, bind)
    text = mint_token(token, key)
    assert len(text) == 67
    assert set(text) <= set(ALPHABET)
    assert read_token(text.encode(), {key_id: key}, now=datetime.fromtimestamp(expires_at, UTC)) == token


@given(st.binary(max_size=80) | st.text(ALPHABET, min_size=67, max_size=67).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_other_text_is_refused(text):
    with pytest.raises(Rejected) as caught:
        read_token(text, {7: KEY, 0: OTHER_KEY}, now=NOW)
    assert caught.value.status == 404


@given(place=st.integers(0, 66), letter=st.sampled_from(ALPHABET))
@settings(max_examples=300, deadline=None)
def test_any_changed_letter_is_refused(place, letter):
    changed = TOKEN[:place] + letter + TOKEN[place + 1 :]
    if changed != TOKEN:
        with pytest.raises(UnknownToken):
            read_token(changed.encode(), {7: KEY}, now=NOW)
