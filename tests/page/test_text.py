"""How values are written into the page, and drawn."""

from datetime import UTC, datetime, timedelta

import pytest

from media_callbacks.admin.models.answers import Activity, ActivityItem, TimesItem
from media_callbacks.page import plots
from media_callbacks.page.text import address, ago, cut, field, finalize, long, seconds, size, url, visible

NOW = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\u4f60\u597d, \u00e9\u0301", "\u4f60\u597d, \u00e9\u0301"),
        ("a\u202eb", "a\u27e8U+202E\u27e9b"),
        ("\x00\x1b\x7f", "\u27e8U+0000\u27e9\u27e8U+001B\u27e9\u27e8U+007F\u27e9"),
        ("\u200b\ufeff\u2028", "\u27e8U+200B\u27e9\u27e8U+FEFF\u27e9\u27e8U+2028\u27e9"),
        ("\ud800", "\u27e8U+D800\u27e9"),
        ("\U000e0041", "\u27e8U+E0041\u27e9"),
        ("a\nb", "a\u27e8U+000A\u27e9b"),
    ],
)
def test_what_is_not_seen_is_shown_by_its_number(text, shown):
    assert visible(text) == shown


def test_lines_stay_where_all_is_shown():
    assert long("<b>\n\tx\r") == "&lt;b&gt;\n\tx\u27e8U+000D\u27e9"


def test_what_is_cut_says_how_long_it_was():
    assert cut("x" * 10, 10) == "x" * 10
    assert cut("x" * 1234, 10) == "x" * 10 + "\u2026 (1,234 characters)"
    assert len(long("x" * 10_000_000)) < 70_000
    assert len(field("x" * 10_000_000)) == 4096


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (1234567, "1,234,567"), (0.25, "0.25 s"), ("a\x07", "a\u27e8U+0007\u27e9")]
)
def test_values_are_written_for_people(value, shown):
    assert finalize(value) == shown


@pytest.mark.parametrize(
    ("duration_s", "said"),
    [(0, "0 s"), (0.0214, "0.021 s"), (4.25, "4.25 s"), (108, "1 min 48 s"), (600, "10 min"), (400_000, "4 d 15 h")],
)
def test_times_are_said_as_the_command_says_them(duration_s, said):
    assert seconds(duration_s) == said


def test_moments_and_sizes():
    assert finalize(NOW) == '<time datetime="2026-11-21T04:00:00.000Z">2026-11-21 04:00:00</time>'
    assert ago(NOW - timedelta(minutes=3), NOW) == "3 min ago"
    assert (ago(None, NOW), size(None), size(999), size(2_500_000_000)) == ("-", "-", "999 bytes", "2.5 GB")


def test_an_address_has_only_what_was_meant():
    assert address("sinks", "a/b?c", state=None, q="", x="&=") == "/ui/sinks/a%2Fb%3Fc?x=%26%3D"
    assert url("events", q='"', page="<") == "/ui/events?q=%22&amp;page=%3C"


def test_plots_have_what_was_counted():
    counts = [
        ActivityItem(at=NOW - timedelta(minutes=1), what="received", name="vod", count=5),
        ActivityItem(at=NOW - timedelta(minutes=1), what="received", name="ims", count=7),
        ActivityItem(at=NOW - timedelta(hours=3), what="received", name="vod", count=100),
        ActivityItem(at=NOW - timedelta(hours=25), what="received", name="vod", count=1000),
    ]
    times = [TimesItem(at=NOW, callback_s=value, delivery_s=None) for value in (None, 30.0, 90.0, 60.0)]
    activity = Activity(
        since=NOW - timedelta(days=1), until=NOW, counts=tuple(counts), hour=tuple(times), day=tuple(times)
    )
    received, refused, delivered, callback, delivery = plots.rows(activity)
    assert (received.name, received.hour.figure, received.day.figure) == ("received", "12", "112")
    assert received.hour.told == "last hour: 12, at most 12 a minute"
    assert received.day.path.count("M") == 2
    assert (refused.hour.figure, refused.hour.path, delivered.day.figure) == ("0", "", "0")
    assert (callback.hour.figure, callback.hour.told) == ("1 min", "last hour: 1 min, at most 1 min 30 s")
    assert (delivery.day.figure, delivery.day.path) == ("-", "")
