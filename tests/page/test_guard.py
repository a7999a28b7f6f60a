"""Whose requests are let in, and what every answer carries."""

from pathlib import Path
from typing import Any

import pytest

from media_callbacks.page.guard import POLICY
from tests.page.visiting import TOKEN, visiting

NAMES: dict[str, Any] = {"hosts": ["media-ops.example.com", "[fd00::1]"], "host": "10.0.0.7", "port": 8081}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8081",
        "localhost:1",
        "[::1]:8081",
        "10.0.0.7:8081",
        "media-ops.example.com",
        "MEDIA-OPS.example.com:443",
        "[fd00::1]:8081",
    ],
)
async def test_it_is_reached_by_the_names_that_it_has(tmp_path: Path, host):
    async with visiting(tmp_path, **NAMES) as visitor:
        await visitor.look("/ui/", host=host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "media-ops.example.com.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.8",
        "localhost:1:2",
        "fd00::1",
        "[::1",
    ],
)
async def test_another_name_is_refused(tmp_path: Path, host):
    async with visiting(tmp_path, **NAMES) as visitor:
        answer = await visitor.ask("GET", "/ui/", host=host)
        assert answer.status_code == 403
        assert "admin.hosts" in answer.text


async def test_whoever_listens_on_all_addresses_is_not_reached_by_that_name(tmp_path: Path):
    async with visiting(tmp_path, host="0.0.0.0", port=8081) as visitor:
        assert (await visitor.ask("GET", "/ui/", host="0.0.0.0:8081")).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "unheard-of"])
async def test_other_sites_are_refused(tmp_path: Path, site):
    async with visiting(tmp_path) as visitor:
        looked = await visitor.ask("GET", "/ui/events?state=dead&kind=x%22%3E", headers={"sec-fetch-site": site})
        assert looked.status_code == 403
        # Whoever was sent a link can follow it from a page of ours.
        assert 'href="/ui/events?state=dead&amp;kind=x%22%3E"' in looked.text
        ordered = await visitor.order("/ui/sinks/orders/pause", headers={"sec-fetch-site": site})
        assert ordered.status_code == 403
        assert not await visitor.operators.inbox.list_sinks()


async def test_of_two_words_about_the_site_the_worse_counts(tmp_path: Path):
    async with visiting(tmp_path) as visitor:
        both = [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")]
        assert (await visitor.order("/ui/sinks/orders/pause", headers=both)).status_code == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8081", 303),
        ("https://127.0.0.1:8081", 303),
        ("http://127.0.0.1", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("file://127.0.0.1:8081", 403),
        ("http://127.0.0.1:8081.evil.example", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
async def test_where_browsers_do_not_tell_the_site_the_origin_decides(tmp_path: Path, origin, status):
    async with visiting(tmp_path) as visitor:
        answer = await visitor.order("/ui/sinks/orders/pause", headers={"origin": origin})
        assert answer.status_code == status


async def test_an_order_of_which_neither_is_told_is_refused(tmp_path: Path):
    async with visiting(tmp_path) as visitor:
        headers = [("origin", "http://127.0.0.1:8081"), ("origin", "http://evil.example")]
        assert (await visitor.order("/ui/sinks/orders/pause", headers=headers)).status_code == 403
        assert (await visitor.order("/ui/sinks/orders/pause", headers=[("origin", "")])).status_code == 403


@pytest.mark.parametrize("query", [f"token={TOKEN}", "access_token=x", "Admin-Token=x", f"q={TOKEN}", "API_KEY="])
@pytest.mark.parametrize("path", ["/ui/", "/ui/sign-in", "/ui/nothing"])
async def test_a_token_in_an_address_is_refused(tmp_path: Path, path, query):
    async with visiting(tmp_path) as visitor:
        answer = await visitor.ask("GET", f"{path}?{query}")
        assert answer.status_code == 400
        assert "histories and logs" in answer.text
        assert TOKEN not in answer.text


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/ui/", 200),
        ("HEAD", "/ui/", 200),
        ("GET", "/ui", 303),
        ("GET", "/ui/sign-in", 303),
        ("GET", "/ui/nothing", 404),
        ("GET", "/ui//", 404),
        ("GET", "/ui/events/evt_x", 404),
        ("GET", "/ui/events?limit=x", 400),
        ("GET", "/ui/events?kind=x&kind=y", 400),
        ("DELETE", "/ui/", 403),
        ("POST", "/ui/replays", 415),
        ("POST", "/ui/sign-out", 303),
    ],
)
async def test_every_answer_says_what_a_browser_may_do_with_it(tmp_path: Path, method, target, status):
    async with visiting(tmp_path) as visitor:
        answer = await visitor.ask(method, target)
        assert answer.status_code == status, answer.text
        assert answer.headers.get_list("content-security-policy") == [POLICY]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


async def test_nothing_is_inline_and_nothing_is_of_others(tmp_path: Path):
    async with visiting(tmp_path) as visitor:
        text = await visitor.look("/ui/")
        for word in ("<style", "style=", "onclick", "javascript:", "http://", "https://", "<base"):
            assert word not in text, word
        assert "<script src=" in text
        assert text.count("<script") == 1


async def test_what_does_not_change_is_kept_by_browsers_under_its_name(tmp_path: Path):
    async with visiting(tmp_path) as visitor:
        text = await visitor.look("/ui/")
        for suffix, media_type in (("css", "text/css"), ("js", "text/javascript"), ("svg", "image/svg+xml")):
            (name,) = {
                word.split('"')[0] for word in text.split("/ui/static/")[1:] if word.split('"')[0].endswith(suffix)
            }
            answer = await visitor.ask("GET", f"/ui/static/{name}")
            assert answer.headers["content-type"].startswith(media_type)
            assert "immutable" in answer.headers["cache-control"]


# Without a token


async def test_without_a_token_this_machine_is_let_in_and_orders_by_the_page(tmp_path: Path):
    async with visiting(tmp_path, token=None) as visitor:
        assert "Sign out" not in await visitor.look("/ui/")
        assert (await visitor.order("/ui/sinks/orders/pause")).status_code == 303
        (sink,) = await visitor.operators.inbox.list_sinks()
        assert (sink.state, sink.changed_by) == ("paused", "page")


@pytest.mark.parametrize("header", ["x-forwarded-for", "via", "forwarded"])
async def test_without_a_token_nobody_behind_a_proxy_is_let_in(tmp_path: Path, header):
    async with visiting(tmp_path, token=None) as visitor:
        answer = await visitor.ask("GET", "/ui/", headers={header: "x"})
        assert answer.status_code == 403
        assert "admin.token" in answer.text


async def test_without_a_token_nobody_from_elsewhere_is_let_in(tmp_path: Path):
    async with visiting(tmp_path, token=None, hosts=["ops.example"]) as visitor:
        assert (await visitor.ask("GET", "/ui/", host="ops.example")).status_code == 403
        visitor.client = ("192.168.1.7", 50_000)
        assert (await visitor.ask("GET", "/ui/")).status_code == 403
