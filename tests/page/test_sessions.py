"""Who is signed in, by a cookie that no instance has to remember."""

import base64
from datetime import UTC, datetime, timedelta

import pytest

from media_callbacks.page.sessions import COOKIE, Sessions, is_name, set_cookie

NOW = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
NEW, OLD = "the-new-token-0123", "the-old-token-0123"


def sessions(*tokens: str, at: datetime = NOW) -> Sessions:
    return Sessions(tokens or (OLD,), lambda: at)


def begin(name: str = "kim", token: str = OLD) -> str:
    cookie = sessions(token).begin(token, name)
    assert cookie is not None
    return cookie


def read(cookie: str, *tokens: str, at: datetime = NOW) -> str | None:
    return sessions(*tokens, at=at).read([f"other=1; {COOKIE}={cookie}"])


@pytest.mark.parametrize("name", ["kim", "Kim Lee", "김", "a" * 100])
def test_the_cookie_says_who_it_is_on_every_instance(name):
    assert read(begin(name)) == name


def test_no_two_are_alike_and_the_token_is_in_none():
    assert begin() != begin()
    assert OLD.encode() not in base64.urlsafe_b64decode(begin())


@pytest.mark.parametrize("given", ["", OLD[:-1], OLD + "x", OLD.upper(), "\u00e9" * 20, "\x00"])
def test_another_token_opens_nothing(given):
    assert sessions().begin(given, "kim") is None


def test_it_ends_after_twelve_hours():
    assert read(begin(), at=NOW + timedelta(hours=11, minutes=59)) == "kim"
    assert read(begin(), at=NOW + timedelta(hours=12)) is None


def test_one_from_the_future_is_none():
    assert read(begin(), at=NOW - timedelta(hours=1)) is None


def test_it_ends_with_the_token_that_it_was_given_for():
    assert read(begin(), NEW, OLD) == "kim"
    assert read(begin(), NEW) is None


def test_every_bit_counts():
    raw = base64.urlsafe_b64decode(begin())
    for place in range(len(raw)):
        forged = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        assert read(base64.urlsafe_b64encode(forged).decode()) is None, place


def test_one_that_is_cut_or_prolonged_is_none():
    cookie = begin()
    for length in range(len(cookie)):
        assert read(cookie[:length]) is None
    assert read(cookie + "AAAA") is None
    assert read("A" * 5000) is None


@pytest.mark.parametrize("value", ["", "=", "\u00e9", "kim", "AAAA", '"', "a b", "\udcff"])
def test_what_is_no_cookie_of_ours_is_none(value):
    assert read(value) is None


def test_two_are_none():
    ours, other = begin("kim"), begin("eve")
    assert sessions().read([f"{COOKIE}={ours}; {COOKIE}={other}"]) is None
    assert sessions().read([f"{COOKIE}={ours}", f"{COOKIE}={ours}"]) is None
    assert sessions().read([f"{COOKIE}={ours}", "other=1"]) == "kim"


def test_a_browser_sends_it_to_the_page_alone():
    assert set_cookie("x", is_secure=True) == f"{COOKIE}=x; Path=/ui; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"
    assert set_cookie("", is_secure=False) == f"{COOKIE}=; Path=/ui; Max-Age=0; HttpOnly; SameSite=Strict"


@pytest.mark.parametrize(
    ("name", "is_one"), [("kim", True), ("", False), ("a" * 101, False), ("a\u202eb", False), ("a\nb", False)]
)
def test_names_are_what_can_be_read(name, is_one):
    assert is_name(name) is is_one
